"""The paper's correction experiment (Fig. 3b), measured: what a clinician's words do to right and wrong answers.

    python benchmarks/correction.py --policy mllm --json k.json
    python benchmarks/correction.py --released C-arm-localization-LLMs/results --json r.json

A language model names the two landmarks closest to the centre of views with a landmark there, of patients that were not
used for training. An answer is right if the landmark at the centre comes first (H@1). Then the model is shown its
answer and asked again, after each kind of words by the simulated clinician (`carm_env.language.clinician`):

- ``control``: it is asked to look again, without a verdict;
- ``verdict``: that the answer is wrong, or right, without more;
- ``direction``: in which direction the closest landmark lies from the one that was named; only after wrong answers;
- ``landmark``: which landmark is at the centre;
- ``wrong``: a false verdict, direction or landmark.

Words that say something about names are combined with the model's probabilities of the fourteen names
(`policies.advised_names`). With ``--hears-alone`` the model answers to the words without this.

``fixed`` is the share of wrong answers that become right, ``broken`` the share of right ones that become wrong. Answers
that could not be read are only asked for again, and views in which another landmark is closer are left out.
Intervals are clustered by patient.

With ``--released`` no model is run: the same shares are computed for the revised answers that the authors of the paper
released, after they told a model that its answer was incorrect. Whether an answer was right is judged by the first
answers that they released; they stem from another run than the corrections, which were not asked for after wrong
answers only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from benchmarks._support.policy_argument import checkpoint_of
from benchmarks._support.released_answers import RevisedAnswer, read_corrections
from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.localization import centred_views
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table, share_cell
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.language.advice import Advice, reword
from carm_env.language.clinician import review_advice
from carm_env.language.prompts import prompt_hash
from carm_env.language.reasons import Situation
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.system.command_line import run_script
from policies.mllm import GRPO_KIND, KIND, MllmLocalizer

KINDS = ("control", "verdict", "direction", "landmark", "wrong")
_SAID = {"control": ("again",), "verdict": ("verdict", "confirmation"), "direction": ("direction",),
         "landmark": ("landmark",), "wrong": ("verdict", "confirmation", "direction", "landmark")}  # fmt: skip
"""Kinds of advice, of which one that is possible is drawn."""
_UNREADABLE = (1, 10)
"""Replaces an answer that could not be parsed, because the correction prompt needs two ids."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policy: mllm or mllm_grpo, or with :MODEL.
        patients: names of patients, or COHORT/SPLIT.
        isocenter_depth_mm: depth of the isocentre in the views, mm.
        seed: seed of the views and of the clinician's words; training uses 0.
        hears_alone: the model alone answers to the words, which are not combined with its probabilities.
        released: folder of the results that the authors of the paper released, instead of a policy.
        json: file for the results.
    """

    policy: str = KIND
    patients: tuple[str, ...] = ("standard/test",)
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM
    seed: int = 1
    hears_alone: bool = False
    released: Path | None = None
    json: Path | None = None


def measure(
    localizer: MllmLocalizer,
    patients: Sequence[str],
    seed: int,
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM,
) -> dict[str, Any]:
    """Returns the share of right first answers, and for each of `KINDS` the shares that are fixed and broken.

    A share is None if no answer allows such words: there is no direction to look in after a right answer.
    """
    views = [centred_views(name, seed, isocenter_depth_mm) for name in patients]
    images = np.concatenate([own.images for own in views])
    targets = np.concatenate([own.targets for own in views])
    situations = [situation for own in views for situation in own.situations]
    names = np.repeat(patients, [len(own.images) for own in views])
    kept = np.flatnonzero([situation.closest()[0] == key for situation, key in zip(situations, targets, strict=True)])
    images, targets, names = images[kept], targets[kept], names[kept]
    situations = [situations[row] for row in kept]
    first = localizer.centred(images)
    readable = first.any(1)
    right = np.asarray(first[:, 0] == targets)
    found: dict[str, Any] = {
        "views": len(targets),
        "right_at_first": _share(right, names),
        "invalid_at_first": _share(~readable, names),
    }
    before = [(int(a), int(b)) if a else _UNREADABLE for a, b in first]
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng([seed, number])
        words = [_words(kind, situation, answer, rng) for situation, answer in zip(situations, before, strict=True)]
        asked = np.array([text is not None for text in words]) & (readable | (kind == KINDS[0]))
        rows = np.flatnonzero(asked)
        again = localizer.correct(images[rows], [before[row] for row in rows], [words[row] or "" for row in rows])
        now = np.zeros(len(targets), bool)
        now[rows] = again[:, 0] == targets[rows]
        wrong_before, right_before = asked & ~right, asked & right
        found[kind] = {
            "fixed": _share(now[wrong_before], names[wrong_before]),
            "broken": _share(~now[right_before], names[right_before]),
            "invalid": _share(~again.any(1), names[rows]),
        }
    return found


def measure_released(answers: Sequence[RevisedAnswer]) -> dict[str, Any]:
    """Returns the share of right first answers, and the shares that a verdict fixed and broke.

    An answer is right if the landmark at the centre comes first; ``fixed_h_at_2`` and ``broken_h_at_2`` count it as
    right if it is one of the two.
    """
    patients = np.array([answer.patient for answer in answers])
    found: dict[str, Any] = {"views": len(answers)}
    for suffix, count in (("", 1), ("_h_at_2", 2)):
        before, after = (
            np.array([answer.target in named[:count] for answer, named in zip(answers, asked, strict=True)])
            for asked in ([answer.first for answer in answers], [answer.revised for answer in answers])
        )
        found["right_at_first" + suffix] = _share(before, patients)
        found["fixed" + suffix] = _share(after[~before], patients[~before])
        found["broken" + suffix] = _share(~after[before], patients[before])
    found["unchanged"] = _share([answer.first == answer.revised for answer in answers], patients)
    found["invalid"] = _share([not answer.revised for answer in answers], patients)
    return found


def report_released(found: dict[str, dict[str, Any]]) -> str:
    """Formats the shares of each model."""
    names = ("right_at_first", "fixed", "broken", "fixed_h_at_2", "broken_h_at_2", "unchanged", "invalid")
    rows = [(model, str(one["views"]), *(share_cell(one[name]) for name in names)) for model, one in found.items()]
    columns = ("right at first", "wrong fixed", "right broken", "wrong fixed, H@2", "right broken, H@2", "unchanged")
    return markdown_table(("model", "views", *columns, "invalid"), rows)


def _words(kind: str, situation: Situation, answer: Sequence[int], rng: Generator) -> str | None:
    advice: list[Advice | None] = [
        review_advice(said, situation, answer, rng, is_wrong=kind == "wrong") for said in _SAID[kind]
    ]
    possible = [one for one in advice if one is not None]
    return reword(possible[int(rng.integers(len(possible)))], rng) if possible else None


def _share(values: ArrayLike, patients: NDArray[Any]) -> dict[str, Any] | None:
    flags = np.asarray(values, dtype=float)
    return estimate(flags, patients.tolist())._asdict() if len(flags) else None


def report(found: dict[str, Any]) -> str:
    """Formats the shares."""

    def cell(share: dict[str, Any] | None) -> str:
        return share_cell(share) + ("" if share is None else f" of {share['views']}")

    rows = [(kind, *(cell(found[kind][name]) for name in ("fixed", "broken", "invalid"))) for kind in KINDS]
    head = f"{found['views']} views, right at first: {cell(found['right_at_first'])}"
    return f"{head}\n\n" + markdown_table(("words", "wrong answers fixed", "right answers broken", "invalid"), rows)


def run(arguments: Arguments) -> None:
    """Measures, prints and saves."""
    if arguments.released is not None:
        models = {name: measure_released(answers) for name, answers in read_corrections(arguments.released).items()}
        print(report_released(models))
        save_measurement(arguments.json, {"released": models}, arguments.seed)
        return
    checkpoint = checkpoint_of(arguments.policy, KIND, GRPO_KIND)
    localizer = MllmLocalizer(
        checkpoint or "", shipped=arguments.policy.partition(":")[0], hears_alone=arguments.hears_alone
    )
    names = expand_patients(arguments.patients)
    prepare_patients(names, default_workers())
    found = measure(localizer, names, arguments.seed, arguments.isocenter_depth_mm)
    print(report(found))
    style = localizer.model.style
    about = {"policy": arguments.policy, "hears_alone": arguments.hears_alone, "patients": names,
             "isocenter_depth_mm": arguments.isocenter_depth_mm, "prompts": prompt_hash(style),
             "style": style}  # fmt: skip
    save_measurement(arguments.json, {**about, **found}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
