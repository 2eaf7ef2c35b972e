"""Compare episodes without and with a clinician who speaks to the policy.

    python benchmarks/assisted.py --policies mllm hybrid conformal --json a.json
    python benchmarks/assisted.py --policies mllm --suite uniform --episodes 40 --wrong-rate 0.2
    python benchmarks/assisted.py --policies mllm --suite uniform --wish-rate 0.5

The clinician (`carm_env.evaluation.assistance`) objects to wrong declarations, advises after two moves away from the
target, and answers questions, with at most ``--sentences`` sentences in an episode. The success is given for every
limit from 0 to that number. At a limit of 0 the clinician says nothing, and a policy that asks hands back.

With ``--review-rate`` the clinician also objects to moves that name a wrong closest landmark. With ``--wish-rate`` it
wishes to see another target in this share of the episodes, after one to three moves; an episode that ends before has no
wish. A wish is part of the task and no help: it comes with every limit, and in the episode by hand. The success then
refers to the last target; ``success_after_wish`` is the success rate of the episodes with a wish.

``rescued`` is the share of failures without a clinician that become successes, ``harmed`` the share of successes that
become failures. Driven by hand, by an operator who knows the anatomy, the episode takes one command for each move and
one for the declaration (the policy `oracle`); with assistance it takes one for each sentence. Intervals are clustered
by patient.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks._support.suites import check_patients, prepared_suites
from carm_env.evaluation.assistance import AssistedResult, run_assisted
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.leaderboard import PolicyNames
from carm_env.evaluation.policy_specification import parse_policy
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table, plain_text, share_cell
from carm_env.evaluation.runner import shared_policy, suite_environment
from carm_env.language.clinician import ClinicianSettings
from carm_env.system.command_line import run_script
from carm_env.system.processes import run_in_processes
from carm_env.system.threads import usable_cpus
from policies.registry import POLICIES, make_policy

MANUAL = "oracle"
"""The policy that stands for an operator who knows the anatomy."""
_BY_HAND = "by hand"


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policies: as in benchmarks/leaderboard.py.
        suite: names of suites, or YAML files.
        patients: draw the suites on these patients.
        episodes: run only the first N episodes of each suite.
        sentences: most sentences in an episode.
        help_rate: probability that the clinician speaks when there is a reason to.
        vagueness: share of sentences without a distance or a name.
        wrong_rate: share of wrong advice.
        delay: delay of advice about moves, in decisions; replies and objections come at once.
        review_rate: probability of reviewing the closest landmark that a decision names.
        wish_rate: probability of a wish to see another target in an episode.
        workers: number of processes; by default one per CPU.
        seed: seed of the first episode; episode i has seed + i.
        json: file for the results.
    """

    policies: PolicyNames = ("mllm", "hybrid", "conformal")
    suite: tuple[str, ...] = ("paper-routes", "uniform")
    patients: tuple[str, ...] = ()
    episodes: int | None = None
    sentences: int = 2
    help_rate: float = 1.0
    vagueness: float = 0.2
    wrong_rate: float = 0.0
    delay: int = 0
    review_rate: float = 0.0
    wish_rate: float = 0.0
    workers: int = usable_cpus()
    seed: int = 0
    json: Path | None = None

    def check(self) -> None:
        """Raises ValueError for a number out of range."""
        for name, least in (("sentences", 1), ("workers", 1), ("seed", 0), ("episodes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} is {value}, expected at least {least}.")
        _ = self.clinician(self.sentences)

    def clinician(self, sentences: int) -> ClinicianSettings:
        """Returns how the clinician helps with at most this number of sentences."""
        return ClinicianSettings(
            self.help_rate, self.delay, self.vagueness, self.wrong_rate, sentences,
            review_rate=self.review_rate, wish_rate=self.wish_rate,
        )  # fmt: skip


Run = tuple[EpisodeTask, ClinicianSettings]


def _run(run: Run) -> tuple[Run, AssistedResult]:
    task, settings = run
    policy = shared_policy(make_policy, task.source)
    return run, run_assisted(policy, suite_environment(task.suite), task, settings)


def score(runs: Mapping[int, Sequence[AssistedResult]], manual: Sequence[AssistedResult]) -> dict[str, Any]:
    """Compares the episodes of a policy on a suite without and with a clinician.

    Args:
        runs: results by the most sentences that were allowed, in the order of the episodes; 0 is without help.
        manual: results of the operator in the same episodes.
    """
    alone, helped = runs[0], runs[max(runs)]
    patients = [result.episode.patient for result in alone]
    before, after = (np.array([result.episode.success for result in own]) for own in (alone, helped))

    def share(values: Any, rows: Any = slice(None)) -> dict[str, Any] | None:
        flags = np.asarray(values, float)[rows]
        return estimate(flags, np.array(patients)[rows].tolist())._asdict() if len(flags) else None

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return {
        "episodes": len(alone),
        "patients": len(set(patients)),
        "success": share(after),
        "success_unassisted": share(before),
        "success_by_sentences": {
            str(most): share([result.episode.success for result in own]) for most, own in sorted(runs.items())
        },
        "success_after_wish": share(after, np.array([result.wishes > 0 for result in helped])),
        "rescued": share(after, ~before),
        "harmed": share(~after, before),
        "sentences": mean([result.sentences for result in helped]),
        "wrong_sentences": mean([result.wrong_sentences for result in helped]),
        "questions": mean([result.questions for result in helped]),
        "wishes": mean([result.wishes for result in helped]),
        "exposures": mean([result.episode.exposures for result in helped]),
        "exposures_unassisted": mean([result.episode.exposures for result in alone]),
        "exposures_by_hand": mean([result.episode.exposures for result in manual]),
        "dose_mgy": mean([result.episode.dose_mgy for result in helped]),
        "dose_mgy_unassisted": mean([result.episode.dose_mgy for result in alone]),
        "commands_by_hand": mean([result.episode.steps for result in manual]),
        "commands_saved": mean([hand.episode.steps - own.sentences for hand, own in zip(manual, helped, strict=True)]),
        "wrong_declarations": share([result.episode.outcome == "misaligned" for result in helped]),
        "crashes": sum(result.episode.outcome == "crash" for result in (*alone, *helped)),
        "wrong_declarations_unassisted": share([result.episode.outcome == "misaligned" for result in alone]),
    }


def measure(arguments: Arguments) -> dict[str, dict[str, dict[str, Any]]]:
    """Runs all episodes; returns `score` by policy and suite."""
    texts = {parse_policy(text, POLICIES).name: text for text in dict.fromkeys(arguments.policies)}
    texts[_BY_HAND] = MANUAL
    policies = [make_policy(text) for text in texts.values()]
    suites = prepared_suites(arguments.suite, arguments.patients, arguments.workers)
    check_patients(policies, suites)
    runs = [
        (EpisodeTask(suite, number, name, arguments.seed + number, text), arguments.clinician(most))
        for suite in suites
        for name, text in texts.items()
        for most in ((0,) if name == _BY_HAND else range(arguments.sentences + 1))
        for number in range(len(suite.episodes))[: arguments.episodes]
    ]
    # Episodes of one patient are adjacent, so that each process loads few patients.
    ordered = sorted(runs, key=lambda run: (run[0].suite.name, run[0].suite.episodes[run[0].episode].patient))
    found: dict[tuple[str, str, int], dict[int, AssistedResult]] = {}
    with tqdm(total=len(ordered), desc="episodes", unit="episode") as bar:
        for (task, settings), result in run_in_processes(_run, ordered, arguments.workers, ahead=2):
            key = task.policy, task.suite.name, settings.max_sentences or 0
            found.setdefault(key, {})[task.episode] = result
            bar.update()
    in_order = {key: [own[number] for number in sorted(own)] for key, own in found.items()}
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for name in (name for name in texts if name != _BY_HAND):
        for suite in suites:
            own = {most: in_order[name, suite.name, most] for most in range(arguments.sentences + 1)}
            scores.setdefault(name, {})[suite.name] = score(own, in_order[_BY_HAND, suite.name, 0])
    return scores


def report(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Formats one table: a row for each policy and suite."""
    rows = [
        (
            plain_text(policy), plain_text(suite), share_cell(own["success_unassisted"]), share_cell(own["success"]),
            share_cell(own["success_after_wish"]), share_cell(own["rescued"]), share_cell(own["harmed"]),
            f"{own['sentences']:.2f}", f"{own['questions']:.2f}",
            f"{own['exposures_unassisted']:.1f} to {own['exposures']:.1f}", f"{own['commands_by_hand']:.1f}",
        )
        for policy, suites in scores.items()
        for suite, own in suites.items()
    ]  # fmt: skip
    headings = (
        "policy", "suite", "success alone", "success assisted", "after a wish", "rescued", "harmed", "sentences",
        "questions", "exposures", "commands by hand",
    )  # fmt: skip
    return markdown_table(headings, rows)


def run(arguments: Arguments) -> None:
    """Measures, prints and saves."""
    arguments.check()
    scores = measure(arguments)
    print(report(scores))
    names = ("sentences", "help_rate", "vagueness", "wrong_rate", "delay", "review_rate", "wish_rate")
    settings = {name: getattr(arguments, name) for name in names}
    save_measurement(arguments.json, {**scores, "clinician": settings}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
