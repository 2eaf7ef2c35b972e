"""Landmarks in X-ray images of others: images in, names with probabilities, positions and a familiarity check out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from carm_env.ct.radiographs import Radiograph, RadiographError, is_image_file
from carm_env.evaluation.localization import (
    DEFAULT_FIELD_OF_VIEW_MM,
    IMAGE_SIZE,
    Localizer,
    expected_field_of_view_mm,
    locate,
)
from carm_env.landmarks import LANDMARKS, N_LANDMARKS, landmark

FIELD_OF_VIEW_LIMITS_MM = (50.0, 1000.0)
LOCALIZED, OUT_OF_DISTRIBUTION = "localized", "out_of_distribution"
NO_GUESS_P_VALUE = 0.001
"""An image with a p-value of at most this gets no guess: one frontal view in a thousand is as unfamiliar."""
_SAME_SIZE = 0.01
"""Fields of view that differ by less than this share count as equal."""


class Detector(Protocol):
    """Scores how unlike the views that the networks know an image is; see `policies.out_of_distribution`."""

    def score(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns scores ``(n,)`` of images ``(n, s, s)``; higher is less familiar."""
        ...

    def p_value(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Returns the shares of calibration views that score at least as high."""
        ...

    def threshold(self, false_alarm_rate: float) -> float:
        """Returns the lowest score whose p-value is at most the rate."""
        ...


@dataclass(frozen=True, eq=False)
class SquareView:
    """The square of an image that a localiser sees.

    Attributes:
        image: ``(IMAGE_SIZE, IMAGE_SIZE)`` uint8.
        centre: ``(u, v)`` its centre, pixels of the whole image.
        pixels_per_mm: pixels of the whole image per millimetre in the middle of the body.
        notes: how the square was taken, one line each.
    """

    image: NDArray[np.uint8]
    centre: tuple[float, float]
    pixels_per_mm: float
    notes: tuple[str, ...]

    def pixels(self, displacement_mm: ArrayLike) -> NDArray[np.float64]:
        """Returns the pixels ``(..., 2)`` ``(u, v)`` of displacements ``(..., 2)`` to the left and cranially, mm."""
        displacement = np.asarray(displacement_mm, float)
        return np.array(self.centre) + displacement * [self.pixels_per_mm, -self.pixels_per_mm]


def square_view(
    radiograph: Radiograph, field_of_view_mm: float | None = None, expected_mm: float = DEFAULT_FIELD_OF_VIEW_MM
) -> SquareView:
    """Takes the square about the middle of an image that shows the field of view that a localiser knows.

    Args:
        radiograph: the image.
        field_of_view_mm: length in the middle of the body that the shorter side of the image shows; by default what
            the file states, or else `expected_mm`.
        expected_mm: the field of view that the localiser knows
            (`carm_env.evaluation.localization.expected_field_of_view_mm`).

    Raises:
        RadiographError: the field of view is not between 50 and 1000 mm.
    """
    height, width = radiograph.image.shape
    side = min(height, width)
    notes = [] if height == width else [f"of {width} x {height} pixels the middle {side} x {side} were used"]
    if field_of_view_mm is not None:
        shown_mm, origin = field_of_view_mm, "as given"
    elif radiograph.pixel_mm is not None:
        shown_mm, origin = radiograph.pixel_mm * side, "as the file states"
    else:
        shown_mm, origin = expected_mm, "assumed"
    low, high = FIELD_OF_VIEW_LIMITS_MM
    if not low <= shown_mm <= high:
        raise RadiographError(
            f"the field of view is {shown_mm:g} mm ({origin}), expected {low:g} to {high:g} mm: set --field-of-view."
        )
    notes.append(f"field of view {shown_mm:.0f} mm, {origin}")
    wanted = side * expected_mm / shown_mm
    if abs(wanted / side - 1) < _SAME_SIZE:
        wanted = float(side)
    elif wanted < side:
        notes.append(f"cropped to the middle {expected_mm:.0f} mm")
    else:
        notes.append(f"extended to {expected_mm:.0f} mm by repeating the border")
    left, top = (width - wanted) / 2, (height - wanted) / 2
    image = _resampled(radiograph.image, left, top, wanted)
    return SquareView(image, ((width - 1) / 2, (height - 1) / 2), wanted / expected_mm, tuple(notes))


def _resampled(image: NDArray[np.uint8], left: float, top: float, side: float) -> NDArray[np.uint8]:
    margin = max(0, int(np.ceil(max(-left, -top))))
    source = Image.fromarray(np.pad(image, margin, mode="edge") if margin else image)
    box = (left + margin, top + margin, left + margin + side, top + margin + side)
    # Averages over the area of a pixel, as networks shrink their images.
    method = Image.Resampling.BOX if side >= IMAGE_SIZE else Image.Resampling.BILINEAR
    return np.array(source.resize((IMAGE_SIZE, IMAGE_SIZE), method, box=box))


@dataclass(frozen=True, eq=False)
class ImageFindings:
    """What is found in one image.

    Attributes:
        status: `LOCALIZED` or `OUT_OF_DISTRIBUTION`.
        closest: id and probability of the landmarks closest to the centre, nearest first; the probability is None if
            the localiser has none. Empty for an image that is out of distribution.
        guess: ids for an image that is out of distribution, without confidence; empty if it looks inverted or is far
            out, see `NO_GUESS_P_VALUE`.
        score: out-of-distribution score.
        p_value: share of calibration views that score at least as high.
        looks_inverted: the image is out of distribution, and its negative is not.
        pixels: ``(14, 2)`` pixels ``(u, v)`` of the landmarks in the whole image; None if the localiser has none.
        region_pixels: ``(14, 2)`` semi-axes of their regions along u and v; None if the localiser has none.
    """

    status: str
    closest: tuple[tuple[int, float | None], ...]
    guess: tuple[int, ...]
    score: float
    p_value: float
    looks_inverted: bool
    pixels: NDArray[np.float64] | None
    region_pixels: NDArray[np.float64] | None

    def landmarks_json(self, width: int, height: int) -> list[dict[str, Any]]:
        """Returns the positions of the landmarks as JSON, for an image of a size in pixels."""
        if self.pixels is None:
            return []
        inside = np.all((self.pixels > -0.5) & (self.pixels < np.array([width, height]) - 0.5), axis=1)
        pixels = self.pixels.round(1).tolist()
        regions = [None] * N_LANDMARKS if self.region_pixels is None else self.region_pixels.round(1).tolist()
        return [
            {
                "id": item.id,
                "name": item.name,
                "pixel": pixels[item.index],
                "region_90_pixels": regions[item.index],
                "in_image": bool(inside[item.index]),
            }
            for item in LANDMARKS
        ]


class ImageExaminer:
    """Localises landmarks in images, and says which images it should not be asked about.

    Args:
        localizer: names the landmarks.
        detector: scores the images.
        false_alarm_rate: share of familiar views that may count as out of distribution.

    Attributes:
        field_of_view_mm: field of view that the square views must have.

    Raises:
        ValueError: the detector is not calibrated for such a rate.
    """

    def __init__(self, localizer: Localizer, detector: Detector, false_alarm_rate: float) -> None:
        self._localizer, self._detector = localizer, detector
        self.field_of_view_mm = expected_field_of_view_mm(localizer)
        self.false_alarm_rate = false_alarm_rate
        self.threshold = detector.threshold(false_alarm_rate)

    def examine(self, view: SquareView) -> ImageFindings:
        """Returns what is found in the square view of an image."""
        score, of_negative = self._detector.score(np.stack([view.image, 255 - view.image])).tolist()
        is_unfamiliar = score >= self.threshold
        p_value = float(self._detector.p_value([score])[0])
        status = OUT_OF_DISTRIBUTION if is_unfamiliar else LOCALIZED
        looks_inverted = is_unfamiliar and of_negative < self.threshold
        if is_unfamiliar and (looks_inverted or p_value <= NO_GUESS_P_VALUE):
            return ImageFindings(status, (), (), score, p_value, looks_inverted, None, None)
        found = locate(self._localizer, view.image[None])
        names = tuple(int(key) for key in found.closest_landmarks[0] if key)
        if is_unfamiliar:
            return ImageFindings(status, (), names, score, p_value, looks_inverted, None, None)
        probabilities = found.probabilities
        closest = tuple(
            (key, None if probabilities is None else float(probabilities[0, landmark(key).index])) for key in names
        )
        pixels = None if found.displacement_mm is None else view.pixels(found.displacement_mm[0])
        regions = None if found.region_mm is None else found.region_mm[0] * view.pixels_per_mm
        return ImageFindings(status, closest, (), score, p_value, looks_inverted, pixels, regions)


def find_images(path: Path, leave_out: Collection[Path] = ()) -> tuple[list[Path], list[Path]]:
    """Returns the image files of a folder and its subfolders, and its other files; hidden ones are passed over.

    Symbolic links to folders are followed. A folder that is reached by several paths is read once: by the path without
    links, if there is one. A subfolder that cannot be listed counts as an image, which cannot be read.

    Args:
        path: an image file, which is returned alone, or a folder.
        leave_out: files and folders that are passed over, by whatever path they are reached, such as an earlier output.

    Raises:
        FileNotFoundError: there is no such file or folder.
        OSError: the folder cannot be listed.
        RadiographError: it is neither a file nor a folder, or the folder holds no image.
    """
    if path.is_file():
        return [path], []
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if not path.is_dir():
        raise RadiographError(f"{path} is neither a file nor a folder, expected a PNG, JPEG or DICOM file or a folder.")
    images: list[Path] = []
    others: list[Path] = []
    for file in _files(path, leave_out):
        (images if is_image_file(file) or file.is_dir() else others).append(file)
    if not images:
        found = f"only {len(others)} file(s) of other kinds" if others else "no file"
        raise RadiographError(f"{path} holds {found}, expected PNG, JPEG or DICOM images: choose another folder.")
    return images, others


def _files(folder: Path, leave_out: Collection[Path]) -> Iterator[Path]:
    """Yields the files of a folder, those behind links to folders last; no folder is read twice, so that cycles end."""
    left_out, seen = {os.path.realpath(path) for path in leave_out}, set[str]()

    def is_wanted(name: str, path: Path) -> bool:
        real = Path(os.path.realpath(path))
        return not name.startswith(".") and left_out.isdisjoint(map(str, (real, *real.parents)))

    unlisted: list[OSError] = []
    pending = deque([folder])
    while pending:
        for parent, folders, names in os.walk(pending.popleft(), onerror=unlisted.append):
            here, real = Path(parent), os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if is_wanted(name, here / name))
            pending += (here / name for name in folders if (here / name).is_symlink())
            yield from (here / name for name in sorted(names) if is_wanted(name, here / name))
    for error in unlisted:
        if Path(error.filename) == folder:
            raise error
        yield Path(error.filename)
