"""Measure how much of their success policies keep under shifts: noise, collimation, angulation, poses, implants, ...

    python benchmarks/robustness.py --policies conformal ppo --json robustness.json
    python benchmarks/robustness.py --policies conformal --shifts collimation polarity:1 --episodes 20

Every policy runs the suite as it is, and under each shift in its severities (`carm_env.evaluation.shifts`). Writes the
results, a page ``profile_POLICY.md`` for each policy and ``robustness.png`` to the folder of ``--out``; ``--resume``
continues after an interruption.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.evaluation.comparison_report import count
from carm_env.evaluation.leaderboard import EvaluationArguments, PolicyNames, evaluate_suites
from carm_env.evaluation.plots import drawing, new_figure, save_figure
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table, plain_text, share_cell
from carm_env.evaluation.results import read_results
from carm_env.evaluation.shifts import SEVERITIES, Shift
from carm_env.system.command_line import run_script
from carm_env.system.files import write_text
from carm_env.system.structured_files import read_json
from carm_env.system.threads import usable_cpus
from policies.registry import make_policy

Profile = dict[str, Any]
"""``{"clean": scores, "shifts": {shift: {severity: scores}}}`` of one policy; severities are text, as in JSON."""
_DARK = 0.12, 0.88
"""Beyond these the colours of the figure are dark."""
_SCORES = ("success", "success_interval", "abstained", "exposures", "episodes", "patients", "suite_hash")


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policies: as in benchmarks/leaderboard.py.
        shifts: NAME:SEVERITY, NAME for its three severities, or all.
        suite: the suite: uniform, paper-routes, smoke, or a YAML file.
        patients: draw the suite on these patients instead.
        episodes: run only the first N episodes of the suite under each shift.
        workers: number of processes; by default one per CPU.
        seed: seed of the first episode; episode i has seed + i.
        out: folder for the results.
        resume: keep the results in the folder and run only the missing episodes.
        json: file for the results.
    """

    policies: PolicyNames = ("conformal", "maskable_ppo", "ppo", "cnn")
    shifts: tuple[str, ...] = ("all",)
    suite: str = "uniform"
    patients: tuple[str, ...] = ()
    episodes: int | None = None
    workers: int = usable_cpus()
    seed: int = 0
    out: Path = Path("runs/robustness")
    resume: bool = False
    json: Path | None = None


def profiles(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
    shifts: tuple[Shift, ...],
    successes: Mapping[str, Mapping[int, bool]],
    kept: Mapping[str, Sequence[int]],
) -> dict[str, Profile]:
    """Returns the profile of each policy.

    Args:
        scores: the scores of a leaderboard, ``{policy: {suite: scores}}``, with one suite that is not shifted.
        shifts: the shifts.
        successes: of each policy, the success in each episode that is not shifted, by its number.
        kept: see `carm_env.evaluation.prepared_suites.PreparedSuites`.

    Returns:
        ``{policy: profile}``. ``relative`` is the success as a share of that without a shift in the same episodes; None
        without success there, or if they did not run.
    """
    found: dict[str, Profile] = {}
    for policy, suites in scores.items():
        clean = next(name for name in suites if all(shift.suite_name(name) in suites for shift in shifts))
        profile: Profile = {"clean": {key: suites[clean][key] for key in _SCORES}, "shifts": {}}
        for shift in shifts:
            own = suites[shift.suite_name(clean)]
            same = [successes[policy].get(number) for number in kept[shift.suite_name(clean)][: own["episodes"]]]
            without = 0.0 if None in same else float(np.mean([bool(success) for success in same]))
            relative = own["success"] / without if without else None
            values = {**{key: own[key] for key in _SCORES}, "relative": relative}
            profile["shifts"].setdefault(shift.name, {})[str(shift.severity)] = values
        found[policy] = profile
    return found


def table(profile: Profile) -> str:
    """Formats a profile: a row for each shift, with success, its interval and the success kept at each severity."""

    def cell(values: Mapping[str, Any] | None) -> str:
        if values is None:
            return "-"
        kept = "" if values["relative"] is None else f", {values['relative']:.0%} kept"
        return _success(values) + kept

    rows = [
        (shift, *(cell(severities.get(str(number))) for number in SEVERITIES))
        for shift, severities in profile["shifts"].items()
    ]
    return markdown_table(("shift", *(f"severity {number}" for number in SEVERITIES)), rows)


def _success(scores: Mapping[str, Any]) -> str:
    low, high = scores["success_interval"]
    return share_cell({"value": scores["success"], "low": low, "high": high, "patients": scores["patients"]})


def page(policy: str, profile: Profile) -> str:
    """Formats the robustness profile of a policy as a Markdown page."""
    clean = profile["clean"]
    return (
        f"# Robustness profile of {plain_text(policy)}\n\n"
        f"Success without a shift: {_success(clean)}, {count(clean['episodes'], 'episode')}, "
        f"{count(clean['patients'], 'patient')}.\n\n{table(profile)}\n\n"
        "Each cell has the success, its 95 % interval clustered by patient, and the success as a share of that without "
        "a shift in the same episodes. `carm_env.evaluation.shifts` lists the shifts.\n\n"
        "Research software, not a medical device.\n"
    )


def draw(found: Mapping[str, Profile], path: Path) -> None:
    """Draws the success that each policy keeps under each shift and severity."""
    shifts = list(dict.fromkeys(name for profile in found.values() for name in profile["shifts"]))
    figure, axes = new_figure(1.6 + 1.7 * len(found), 1.2 + 0.27 * len(shifts), columns=len(found), squeeze=False)
    for ax, (policy, profile) in zip(axes[0], found.items(), strict=True):
        values = np.full((len(shifts), len(SEVERITIES)), np.nan)
        for row, shift in enumerate(shifts):
            for severity, own in profile["shifts"].get(shift, {}).items():
                values[row, int(severity) - 1] = np.nan if own["relative"] is None else own["relative"]
        ax.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        for row, column in np.argwhere(np.isfinite(values)):
            colour = "white" if not _DARK[0] < values[row, column] < _DARK[1] else "black"
            ax.text(column, row, f"{100 * values[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
        ax.set_title(f"{policy}\n{profile['clean']['success']:.0%} without", fontsize=9)
        ax.set_xticks(range(len(SEVERITIES)), SEVERITIES)
        is_first = ax is axes[0][0]
        ax.set_yticks(range(len(shifts)), shifts if is_first else [""] * len(shifts), fontsize=8)
    figure.supxlabel("severity; success kept, % of the success without a shift", fontsize=9)
    save_figure(figure, path)


def run(arguments: Arguments) -> int:
    """Runs the suite under every shift, prints and saves the profiles."""
    shifts = tuple(dict.fromkeys(shift for text in arguments.shifts for shift in Shift.parse(text)))
    if not shifts:
        raise ValueError("--shifts has no value, expected at least one, such as collimation:2.")
    evaluation = EvaluationArguments(
        policies=arguments.policies, suite=(arguments.suite,), patients=arguments.patients,
        shifts=tuple(map(str, shifts)), episodes=arguments.episodes, workers=arguments.workers, seed=arguments.seed,
        out=arguments.out, resume=arguments.resume, figures=False,
    )  # fmt: skip
    status, prepared = evaluate_suites(evaluation, make_policy)
    if status:
        return status
    scores = read_json(arguments.out / "leaderboard.json")
    names = evaluation.policy_texts()
    clean, *_ = prepared.suites
    results = read_results(arguments.out / "episodes.jsonl")[0]
    successes: dict[str, dict[int, bool]] = {name: {} for name in names}
    for result in results:
        is_of_this_run = result.suite_hash == clean.hash and result.seed == arguments.seed + result.episode
        if is_of_this_run and result.policy in names:
            successes[result.policy][result.episode] = result.success
    own = {name: suites for name, suites in scores.items() if name in names}
    found = profiles(own, shifts, successes, prepared.kept)
    for policy, profile in found.items():
        print(f"\n{page(policy, profile)}")
        write_text(arguments.out / f"profile_{re.sub(r'[^A-Za-z0-9_-]', '_', policy)}.md", page(policy, profile))
    save_measurement(arguments.json, found, arguments.seed)
    with drawing("robustness.png"):
        draw(found, arguments.out / "robustness.png")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
