"""How the fourteen landmarks lie in people: mean and covariance of annotated NMDID patients.

The numbers in ``data/landmark_layout.json`` were computed from the annotations that the authors of
"Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control" released
(``classification.csv``, patients lying with crossed arms). The annotations are in the frontal plane;
depth was not annotated. To make the file again:

    python -m carm_env.anatomy.layout classification.csv landmark_layout.json
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.files import write_json
from carm_env.landmarks import LANDMARKS, N_LANDMARKS, landmark

_SOURCE = (
    "Means and covariance of the landmark annotations (classification.csv) released with 'Autonomous Skeletal "
    "Landmark Localization towards Agentic C-Arm Control'; NMDID patients, each centred on the mean of its landmarks"
)


@dataclass(frozen=True, eq=False)
class LandmarkLayout:
    """Statistics of the landmarks in the frontal plane, each patient centred on its own mean.

    Attributes:
        mean_mm: ``(14, 2)`` towards the patient's left and cranially, mm; row = landmark id - 1.
        covariance_mm2: ``(28, 28)`` of the flattened ``(14, 2)`` coordinates.
        patients: how many patients had all fourteen landmarks.
        source: where the numbers come from.
    """

    mean_mm: NDArray[np.float64]
    covariance_mm2: NDArray[np.float64]
    patients: int
    source: str

    def relative_mm(self, key: int | str, to: int | str = "Carina") -> tuple[float, float]:
        """``(left, cranial)`` mean position of a landmark relative to another one, mm."""
        left, cranial = self.mean_mm[landmark(key).index] - self.mean_mm[landmark(to).index]
        return float(left), float(cranial)


@cache
def landmark_layout() -> LandmarkLayout:
    """The statistics that ship with the package."""
    text = resources.files("carm_env.anatomy").joinpath("data/landmark_layout.json").read_text(encoding="utf-8")
    data = json.loads(text)
    mean = np.array([data["mean_mm"][item.name] for item in LANDMARKS])
    mean.setflags(write=False)
    return LandmarkLayout(mean, np.array(data["covariance_mm2"]), data["patients"], data["source"])


def layout_from_csv(path: str | Path) -> LandmarkLayout:
    """Compute the statistics from the authors' ``classification.csv``.

    Its ``x_ct`` grows caudally and ``y_ct`` to the patient's left, mm. Patients that lack a
    landmark are left out.

    Raises:
        ValueError: no patient has all fourteen landmarks.
    """
    cases: dict[str, dict[int, tuple[float, float]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            place = (float(row["y_ct"]), -float(row["x_ct"]))
            cases.setdefault(row["case_number"], {})[int(row["landmark"])] = place
    ids = [item.id for item in LANDMARKS]
    complete = [[case[key] for key in ids] for case in cases.values() if set(ids) <= case.keys()]
    if not complete:
        raise ValueError(f"{path}: no patient has all {N_LANDMARKS} landmarks.")
    points = np.array(complete)
    points -= points.mean(axis=1, keepdims=True)
    covariance = np.cov(points.reshape(len(points), -1), rowvar=False)
    return LandmarkLayout(points.mean(axis=0), covariance, len(points), _SOURCE)


def main(arguments: list[str] | None = None) -> None:
    """Write the statistics of a CSV file (first argument) to a JSON file (second argument)."""
    source, target = sys.argv[1:] if arguments is None else arguments
    layout = layout_from_csv(source)
    write_json(
        target,
        {
            "source": layout.source,
            "patients": layout.patients,
            "coordinates": "left, cranial; mm; centred per patient",
            "mean_mm": {item.name: row for item, row in zip(LANDMARKS, layout.mean_mm.round(1).tolist(), strict=True)},
            "covariance_mm2": layout.covariance_mm2.round(1).tolist(),
        },
    )


if __name__ == "__main__":
    main()
