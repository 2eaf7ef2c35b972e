"""Reports of the views of a dataset, or of a patient, written from what is known of the patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.geometry import DEFAULT_GEOMETRY, CArmPose, ProjectionGeometry
from carm_env.patients.catalogue import load_patient
from carm_env.reports.sentences import report_sentences
from carm_env.reports.view_facts import KnownStructures, ViewFacts, view_facts
from carm_env.system.processes import run_in_processes
from carm_env.views.read import ViewDatasetError, import_pyarrow, read_description
from carm_env.views.sample import View
from carm_env.xray_datasets.grounded import GroundedReport

PatientPose = tuple[str, CArmPose]


def read_poses(folder: Path, split: str, max_views: int | None = None) -> list[PatientPose]:
    """Reads the patient and the pose of each view of a split, in the order of `carm_env.views.read.read_views`.

    Args:
        folder: folder of the dataset.
        split: name of the split.
        max_views: read only the first views.

    Raises:
        ViewDatasetError: the folder holds no dataset or no such split, a file is damaged, or the views are of X-ray
            systems that rotate and crop images, for which no boxes are known.
    """
    pa = import_pyarrow()
    description = read_description(folder)
    if "domain" in description["options"]["augment"]:
        raise ViewDatasetError(
            f"{folder} holds views with domain randomisation, whose rotated and cropped images have no boxes: render "
            "views without --augment domain."
        )
    if not description["files"].get(split):
        raise ViewDatasetError(f"{folder} has no split {split!r}: render it, or name another split.")
    found: list[PatientPose] = []
    columns = ["patient", "isocenter_lps_mm", "alpha_deg", "beta_deg"]
    for name in description["files"][split]:
        path = folder / "data" / split / name
        try:
            rows: list[dict[str, Any]] = pa.parquet.read_table(path, columns=columns).to_pylist()
            for row in rows:
                x, y, z = row["isocenter_lps_mm"]
                found.append((str(row["patient"]), CArmPose((x, y, z), row["alpha_deg"], row["beta_deg"])))
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            raise ViewDatasetError(f"{path} cannot be read ({error}): remove it and render again.") from error
        if max_views is not None and len(found) >= max_views:
            break
    return found[:max_views]


def _known_structures(patient: str) -> KnownStructures:
    return KnownStructures.of(load_patient(patient))


class ReportWriter:
    """Writes reports of views; the structures of the patient that was asked for last stay in memory.

    Args:
        size: side of the images, pixels.
        seed: seed of the wordings.
        structures: finds the structures of a patient by name.
    """

    def __init__(self, size: int, seed: int = 0, structures: Callable[[str], KnownStructures] | None = None) -> None:
        self._size, self._seed = size, seed
        self._structures = structures or _known_structures
        self._known: tuple[str, KnownStructures] | None = None

    def write(self, patient: str, pose: CArmPose, number: int) -> GroundedReport:
        """Writes the report of view `number` of a patient, which is the same whenever it is written."""
        return self.report_of(self.facts(patient, pose), patient, number)

    def facts(self, patient: str, pose: CArmPose) -> ViewFacts:
        """Returns what is true of a view of a patient."""
        projection = ProjectionGeometry.from_pose(pose, DEFAULT_GEOMETRY, self._size)
        return view_facts(self.known(patient), pose, projection)

    def known(self, patient: str) -> KnownStructures:
        """Returns the structures of a patient."""
        if self._known is None or self._known[0] != patient:
            self._known = patient, self._structures(patient)
        return self._known[1]

    def report_of(self, facts: ViewFacts, patient: str, number: int) -> GroundedReport:
        """Writes the report of facts about view `number` of a patient."""
        letters = np.frombuffer(patient.encode(), np.uint8).tolist()
        sentences = report_sentences(facts, [self._seed, number, *letters])
        return GroundedReport(f"{patient}/{number:05d}", patient, sentences)

    def of_dataset(
        self, folder: Path, split: str, max_views: int | None = None, workers: int = 1
    ) -> list[GroundedReport]:
        """Writes the reports of a split of a dataset, in its order.

        Args:
            folder: folder of the dataset.
            split: name of the split.
            max_views: write the reports of the first views only.
            workers: processes, each of which keeps one patient in memory; with several, ``structures`` is pickled.

        Raises:
            ViewDatasetError: see `read_poses`.
        """
        poses = read_poses(folder, split, max_views)
        by_patient: dict[str, list[CArmPose]] = {}
        for patient, pose in poses:
            by_patient.setdefault(patient, []).append(pose)
        # Without the structures that this one holds, which would be copied to the workers.
        writer = ReportWriter(self._size, self._seed, self._structures)
        found = run_in_processes(writer._of_patient, by_patient.items(), min(workers, len(by_patient)) or 1)
        written = {patient: iter(reports) for patient, reports in found}
        return [next(written[patient]) for patient, _ in poses]

    def _of_patient(self, views: tuple[str, list[CArmPose]]) -> tuple[str, list[GroundedReport]]:
        patient, poses = views
        return patient, [self.write(patient, pose, number) for number, pose in enumerate(poses)]

    def of_views(self, views: Iterator[View]) -> Iterator[tuple[View, GroundedReport]]:
        """Yields the views of one patient with their reports."""
        for number, view in enumerate(views):
            yield view, self.write(view.patient, view.pose, number)
