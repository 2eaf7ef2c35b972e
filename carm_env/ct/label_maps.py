"""Derive landmarks from TotalSegmentator's label maps, with a standard deviation or a reason for each.

The input is one label map of the task ``total`` (version 2, numbers as in `CLASSES`), or a folder with one mask per
class (``skull.nii.gz``, ``humerus_left.nii.gz`` and so on). docs/how-to/import.md states the rule of each landmark. The
task ``total`` has no class for elbows and wrists, so they are absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.ct._bone_rules import Estimate, cranium, humeral_head, scapular_angle, vertebral_body
from carm_env.ct._chest_rules import carina, dome
from carm_env.ct._label_masks import CLASSES, AbsentError, LabelMasks
from carm_env.ct.errors import LandmarkFileError
from carm_env.ct.kinds import is_image
from carm_env.landmarks import LANDMARKS
from carm_env.volume import Volume

__all__ = ["CLASSES", "DerivedLandmarks", "is_label_map", "landmarks_from_labels"]


@dataclass(frozen=True, eq=False)
class DerivedLandmarks:
    """Landmarks that were derived from a label map.

    Attributes:
        points_lps_mm: from landmark id to ``(3,)``.
        std_mm: from landmark id to the standard deviation of its error in three dimensions, mm.
        basis: from landmark id to what it rests on, in a few words.
        absent: from the name of each other landmark to the reason why it is absent.
        assumptions: what the label map does not state, and the decision, one line each.
    """

    points_lps_mm: Mapping[int, NDArray[np.float64]]
    std_mm: Mapping[int, float]
    basis: Mapping[int, str]
    absent: Mapping[str, str]
    assumptions: tuple[str, ...] = ()


def is_label_map(path: str | Path) -> bool:
    """Returns whether `path` is an image or a folder of masks, rather than a landmark file."""
    return is_image(path) or Path(path).is_dir()


def landmarks_from_labels(
    path: str | Path, volume: Volume | None = None, orientation: str | None = None
) -> DerivedLandmarks:
    """Derives landmarks from a label map or a folder of masks.

    Args:
        path: label map of the task ``total``, or folder with one mask per class.
        volume: the CT; a label map that is shifted against it is an error.
        orientation: as for `carm_env.ct.images.read_image`.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        LandmarkFileError: it is not a label map, is of another version, is not of this CT, or holds none of the
            classes.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    masks = LabelMasks(path, volume, orientation)
    found: dict[int, Estimate] = {}
    absent: dict[str, str] = {}
    for item in LANDMARKS:
        rule = _RULES.get(item.name)
        if rule is None:
            absent[item.name] = "the task 'total' has no class for it"
            continue
        try:
            found[item.id] = _at_its_level(item.name, rule(masks), masks)
        except AbsentError as reason:
            absent[item.name] = str(reason)
    if not found:
        raise LandmarkFileError(
            f"{path}: no landmark can be derived, expected a label map of the task 'total': "
            + "; ".join(f"{name}: {reason}" for name, reason in list(absent.items())[:3])
        )
    return DerivedLandmarks(
        {key: item.point_lps_mm for key, item in found.items()},
        {key: round(item.std_mm, 1) for key, item in found.items()},
        {key: item.basis for key, item in found.items()},
        absent,
        tuple(masks.assumptions),
    )


def _at_its_level(name: str, found: Estimate, masks: LabelMasks) -> Estimate:
    """Returns an estimate unless the vertebrae of the label map contradict its height."""
    levels = next((levels for part, levels in _LEVELS.items() if part in name), None)
    if levels is None:
        return found
    height = found.point_lps_mm[2]
    upper, lower = (masks.top_mm(f"vertebrae_{level}") for level in levels)
    if (upper is not None and height > upper) or (lower is not None and height < lower):
        raise AbsentError(
            f"its height, {height:.0f} mm, is implausible: expected below the top of {levels[0]}"
            f"{'' if upper is None else f' ({upper:.0f} mm)'} and above that of {levels[1]}"
            f"{'' if lower is None else f' ({lower:.0f} mm)'}"
        )
    return found


_LEVELS = {
    "Carina": ("T3", "T9"),
    "scapular inferior angle": ("T4", "L1"),
    "hemidiaphragm": ("T7", "L2"),
}
"""Vertebrae whose upper ends bound the height of a landmark, in any pose of the arms and phase of breathing."""

_RULES: dict[str, Callable[[LabelMasks], Estimate]] = {
    "Skull": cranium,
    **{f"{side.title()} humeral head": partial(humeral_head, side=side) for side in ("right", "left")},
    **{f"{side.title()} scapular inferior angle": partial(scapular_angle, side=side) for side in ("right", "left")},
    "T1": partial(vertebral_body, name="vertebrae_T1", neighbours=("vertebrae_T2", "vertebrae_C7")),
    "T12": partial(vertebral_body, name="vertebrae_T12", neighbours=("vertebrae_T11", "vertebrae_L1")),
    "Carina": carina,
    **{f"{side.title()} hemidiaphragm": partial(dome, side=side) for side in ("right", "left")},
}
