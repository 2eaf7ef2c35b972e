"""What may be asked about a view besides its landmarks: which finding it shows, and where a sentence's structure lies.

The classes of `FINDINGS` are single findings. A view that shows several, or a small part of one, has no class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from carm_env.anatomy.finding_names import DEFAULT_SIDES, parse_finding
from carm_env.language.image_tasks import ClassQuestion
from carm_env.reports.sentences import PARTLY_INCLUDED
from carm_env.reports.view_facts import ViewFacts
from carm_env.reports.view_reports import ReportWriter, read_poses
from carm_env.views.read import read_description
from carm_env.xray_datasets.grounded import Box

NO_CLASS = -1
"""Class of a view about whose findings nothing single can be said."""
_NAMES = {
    "pleural_effusion": "pleural effusion",
    "pneumothorax": "pneumothorax",
    "rib_fracture": "rib fracture",
    "humeral_nail": "intramedullary nail in the humerus",
    "hip_screw": "dynamic hip screw in the femur",
    "sternal_wires": "sternotomy wires",
    "pacemaker": "pacemaker",
    "endotracheal_tube": "endotracheal tube",
    "central_line": "central venous line",
    "nasogastric_tube": "nasogastric tube",
    "chest_tube": "chest tube",
    "ecg_leads": "ECG leads",
}
_ORDER = tuple(name for name in DEFAULT_SIDES if name in _NAMES)
FINDINGS = ClassQuestion("Which finding does this X-ray show?", ("no finding", *(_NAMES[name] for name in _ORDER)))
"""The question about findings; the number of a finding's class does not depend on its side."""


@dataclass(frozen=True)
class ViewQuestions:
    """What may be asked about one view, with the true answers.

    Attributes:
        finding: class of `FINDINGS`, or `NO_CLASS`.
        phrases: sentences of the view's report that are about one region each, with its box.
    """

    finding: int
    phrases: tuple[tuple[str, Box], ...]


class FindingPools:
    """Views by the class of their finding.

    Args:
        classes: ``(n,)`` class of each view, or `NO_CLASS`.

    Raises:
        ValueError: no view shows a finding, or all show one.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        array = np.asarray(classes)
        self._none = np.flatnonzero(array == 0)
        self._shown = [np.flatnonzero(array == number) for number in np.unique(array[array > 0])]
        if not len(self._none) or not self._shown:
            raise ValueError(
                f"of {len(array)} views, {len(self._none)} show no finding and {int((array > 0).sum())} a single one, "
                "expected some of both: take patients with and without findings, such as 'virtual:2000?findings="
                "pacemaker'."
            )

    def draw(self, rng: Generator) -> int:
        """Draws a view: every other time one without a finding, else one of a class, each equally likely."""
        pool = self._none if rng.random() < 0.5 else self._shown[int(rng.integers(len(self._shown)))]
        return int(pool[int(rng.integers(len(pool)))])


def finding_class(facts: ViewFacts, are_known: bool) -> int:
    """Returns the class of a view.

    Args:
        facts: what is true of the view.
        are_known: whether the patient has no other findings than the known ones.

    Returns:
        The number of the only finding that the view shows, 0 if it shows none, and `NO_CLASS` if it shows several or
        less than `PARTLY_INCLUDED` of one, or the patient's findings are not known.
    """
    if not are_known or any(item.share < PARTLY_INCLUDED for item in facts.findings.values()):
        return NO_CLASS
    shown = {parse_finding(name).name for name in facts.findings}
    if len(shown) > 1 or not shown <= set(_ORDER):
        return NO_CLASS
    return 1 + _ORDER.index(shown.pop()) if shown else 0


def questions_of_dataset(folder: Path, split: str, seed: int = 0, max_views: int | None = None) -> list[ViewQuestions]:
    """Returns what may be asked about each view of a dataset, in the order of `carm_env.views.read.read_views`.

    The patients are built if they are not in the cache, and those with findings also without each of them.

    Args:
        folder: folder of the dataset.
        split: name of the split.
        seed: seed of the wordings of sentences.
        max_views: take only the first views.

    Raises:
        ViewDatasetError: see `carm_env.reports.view_reports.read_poses`.
    """
    writer = ReportWriter(int(read_description(folder)["options"]["size"]), seed)
    counts: Counter[str] = Counter()
    found = []
    for patient, pose in read_poses(folder, split, max_views):
        facts = writer.facts(patient, pose)
        report = writer.report_of(facts, patient, counts[patient])
        counts[patient] += 1
        phrases = tuple((item.text, item.boxes[0]) for item in report.grounded if len(item.boxes) == 1)
        found.append(ViewQuestions(finding_class(facts, writer.known(patient).findings_are_known), phrases))
    return found
