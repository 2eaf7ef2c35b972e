"""Measure how policies do on virtual patients, on families of patients that differ from them, and on real CTs.

    python benchmarks/transfer.py --json t.json
    python benchmarks/transfer.py --policies conformal ppo --groups standard/test lidc-0001 --episodes 40

Every group is a name of a cohort's split or of a patient. By default the groups are the virtual test patients, the
families of test patients, and the real CTs of the registry that are installed; those that are not are named. Each
policy runs the same episodes of a group. Writes a folder of results for each group to ``--out``; ``--resume`` continues
after an interruption.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.patient_groups import default_groups
from benchmarks._support.region_coverage import LEVEL, coverage_at
from carm_env.evaluation.intervals import proportion_interval
from carm_env.evaluation.leaderboard import EvaluationArguments, PolicyNames, evaluate
from carm_env.evaluation.policy_specification import parse_policy
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.recipes import find_recipe, suite_on
from carm_env.evaluation.report import interval_cell, markdown_table, plain_text
from carm_env.evaluation.results import EpisodeResult, read_results
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients, load_outlines, load_patient
from carm_env.system.command_line import run_script
from carm_env.system.structured_files import read_json
from carm_env.system.threads import usable_cpus
from policies.conformal import KIND, DisplacementRegressor
from policies.registry import POLICIES, make_policy


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policies: as in benchmarks/leaderboard.py.
        groups: COHORT/SPLIT or patients, each a group; by default virtual patients and the installed real CTs.
        suite: recipe of the episodes, such as uniform or paper-routes.
        episodes: run only the first N episodes of each group.
        views: views per patient for the coverage of the regions of `conformal`; 0 for none.
        workers: number of processes; by default one per CPU.
        seed: seed of the first episode; episode i has seed + i. The views have seed + 1.
        out: folder for the results.
        resume: keep the results in the folder and run only the missing episodes.
        json: file for the results.
    """

    policies: PolicyNames = (
        "oracle",
        "conformal",
        "ppo",
        "maskable_ppo",
        "ppo_pixels",
        "cnn",
        "mllm",
        "mllm_grpo",
        "atlas",
    )
    groups: tuple[str, ...] = ()
    suite: str = "uniform"
    episodes: int | None = None
    views: int = 128
    workers: int = usable_cpus()
    seed: int = 0
    out: Path = Path("runs/transfer")
    resume: bool = False
    json: Path | None = None

    def __post_init__(self) -> None:
        if self.views < 0:
            raise ValueError(f"--views is {self.views}, expected 0 or more.")
        folders = [_folder_name(group) for group in self.groups]
        if len(set(folders)) < len(folders):
            raise ValueError(
                f"--groups is {' '.join(self.groups)}, of which two have the same folder of results: name each group "
                "once, and run groups whose names differ in punctuation alone with another --out."
            )


def group_score(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Returns success and how the other episodes ended, with intervals clustered by patient.

    Args:
        results: results of one policy on one group.
    """
    patients = [result.patient for result in results]

    def share(outcome: str) -> dict[str, Any]:
        flags = [float(result.outcome == outcome) for result in results]
        return {"value": float(np.mean(flags)), "interval": list(proportion_interval(flags, patients))}

    success, wrong, handed_back = (share(outcome) for outcome in ("success", "misaligned", "abstained"))
    return {
        "success": success["value"],
        "interval": success["interval"],
        "coverage_90": None,
        "wrong": wrong["value"],
        "wrong_interval": wrong["interval"],
        "handed_back": handed_back["value"],
        "handed_back_interval": handed_back["interval"],
        "exposures": float(np.mean([result.exposures for result in results])),
        "episodes": len(results),
        "patients": len(set(patients)),
        "suite_hash": results[0].suite_hash,
    }


def report(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Formats one table: a row for each group and policy."""
    rows = []
    for group in dict.fromkeys(group for groups in scores.values() for group in groups):
        for policy, groups in scores.items():
            if group not in groups:
                continue
            found = groups[group]
            coverage = found["coverage_90"]
            rows.append(
                (
                    plain_text(group),
                    plain_text(policy),
                    f"{found['success']:.0%}",
                    interval_cell(found["interval"], found["patients"]),
                    "-" if coverage is None else f"{coverage:.0%}",
                    f"{found['wrong']:.0%}",
                    f"{found['handed_back']:.0%}",
                    f"{found['exposures']:.1f}",
                    str(found["patients"]),
                    str(found["episodes"]),
                )
            )
    headings = (
        "group", "policy", "success", "95 % interval", "coverage at 90 %", "wrong", "handed back", "exposures",
        "patients", "episodes",
    )  # fmt: skip
    return markdown_table(headings, rows)


def run_group(arguments: Arguments, group: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Runs the policies on one group.

    Returns:
        The exit status, and the scores by policy.
    """
    folder = arguments.out / _folder_name(group)
    evaluation = EvaluationArguments(
        policies=arguments.policies, suite=(arguments.suite,), patients=(group,), episodes=arguments.episodes,
        workers=arguments.workers, seed=arguments.seed, out=folder, resume=arguments.resume, figures=False,
    )  # fmt: skip
    status = evaluate(evaluation, make_policy)
    names = expand_patients([group])
    fingerprints = {load_patient(name).fingerprint for name in names}
    results = [row for row in read_results(folder / "episodes.jsonl")[0] if row.patient_fingerprint in fingerprints]
    ran = read_json(folder / "leaderboard.json")
    scores: dict[str, dict[str, Any]] = {}
    for name, text in evaluation.policy_texts().items():
        # A folder that is resumed can hold results of other versions of the suite, and of more episodes.
        versions = {score["suite_hash"] for score in ran.get(name, {}).values()}
        own = [
            result
            for result in results
            if result.policy == name and result.suite_hash in versions and _is_of_this_run(result, arguments)
        ]
        if not own:
            continue
        scores[name] = group_score(own)
        checkpoint = conformal_checkpoint(text)
        if arguments.views and status == 0 and checkpoint is not None:
            found = coverage_at(
                LEVEL,
                DisplacementRegressor(checkpoint or None),
                names,
                arguments.views,
                arguments.seed + 1,
                own[0].isocenter_depth_mm,  # the same in all episodes of the suite
            )
            scores[name] |= {"coverage_90": found.value, "coverage_90_interval": [found.low, found.high]}
    return status, scores


def _is_of_this_run(result: EpisodeResult, arguments: Arguments) -> bool:
    is_asked_for = arguments.episodes is None or result.episode < arguments.episodes
    return is_asked_for and result.seed == arguments.seed + result.episode


def conformal_checkpoint(text: str) -> str | None:
    """Returns the checkpoint of a policy of kind `conformal`, "" for the one that ships; None for other policies."""
    found = parse_policy(text, POLICIES)
    return found.checkpoint if found.target == KIND else None


def _folder_name(group: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in group)


def check(arguments: Arguments, groups: Sequence[str]) -> None:
    """Constructs the policies, builds the patients and draws the episodes of every group, before the first episode.

    Raises:
        ValueError: an unknown name, or a group whose patients allow no episode.
        FileNotFoundError: the weights of a policy do not exist.
        MissingExtraError: a policy needs a package that is not installed.
    """
    for text in EvaluationArguments(policies=arguments.policies).policy_texts().values():
        make_policy(text)
    find_recipe(arguments.suite)
    names = {group: expand_patients([group]) for group in groups}
    prepare_patients([name for own in names.values() for name in own], min(arguments.workers, default_workers()))
    for own in names.values():
        suite_on(arguments.suite, load_outlines(own))


def run(arguments: Arguments) -> int:
    """Runs every group, prints the table and saves it."""
    groups = arguments.groups or default_groups()
    check(arguments, groups)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    status = 0
    try:
        for group in groups:
            print(f"\n{group}", flush=True)
            status, found = run_group(arguments, group)
            for policy, score in found.items():
                scores.setdefault(policy, {})[group] = score
            if status:
                break
    finally:
        print(f"\n{report(scores)}")
    if status == 0:
        save_measurement(arguments.json, scores, arguments.seed)
    return status


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
