r"""Choose which specialist acts when, from results on patients that are not of a test.

    python benchmarks/robustness.py --policies conformal ppo hybrid mllm_grpo --patients standard/calibration \
        --shifts polarity:3 --out runs/specialists
    python training/specialists.py runs/specialists/episodes.jsonl --json runs/specialists.json
    python training/specialists.py runs/specialists/episodes.jsonl --write

For each region of targets, and for inverted X-rays (the shift ``polarity``), the specialist with the highest success is
chosen. Another one than ``--default`` is chosen only if its success is higher by more than ``--margin``: a smaller lead
on some dozens of episodes is chance. ``--write`` writes the choice into the model cards (``findings``); train the
router again afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.results import EpisodeResult, read_results
from carm_env.patients.separation import check_trainable
from carm_env.system.command_line import run_script
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import write_text
from carm_env.system.structured_files import dump_yaml
from policies.routing.cards import CARDS, card_values, read_card_files, read_repository
from policies.routing.made_images import FRONTAL, INVERTED, REGIONS, region_of

_POLARITY = "polarity"


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        results: files of results, of one run of benchmarks/leaderboard.py or benchmarks/robustness.py or several.
        default: specialist that is chosen unless another one is clearly better.
        margin: smallest lead in success, 0 to 1, of another specialist.
        cards: folder of the model cards.
        write: write the choice into the cards.
        json: file for the results.
    """

    results: Positional[tuple[Path, ...]]
    default: str = "conformal"
    margin: float = 0.05
    cards: Path = CARDS
    write: bool = False
    json: Path | None = None


def finding_of(result: EpisodeResult) -> str:
    """Returns the finding that an episode tells something about: the region of its target, or inverted X-rays."""
    return INVERTED if _POLARITY in result.suite else region_of(result.target)


def successes(results: Sequence[EpisodeResult]) -> dict[str, dict[str, Any]]:
    """Returns the success of each policy for each finding, with its interval by patient.

    Raises:
        ValueError: there is no result.
        HeldOutPatientError: a result is of a test patient: the choice would make the tests of the router worthless.
    """
    if not results:
        raise ValueError("there are no results, expected those of at least one policy.")
    check_trainable({result.patient for result in results}, "the results of the choice")
    found: dict[str, dict[str, Any]] = {}
    for finding in (*REGIONS, INVERTED):
        for policy in dict.fromkeys(result.policy for result in results):
            own = [one for one in results if one.policy == policy and finding_of(one) == finding]
            if own:
                value = estimate([float(one.success) for one in own], [one.patient for one in own])
                found.setdefault(finding, {})[policy] = value._asdict()
    return found


def choose(found: Mapping[str, Mapping[str, Any]], default: str, margin: float) -> dict[str, str]:
    """Returns the chosen policy for each finding.

    Raises:
        ValueError: a finding has no result of the default.

    >>> choose({"Head": {"a": {"value": 0.8}, "b": {"value": 0.84}}}, "a", 0.05)
    {'Head': 'a'}
    >>> choose({"Head": {"a": {"value": 0.8}, "b": {"value": 0.9}}}, "a", 0.05)
    {'Head': 'b'}
    """
    chosen = {}
    for finding, by_policy in found.items():
        best = max(by_policy, key=lambda policy: by_policy[policy]["value"])
        if default not in by_policy:
            raise ValueError(
                f"{default} has no episode for {finding!r}, measure it as well, or name another --default."
            )
        lead = by_policy[best]["value"] - by_policy[default]["value"]
        chosen[finding] = best if lead > margin else default
    return chosen


def write_choice(folder: Path, chosen: Mapping[str, str]) -> None:
    """Writes the findings of each policy into the cards of frontal X-rays; all else on the cards stays as it is.

    Raises:
        CardError: a card is invalid, or a file holds a list of cards; nothing has been written.
        UnknownNameError: no card has a chosen policy.
    """
    policies = [card.policy for card in read_repository(folder).of_modality(FRONTAL) if card.policy]
    for policy in chosen.values():
        if policy not in policies:
            raise UnknownNameError("policy of a card", policy, policies)
    for path, card in read_card_files(folder).items():
        if card.modality == FRONTAL:
            own = tuple(finding for finding, policy in chosen.items() if card.policy and policy == card.policy)
            kept = tuple(finding for finding in card.findings if finding not in chosen)
            values = card_values(replace(card, findings=own + kept))
            write_text(path, dump_yaml(values, width=120, allow_unicode=True))


def run(arguments: Arguments) -> None:
    """Prints the successes and the choice, and writes them."""
    results: list[EpisodeResult] = []
    for path in arguments.results:
        read, errors = read_results(path)
        if errors:
            raise ValueError(f"{errors[0]}, and {len(errors) - 1} more: expected a file of results without damage.")
        results += read
    found = successes(results)
    chosen = choose(found, arguments.default, arguments.margin)
    for finding, by_policy in found.items():
        cells = ", ".join(f"{policy} {100 * one['value']:.0f} % of {one['views']}" for policy, one in by_policy.items())
        print(f"{finding:18} {chosen[finding]:10} ({cells})")
    values = {"success": found, "chosen": chosen, "default": arguments.default, "margin": arguments.margin}
    save_measurement(arguments.json, values, 0)
    if arguments.write:
        write_choice(arguments.cards, chosen)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
