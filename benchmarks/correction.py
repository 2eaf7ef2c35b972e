"""The paper's correction experiment (Fig. 3b): how many wrong answers a second look corrects, and how many it breaks.

    python benchmarks/correction.py --policy mllm --json k.json

A language model names the two landmarks closest to the centre of views with a landmark there, of patients that were not
used for training. An answer is correct if the landmark at the centre comes first (H@1). Then the model is shown its
answer and asked again, once with neutral feedback and once with "that response is incorrect". Intervals are clustered
by patient.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks._support.policy_argument import checkpoint_of
from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.localization import centred_views
from carm_env.evaluation.provenance import save_measurement
from carm_env.language.prompts import NEUTRAL_FEEDBACK, WRONG_FEEDBACK, prompt_hash
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.system.command_line import run_script
from policies.mllm import GRPO_KIND, KIND, MllmLocalizer

FEEDBACK = {"neutral": NEUTRAL_FEEDBACK, "incorrect": WRONG_FEEDBACK}
_UNREADABLE = (1, 10)
"""Replaces an answer that could not be parsed, because the correction prompt needs two ids."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policy: mllm or mllm_grpo, or mllm:MODEL.
        patients: names of patients, or COHORT/SPLIT.
        seed: seed of the views; training uses 0.
        json: file for the results.
    """

    policy: str = KIND
    patients: tuple[str, ...] = ("standard/test",)
    seed: int = 1
    json: Path | None = None


def measure(localizer: MllmLocalizer, patients: Sequence[str], seed: int) -> dict[str, Any]:
    """Returns the share of correct first answers, and for each feedback the shares that become correct or break."""
    views = [centred_views(name, seed) for name in patients]
    images = np.concatenate([own for own, _ in views])
    targets = np.concatenate([centred for _, centred in views])
    names = np.repeat(patients, [len(own) for own, _ in views])
    first = localizer.centred(images)
    readable = first.any(1)
    correct = np.asarray(first[:, 0] == targets)
    found: dict[str, Any] = {
        "views": len(targets),
        "right_at_first": _share(correct, names),
        "invalid_at_first": _share(~readable, names),
    }
    before = [(int(a), int(b)) if a else _UNREADABLE for a, b in first]
    for kind, feedback in FEEDBACK.items():
        again = localizer.correct(images, before, feedback)
        now = np.asarray(again[:, 0] == targets)
        found[kind] = {
            "become_right": _share(now[~correct], names[~correct]),
            "break": _share(np.logical_not(now[correct]), names[correct]),
            "right_after": _share(now, names),
            "invalid": _share(~again.any(1), names),
        }
    return found


def _share(values: ArrayLike, patients: NDArray[Any]) -> dict[str, Any] | None:
    flags = np.asarray(values, dtype=float)
    return estimate(flags, patients.tolist())._asdict() if len(flags) else None


def report(found: dict[str, Any]) -> str:
    """Formats the shares."""
    first = found["right_at_first"]
    lines = [
        f"{found['views']} views, correct at first {first['value']:.3f} ({first['low']:.3f} - {first['high']:.3f})"
    ]
    labels = {"become_right": "corrected", "break": "broken", "right_after": "correct after", "invalid": "invalid"}
    for kind in FEEDBACK:
        shares = {label: found[kind][key] for key, label in labels.items()}
        parts = [f"{label} {'-' if one is None else format(one['value'], '.3f')}" for label, one in shares.items()]
        lines.append(f"{kind:10} {', '.join(parts)}")
    return "\n".join(lines)


def run(arguments: Arguments) -> None:
    """Measures, prints and saves."""
    checkpoint = checkpoint_of(arguments.policy, KIND, GRPO_KIND)
    localizer = MllmLocalizer(checkpoint or "", shipped=arguments.policy.partition(":")[0])
    names = expand_patients(arguments.patients)
    prepare_patients(names, default_workers())
    found = measure(localizer, names, arguments.seed)
    print(report(found))
    style = localizer.model.style
    about = {"policy": arguments.policy, "patients": names, "prompts": prompt_hash(style), "style": style}
    save_measurement(arguments.json, {**about, **found}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
