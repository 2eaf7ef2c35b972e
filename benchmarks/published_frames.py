"""Compares localisers with a reading of the frames of people that the paper's authors published.

    python benchmarks/published_frames.py FOLDER --policies conformal cnn mllm --json frames.json
    python benchmarks/published_frames.py FOLDER --policies conformal conformal:runs/conformal/checkpoint

``FOLDER`` holds the 19 PNG files; nothing of them is copied. A session of a language model, no clinician, read in each
which landmarks are closest to the centre and where landmarks are, and how certain that is (``--readings``,
`DEFAULT_READINGS`). Every localiser sees the frames as `carm-env localize` shows them to it. Counted are the frames in
which

- ``first right``: the localiser's first landmark is the read one; ``starts`` counts the first frames of episodes, and
  ``unambiguous`` leaves out frames in which another landmark is about as near;
- ``right in first two``: the read landmark is among the localiser's first two;
- ``first in read two``: the localiser's first landmark is the read one or the second one.

``distance`` is the mean distance between read and predicted positions in percent of the image's side, over landmarks
that are seen with more than low certainty. Frames that are missing or have another hash are named and left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from benchmarks._support.frame_reading import FrameReading, read_frame_readings
from carm_env.ct.radiographs import read_radiograph
from carm_env.evaluation.external_images import SquareView, square_view
from carm_env.evaluation.localization import (
    DEFAULT_FIELD_OF_VIEW_MM,
    Localization,
    Localizer,
    expected_field_of_view_mm,
    locate,
)
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.landmarks import landmark
from carm_env.system.command_line import run_script
from carm_env.system.files import file_hash
from policies.localizers import make_localizer

DEFAULT_READINGS = Path(__file__).parent / "published_frames.yaml"
COUNTS = ("starts", "first right", "unambiguous", "right in first two", "first in read two")


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        folder: folder with the published frames.
        policies: cnn, conformal, mllm or mllm_grpo; with :CHECKPOINT for other weights.
        readings: YAML file of what was read in the frames.
        field_of_view: length that a frame shows in the middle of the body, mm; by default that which the policy knows.
        json: file for the results.
    """

    folder: Positional[Path]
    policies: tuple[str, ...] = ("conformal", "cnn", "mllm")
    readings: Path = DEFAULT_READINGS
    field_of_view: float | None = None
    json: Path | None = None


def usable_frames(folder: Path, readings: Sequence[FrameReading]) -> tuple[list[FrameReading], dict[str, str]]:
    """Returns the readings whose frames are in a folder, and why the others are left out, by file name.

    Raises:
        FileNotFoundError: the folder has none of the frames that were read.
    """
    used, left_out = [], {}
    for reading in readings:
        path = folder / reading.file
        if not path.is_file():
            left_out[reading.file] = "missing"
        elif file_hash(path) != reading.sha256:
            left_out[reading.file] = "not the file that was read: its SHA-256 differs"
        else:
            used.append(reading)
    if not used:
        name, reason = next(iter(left_out.items()))
        raise FileNotFoundError(
            f"{folder} has none of the {len(readings)} frames that were read ({name}: {reason}), expected the PNG "
            "files that the paper's authors published."
        )
    return used, left_out


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame with its reading.

    Attributes:
        reading: what was read.
        view: the frame as a localiser sees it.
        size: its width and height in pixels.
    """

    reading: FrameReading
    view: SquareView
    size: tuple[int, int]


def load_frame(
    folder: Path,
    reading: FrameReading,
    field_of_view_mm: float | None = None,
    expected_mm: float = DEFAULT_FIELD_OF_VIEW_MM,
) -> Frame:
    """Loads the frame of a reading; see `square_view` for the fields of view and the errors."""
    radiograph = read_radiograph(folder / reading.file)
    height, width = radiograph.image.shape
    return Frame(reading, square_view(radiograph, field_of_view_mm, expected_mm), (width, height))


def compare(localizer: Localizer, frames: Sequence[Frame]) -> dict[str, Any]:
    """Returns what a localiser says of frames beside their readings, as JSON."""
    found = locate(localizer, np.stack([frame.view.image for frame in frames]))
    rows = [_compare_frame(found, row, frame) for row, frame in enumerate(frames)]
    return {**_summary(rows), "frames": rows}


def _compare_frame(found: Localization, row: int, frame: Frame) -> dict[str, Any]:
    reading = frame.reading
    named = [int(key) for key in found.closest_landmarks[row] if key]
    read = [key for key, _ in reading.closest]
    distances: dict[str, float] = {}
    if found.displacement_mm is not None:
        predicted = frame.view.pixels(found.displacement_mm[row])
        for seen in reading.visible:
            if seen.certainty != "low":
                item = landmark(seen.landmark)
                # Positions run from edge to edge, pixels from centre to centre.
                apart = predicted[item.index] - (np.multiply(seen.position, frame.size) - 0.5)
                distances[item.slug] = 100 * float(np.linalg.norm(apart)) / min(frame.size)
    return {
        "file": reading.file,
        "start": reading.start,
        "ambiguous": reading.is_ambiguous,
        "read": [landmark(key).slug for key in read],
        "named": [landmark(key).slug for key in named],
        "first_right": named[:1] == read[:1],
        "right_in_first_two": read[0] in named[:2],
        "first_in_read_two": bool(set(named[:1]) & set(read[:2])),
        "distance_percent": distances,
    }


def _summary(frames: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kinds = {
        "starts": ("first_right", [frame for frame in frames if frame["start"]]),
        "first right": ("first_right", frames),
        "unambiguous": ("first_right", [frame for frame in frames if not frame["ambiguous"]]),
        "right in first two": ("right_in_first_two", frames),
        "first in read two": ("first_in_read_two", frames),
    }
    distances = [distance for frame in frames for distance in frame["distance_percent"].values()]
    counts = {
        name: {"count": sum(frame[flag] for frame in chosen), "of": len(chosen)}
        for name, (flag, chosen) in kinds.items()
    }
    return {
        "counts": counts,
        "mean_distance_percent": float(np.mean(distances)) if distances else None,
        "n_positions": len(distances),
    }


def _row(policy: str, result: dict[str, Any]) -> list[str]:
    counts = [f"{result['counts'][name]['count']}/{result['counts'][name]['of']}" for name in COUNTS]
    mean = result["mean_distance_percent"]
    return [policy, *counts, "" if mean is None else f"{mean:.1f} ({result['n_positions']})"]


def run(arguments: Arguments) -> None:
    """Compares, prints and saves."""
    readings, left_out = usable_frames(arguments.folder, read_frame_readings(arguments.readings))
    # A wrong name is reported before the first image.
    localizers = {policy: make_localizer(policy) for policy in arguments.policies}
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}.", file=sys.stderr)
    results = {}
    for name, localizer in localizers.items():
        fields = arguments.field_of_view, expected_field_of_view_mm(localizer)
        results[name] = compare(localizer, [load_frame(arguments.folder, reading, *fields) for reading in readings])
    print(
        markdown_table(
            ("policy", *COUNTS, "distance, % of the side (positions)"),
            [_row(policy, result) for policy, result in results.items()],
        )
    )
    about = {
        "readings": file_hash(arguments.readings),
        "field_of_view_mm": arguments.field_of_view,
        "left_out": left_out,
    }
    save_measurement(arguments.json, {**about, "policies": results}, 0)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
