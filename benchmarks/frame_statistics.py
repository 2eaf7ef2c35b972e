"""Computes statistics of X-ray frames: greys, sharpness, noise, contrast of bone and lung.

    python benchmarks/frame_statistics.py --ours --frames DIR --json frames.json

``--frames`` reads a folder of PNG files. ``--ours`` renders the views of ``benchmarks/contact_sheet.py`` and reports
the views of the published episodes a second time (``ours_trips``). All frames are resized to one side length
(``--side``), because sharpness is measured in pixels.

Contrast is the difference between the mean greys of two regions as a share of the full scale. Regions are boxes drawn
by hand (``--boxes``, see ``benchmarks/frame_boxes.json``); for our own views they are also derived from the material
along each ray, at equal thickness (`REGIONS`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve

from benchmarks._support.power_spectrum import power_spectrum, radial_mean
from benchmarks._support.sample_views import PUBLISHED_VIEWS, VIEWS
from carm_env.envs.scene import Scene, load_scene
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.geometry import CArmGeometry, CArmPose, ProjectionGeometry
from carm_env.system.command_line import run_script
from carm_env.system.structured_files import read_json
from carm_env.xray.cpu.separable import SeparableProjector
from carm_env.xray.physics.materials import HU_MAX, HU_MIN, DensityTable

DEFAULT_SIDE = 768
DEFAULT_BOXES = Path(__file__).parent / "frame_boxes.json"
BINS = 10
BLACK, WHITE = 2, 253
GRADIENT_PERCENT = (50, 90, 99)
SPECTRUM_FIT = (1 / 64, 1 / 8)
"""Range of the fit of the spectrum's slope, cycles per pixel: from body parts to edges, above the noise."""
LUNG_HU = (-950, -500)
REGIONS = {
    "bone": "1 g/cm^2 of bone or more, less than 1 cm of lung",
    "lung": "5 cm of lung or more, less than 0.3 g/cm^2 of bone",
    "soft": "less than 0.05 g/cm^2 of bone and 0.5 cm of lung, 2 cm of tissue or more",
}
DENSITY_G_CM3 = {"soft": 1.05, "bone": 1.6}
"""Converts areal density to thickness."""
MIN_PIXELS = 50
_LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])

Frame = NDArray[np.uint8]
Boxes = Mapping[str, Mapping[str, Sequence[int]]]


def describe(frame: Frame) -> dict[str, Any]:
    """Computes the statistics of a frame ``(n, n)`` uint8.

    - ``mean``, ``std``: mean and standard deviation of the greys, 0 to 255; ``black``, ``white``: shares of pixels at
      the ends; ``histogram``: shares in ten equal bins.
    - ``slope``: slope of the radial power spectrum (Hann window) in a double-logarithmic plot, between 1/64 and 1/8
      cycles per pixel; more negative is smoother. ``above_1_8``, ``above_1_4``: shares of the variance above 1/8 and
      1/4 of the sampling frequency.
    - ``gradient_50``, ``_90``, ``_99``: percentiles of the gradient magnitude, greys per pixel.
    - ``noise``: standard deviation of the noise in greys, estimated with Immerkaer's operator (Computer Vision and
      Image Understanding 64, 1996); rounding to integers alone gives 0.2 to 0.3.
    """
    grey = frame.astype(np.float64)
    rows, columns = np.gradient(grey)
    gradient = np.hypot(rows, columns)
    noise = np.abs(convolve(grey, _LAPLACIAN)[1:-1, 1:-1]).mean() * np.sqrt(np.pi / 2) / 6
    return {
        "mean": float(grey.mean()),
        "std": float(grey.std()),
        "black": float((frame <= BLACK).mean()),
        "white": float((frame >= WHITE).mean()),
        "histogram": (np.histogram(frame, BINS, (0, 256))[0] / frame.size).tolist(),
        **_spectrum(grey),
        **{f"gradient_{p}": float(np.percentile(gradient, p)) for p in GRADIENT_PERCENT},
        "noise": float(noise),
    }


def _spectrum(grey: NDArray[np.float64]) -> dict[str, float]:
    """Computes the slope and the high-frequency shares of the radial power spectrum."""
    power, radius = power_spectrum(grey)
    rings, mean_power = radial_mean(power, radius)
    fitted = (rings >= SPECTRUM_FIT[0]) & (rings <= SPECTRUM_FIT[1]) & (mean_power > 0)
    slope = np.polyfit(np.log(rings[fitted]), np.log(mean_power[fitted]), 1)[0] if fitted.sum() > 1 else np.nan
    total = power.sum() or 1.0
    return {
        "slope": float(slope),
        "above_1_8": float(power[radius > 1 / 8].sum() / total),
        "above_1_4": float(power[radius > 1 / 4].sum() / total),
    }


def box_contrasts(frame: Frame, regions: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Returns ``bone_soft`` and ``lung_soft``, where both regions exist: differences of mean greys as shares of 255."""
    greys = {name: float(frame[where].mean()) for name, where in regions.items() if where.any()}
    known = [name for name in ("bone", "lung") if name in greys and "soft" in greys]
    return {f"{name}_soft": (greys[name] - greys["soft"]) / 255 for name in known}


def box_regions(boxes: Mapping[str, Sequence[int]], side: int) -> dict[str, NDArray[np.bool_]]:
    """Returns masks ``(side, side)`` of boxes ``[left, top, right, bottom]`` that were drawn at 768 pixels."""
    masks = {}
    for name, box in boxes.items():
        left, top, right, bottom = (round(edge * side / DEFAULT_SIDE) for edge in box)
        masks[name] = np.zeros((side, side), np.bool_)
        masks[name][top:bottom, left:right] = True
    return masks


def mass_contrasts(scene: Scene, pose: CArmPose, frame: Frame) -> dict[str, float]:
    """Returns ``bone_soft`` and ``lung_soft`` of our own view, with regions by the material along each ray (`REGIONS`).

    Pixels are compared at equal thickness of the body, to 1 cm, so that a thin arm is not compared with a thick trunk;
    a thickness with fewer than 50 pixels of either region is ignored.
    """
    side = len(frame)
    soft, bone = scene.camera.path_masses(pose, side)
    lung_cm = _lung_projector(scene).path_masses(ProjectionGeometry.from_pose(pose, CArmGeometry(), side))[0]
    thickness_cm = soft / DENSITY_G_CM3["soft"] + bone / DENSITY_G_CM3["bone"] + lung_cm
    masks = {
        "bone": (bone >= 1) & (lung_cm < 1),
        "lung": (lung_cm >= 5) & (bone < 0.3),
        "soft": (bone < 0.05) & (lung_cm < 0.5) & (thickness_cm >= 2),
    }
    centimetre = np.rint(thickness_cm).astype(int)
    counts = {name: np.bincount(centimetre[mask], minlength=200) for name, mask in masks.items()}
    greys = {name: np.bincount(centimetre[mask], frame[mask], minlength=200) for name, mask in masks.items()}
    found = {}
    for name in ("bone", "lung"):
        both = np.minimum(counts[name], counts["soft"]) * (np.minimum(counts[name], counts["soft"]) >= MIN_PIXELS)
        if both.any():
            at = both > 0
            difference = greys[name][at] / counts[name][at] - greys["soft"][at] / counts["soft"][at]
            found[f"{name}_soft"] = float(np.average(difference, weights=both[at]) / 255)
    return found


def _lung_projector(scene: Scene) -> SeparableProjector:
    """Returns a projector of the centimetres of lung along each ray: a material of density 1."""
    hu = np.arange(HU_MIN, HU_MAX + 1)
    inside = (LUNG_HU[0] <= hu) & (hu <= LUNG_HU[1])
    return SeparableProjector(scene.patient.volume, DensityTable(("lung",), inside[None].astype(np.float32)))


def describe_folder(folder: Path, side: int, boxes: Boxes) -> dict[str, dict[str, Any]]:
    """Computes the statistics of every PNG file of `folder`, by file name.

    Raises:
        ValueError: the folder has no PNG files.
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise ValueError(f"--frames is {folder}, expected a folder with PNG files.")
    figures = {}
    for path in paths:
        with Image.open(path) as image:
            frame = np.asarray(image.convert("L").resize((side, side), Image.Resampling.LANCZOS))
        figures[path.name] = describe(frame)
        if path.name in boxes:
            figures[path.name]["contrast_boxes"] = box_contrasts(frame, box_regions(boxes[path.name], side))
    return figures


def describe_ours(patient: str, side: int, boxes: Boxes) -> dict[str, dict[str, Any]]:
    """Computes the statistics of our views of a patient, by caption."""
    scene = load_scene(patient)
    figures = {}
    for view in VIEWS:
        pose = view.pose(scene.patient)
        frame = scene.camera.image(pose, side, noise_seed=0)
        figures[view.caption] = describe(frame)
        figures[view.caption]["contrast_masses"] = mass_contrasts(scene, pose, frame)
        if view.caption in boxes:
            figures[view.caption]["contrast_boxes"] = box_contrasts(frame, box_regions(boxes[view.caption], side))
    return figures


def summarise(frames: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the mean of every figure over the frames that have it, in the same nested form."""
    keys = dict.fromkeys(key for frame in frames.values() for key in frame)
    summary: dict[str, Any] = {"frames": len(frames)}
    for key in keys:
        values = [frame[key] for frame in frames.values() if key in frame]
        if isinstance(values[0], Mapping):
            inner = {str(n): value for n, value in enumerate(values)}
            summary[key] = {name: value for name, value in summarise(inner).items() if name != "frames"}
        else:
            summary[key] = np.mean(values, axis=0).tolist()
    return summary


def table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the means as a table: one row per figure, one column per set of frames."""
    flat = [dict(_flatten(summary)) for summary in summaries.values()]
    keys = dict.fromkeys(key for summary in flat for key in summary)
    rows = [(key, *(f"{summary[key]:.3g}" if key in summary else "-" for summary in flat)) for key in keys]
    return markdown_table(("mean of", *summaries), rows)


def _flatten(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    items: list[tuple[str, float]] = []
    for key, value in summary.items():
        if isinstance(value, Mapping):
            items += [(f"{key} {name}", number) for name, number in value.items()]
        elif isinstance(value, list):
            items += [(f"{key} {n + 1}", number) for n, number in enumerate(value)]
        else:
            items.append((key, value))
    return items


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        frames: folder of PNG files to describe.
        ours: describe our own views.
        patient: name of the patient of our own views.
        side: pixels along each side of the frames.
        boxes: JSON file of boxes by frame and region.
        json: file for the result.
    """

    frames: Path | None = None
    ours: bool = False
    patient: str = "virtual:0"
    side: int = DEFAULT_SIDE
    boxes: Path = DEFAULT_BOXES
    json: Path | None = None

    def __post_init__(self) -> None:
        if not self.ours and self.frames is None:
            raise ValueError("Neither --frames nor --ours was given, expected --frames DIR, --ours, or both.")
        if not 64 <= self.side <= 2048:
            raise ValueError(f"--side is {self.side}, expected 64 to 2048.")


def run(arguments: Arguments) -> None:
    """Computes, prints and writes the statistics."""
    boxes = read_json(arguments.boxes)
    sets: dict[str, dict[str, dict[str, Any]]] = {}
    if arguments.frames is not None:
        sets["frames"] = describe_folder(arguments.frames, arguments.side, boxes)
    if arguments.ours:
        sets["ours"] = describe_ours(arguments.patient, arguments.side, boxes)
        sets["ours_trips"] = {name: sets["ours"][name] for name in PUBLISHED_VIEWS}
    summaries = {name: summarise(frames) for name, frames in sets.items()}
    print(table(summaries))
    result = {name: {"mean": summaries[name], "frames": frames} for name, frames in sets.items()}
    save_measurement(arguments.json, {**result, "side": arguments.side, "regions": REGIONS}, 0)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
