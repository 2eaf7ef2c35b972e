"""The classes of a label map, or of a folder with one mask per class, as cropped masks along the LPS axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.ct.errors import LandmarkFileError
from carm_env.ct.images import as_volume, read_image
from carm_env.volume import Volume

CLASSES = {
    "spleen": 1, "liver": 5, "stomach": 6, "lung_upper_lobe_left": 10, "lung_lower_lobe_left": 11,
    "lung_upper_lobe_right": 12, "lung_middle_lobe_right": 13, "lung_lower_lobe_right": 14, "trachea": 16, "colon": 20,
    "vertebrae_L2": 30, "vertebrae_L1": 31, "vertebrae_T12": 32, "vertebrae_T11": 33, "vertebrae_T9": 35,
    "vertebrae_T7": 37, "vertebrae_T4": 40, "vertebrae_T3": 41, "vertebrae_T2": 42, "vertebrae_T1": 43,
    "vertebrae_C7": 44, "heart": 51, "humerus_left": 69, "humerus_right": 70, "scapula_left": 71, "scapula_right": 72,
    "skull": 91,
}  # fmt: skip
"""Labels of the classes that are used, in the task ``total`` of TotalSegmentator version 2 (Wasserthal et al., Radiol.
Artif. Intell. 2023)."""

_HIGHEST_LABEL = 118
"""Version 2 ends at 117; the preview of version 2 has the same numbers up to 116, and 118 classes."""
_VERTEBRAE = range(27, 51)
"""Labels of L5, the lowest vertebra, to C1, in the order of the spine."""
_ORDER_SLACK_MM = 5.0
_PAIRS = (
    (("humerus_left",), ("humerus_right",)),
    (("scapula_left",), ("scapula_right",)),
    (
        ("lung_upper_lobe_left", "lung_lower_lobe_left"),
        ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    ),
)
_SAME_REGION_MM = 6.0
_LEAST_VOXELS = 20
_ISLAND_SHARE = 0.05
"""Components smaller than this share of the largest one are errors of the segmentation."""

Box = tuple[slice, slice, slice]


class AbsentError(Exception):
    """A landmark cannot be derived, for the reason in the message."""


@dataclass(frozen=True, eq=False)
class Structure:
    """The voxels of one class or several.

    Attributes:
        name: name for messages.
        mask: ``(nx, ny, nz)`` voxels in their bounding box; axes run to the left, posterior and superior.
        first_mm: ``(3,)`` centre of voxel ``(0, 0, 0)``, LPS mm.
        spacing_mm: ``(3,)`` voxel size.
        cut: ``(2, 3)`` whether the structure touches the lower and the upper border of the volume along each axis.
    """

    name: str
    mask: NDArray[np.bool_]
    first_mm: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    cut: NDArray[np.bool_]

    @property
    def middle_mm(self) -> NDArray[np.float64]:
        """Middle ``(3,)`` of the bounding box, LPS mm."""
        return self.lps(0.5 * (np.array(self.mask.shape) - 1))

    def lps(self, index: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
        """Returns the points ``(..., 3)`` in LPS mm of voxel indices ``(..., 3)``."""
        return self.first_mm + np.asarray(index, float) * self.spacing_mm

    def points(self) -> NDArray[np.float64]:
        """Returns the voxel centres ``(n, 3)``, LPS mm."""
        return self.lps(np.argwhere(self.mask))

    def refined(self, edge_mm: float) -> Structure:
        """Returns the structure with voxel edges of at most `edge_mm`, its mask interpolated linearly."""
        from scipy import ndimage

        factors = np.ceil(self.spacing_mm / edge_mm).astype(int)
        if (factors == 1).all():
            return self
        filled = ndimage.zoom(self.mask.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
        spacing = self.spacing_mm / factors
        return replace(
            self, mask=filled > 0.5, first_mm=self.first_mm - (self.spacing_mm - spacing) / 2, spacing_mm=spacing
        )

    def padded_depth(self) -> NDArray[np.float64]:
        """Returns the distance of each voxel from the surface, mm; a border of the volume is not a surface."""
        from scipy import ndimage

        edges = [(int(not low), int(not high)) for low, high in self.cut.T]
        depth = ndimage.distance_transform_edt(np.pad(self.mask, edges), sampling=self.spacing_mm)
        return depth[tuple(slice(low, low + count) for (low, _), count in zip(edges, self.mask.shape, strict=True))]


class LabelMasks:
    """Masks of each class, read on demand.

    Attributes:
        assumptions: what the files do not state, and the decision, one line each.
    """

    def __init__(self, path: Path, ct: Volume | None, orientation: str | None) -> None:
        self._path, self._ct, self._orientation = path, ct, orientation
        self._map: Volume | None = None
        self._found: dict[str, tuple[Box, NDArray[np.bool_]] | None] = {}
        self._boxes: Sequence[Box | None] = ()
        self._grid: Volume | None = None
        self.assumptions: list[str] = []
        if path.is_dir():
            if not any(self._file(name) for name in CLASSES):
                raise LandmarkFileError(
                    f"{path} holds no mask such as skull.nii.gz, expected a folder of TotalSegmentator masks."
                )
            return
        self._grid = self._map = self._load(path)
        low, high = int(self._map.hu.min()), int(self._map.hu.max())
        if low < 0 or high > _HIGHEST_LABEL:
            kind = "it seems to be a CT" if low < 0 or high > 1000 else "it is of another task or program"
            raise LandmarkFileError(
                f"{path} holds values from {low} to {high}, expected a label map of TotalSegmentator's task 'total' "
                f"(0 to {_HIGHEST_LABEL}): {kind}."
            )
        from scipy import ndimage

        self._boxes = ndimage.find_objects(self._map.hu.astype(np.uint8), _HIGHEST_LABEL)
        self._check_numbers()
        self._assume("label map: numbers taken for those of TotalSegmentator 2, task 'total', which it does not state")

    def structure(self, *names: str, name: str | None = None) -> Structure:
        """Returns the union of classes, without small islands; classes that are absent are left out.

        Args:
            names: names of the classes.
            name: name for messages; by default that of the first class.

        Raises:
            AbsentError: none of the classes has enough voxels.
        """
        parts = [part for part in map(self._part, names) if part is not None]
        if not parts or sum(int(np.count_nonzero(mask)) for _, mask in parts) < _LEAST_VOXELS:
            where = "folder" if self._map is None else "label map"
            raise AbsentError(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not in the {where}")
        grid = self._grid
        assert grid is not None
        first = np.min([[side.start for side in box] for box, _ in parts], axis=0)
        last = np.max([[side.stop for side in box] for box, _ in parts], axis=0)
        union = np.zeros(last - first, bool)
        for box, mask in parts:
            place = tuple(slice(side.start - begin, side.stop - begin) for side, begin in zip(box, first, strict=True))
            union[place] |= mask
        union = _without_islands(union)
        rows = [np.flatnonzero(union.any(tuple(axis for axis in range(3) if axis != along))) for along in range(3)]
        inner = tuple(slice(int(row[0]), int(row[-1]) + 1) for row in rows)
        begin = first + [side.start for side in inner]
        end = first + [side.stop for side in inner]
        cut = np.array([begin == 0, end == np.array(grid.hu.shape)])
        return Structure(name or names[0], union[inner], grid.lps_from_index(begin), grid.spacing_mm, cut)

    def has(self, *names: str) -> bool:
        """Returns whether any of the classes is there."""
        return any(self._part(name) is not None for name in names)

    def top_mm(self, name: str) -> float | None:
        """Returns the upper end of a class, LPS mm; None if it is absent or cut there."""
        try:
            structure = self.structure(name)
        except AbsentError:
            return None
        top = float(structure.lps(np.array(structure.mask.shape) - 1)[2] + structure.spacing_mm[2] / 2)
        return None if structure.cut[1, 2] else top

    def _part(self, name: str) -> tuple[Box, NDArray[np.bool_]] | None:
        """Returns the bounding box of a class in the volume and its mask in that box."""
        if name not in self._found:
            self._found[name] = self._of_map(CLASSES[name]) if self._map is not None else self._of_file(name)
        return self._found[name]

    def _of_map(self, label: int) -> tuple[Box, NDArray[np.bool_]] | None:
        assert self._map is not None
        box = self._boxes[label - 1] if label <= len(self._boxes) else None
        return None if box is None else (box, self._map.hu[box] == label)

    def _file(self, name: str) -> Path | None:
        paths = (self._path / f"{name}{suffix}" for suffix in (".nii.gz", ".nii"))
        return next((path for path in paths if path.is_file()), None)

    def _of_file(self, name: str) -> tuple[Box, NDArray[np.bool_]] | None:
        from scipy import ndimage

        file = self._file(name)
        if file is None:
            return None
        volume = self._load(file)
        if int(volume.hu.min()) < 0 or len(np.unique(volume.hu)) > 2:
            raise LandmarkFileError(
                f"{file} holds values from {volume.hu.min()} to {volume.hu.max()}, expected a mask of two values."
            )
        if self._grid is None:
            self._grid = volume
        elif volume.hu.shape != self._grid.hu.shape or not np.allclose(volume.affine_lps_mm, self._grid.affine_lps_mm):
            raise LandmarkFileError(
                f"{file} has {' x '.join(map(str, volume.hu.shape))} voxels, or another position, than the other masks "
                f"({' x '.join(map(str, self._grid.hu.shape))}), expected one grid: compute all masks from one CT."
            )
        mask = volume.hu > 0
        (box,) = ndimage.find_objects(mask.view(np.uint8), 1) or (None,)
        return None if box is None else (box, mask[box])

    def _load(self, path: Path) -> Volume:
        try:
            image = read_image(path, self._orientation)
        except ValueError as error:
            raise LandmarkFileError(str(error)) from error
        fractions = int(np.count_nonzero(image.values != np.rint(image.values)))
        if fractions:
            raise LandmarkFileError(
                f"{path} holds {fractions} values that are not whole numbers, expected class labels: save it without "
                "interpolation (nearest neighbour)."
            )
        for line in image.assumptions:
            self._assume(f"label map: {line}")
        volume = as_volume(image, labels=True)
        if self._ct is not None:
            self._check_region(volume, self._ct, path)
        return volume

    def _assume(self, line: str) -> None:
        if line not in self.assumptions:
            self.assumptions.append(line)

    def _check_numbers(self) -> None:
        """Raises if the classes do not lie as people's organs do: another version's numbers, or a mirrored map."""
        assert self._map is not None
        fault = None
        heights = [(label, self._box_middle(label, 2)) for label in _VERTEBRAE]
        known = [(label, height) for label, height in heights if height is not None]
        for (lower, low), (upper, high) in zip(known, known[1:], strict=False):
            if high < low - _ORDER_SLACK_MM:
                fault = f"the vertebra {upper} lies {low - high:.0f} mm below the vertebra {lower}"
                break
        for left, right in _PAIRS:
            sides = [[self._box_middle(CLASSES[name], 0) for name in names] for names in (left, right)]
            here = [[x for x in side if x is not None] for side in sides]
            if all(here) and np.mean(here[0]) < np.mean(here[1]):
                fault = fault or f"{left[0]} ({CLASSES[left[0]]}) lies on the right of {right[0]} ({CLASSES[right[0]]})"
        if fault:
            raise LandmarkFileError(
                f"{self._path}: {fault}. Expected the numbers of TotalSegmentator 2, task 'total', and the patient's "
                "left at the left: the map may be of another version, whose numbers differ, or be mirrored. Compute "
                "it with version 2, or use a folder of masks, whose names are the same in both versions."
            )

    def _box_middle(self, label: int, axis: int) -> float | None:
        assert self._map is not None
        box = self._boxes[label - 1] if label <= len(self._boxes) else None
        if box is None or np.count_nonzero(self._map.hu[box] == label) < _LEAST_VOXELS:
            return None
        index = 0.5 * (box[axis].start + box[axis].stop - 1)
        return float(self._map.origin_lps_mm[axis] + index * self._map.spacing_mm[axis])

    def _check_region(self, labels: Volume, ct: Volume, path: Path) -> None:
        """Raises if a label map is shifted against the CT; it may be a part of it, or the CT a part of it."""
        ours, theirs = np.array(ct.corners_lps_mm), np.array(labels.corners_lps_mm)
        margin = np.maximum(2 * np.maximum(ct.spacing_mm, labels.spacing_mm), _SAME_REGION_MM)
        # Positive where the label map sticks out of the CT, at its lower and upper end of each axis.
        beyond = np.array([ours[0] - theirs[0], theirs[1] - ours[1]])
        out, short = beyond > margin, beyond < -margin
        shifted = (out & short[::-1]).any()
        region = f"{theirs.round().tolist()} instead of {ours.round().tolist()} (LPS mm)"
        if shifted or (theirs[1] < ours[0]).any() or (theirs[0] > ours[1]).any():
            raise LandmarkFileError(
                f"{path} does not have the grid of this CT: it covers {region}. Compute the label map from this CT, or "
                "correct its header."
            )
        if (out | short).any():
            self._assume("label map: it covers another region than the CT; taken in the same coordinates")


def _without_islands(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= _ISLAND_SHARE * sizes.max())[labels] & mask
