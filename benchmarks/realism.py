"""Measure how well classifiers separate DRRs of real CTs and of virtual patients.

    python benchmarks/realism.py --json r.json --plot r.png --sheet s.png
    python benchmarks/realism.py --compare before.json --json after.json

Half of the images are frontal views of real CTs, half are views of virtual patients at the same positions relative to
landmarks, on the voxels of the same CT, without its table. No view shows an end of a volume, and all images have the
same histogram. Each CT is left out in turn and tested beside virtual people that were not trained on either: 50 % is
chance, which means that the classifier has found no difference that generalises to another person. The controls
divide virtual patients, and real CTs, into two kinds at random. A blur removes details first.

A run measures the virtual patients of its commit. ``--compare`` prints the results of an earlier commit below them. The
linear probe sees features of the network that `conformal` ships with, so results of commits that ship different
networks are compared by the CNN.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._support.matched_views import match_histograms
from benchmarks._support.realism_collection import VIRTUAL, ImageCollection, collect
from benchmarks._support.realism_scores import judge
from benchmarks._support.realism_spectra import BANDS_PER_MM, band_ratios, band_table, draw_spectra, spectra
from carm_env.evaluation.plots import drawing
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, check_image_size, check_isocenter_depth
from carm_env.system.command_line import run_script
from carm_env.system.files import atomic_write
from carm_env.system.structured_files import read_json_mapping


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        real: CTs of people, installed by name.
        raised: CTs whose arms are raised; the arms of others are at the sides.
        people: virtual patients, at least two for each pose of the arms; a CT is compared with patients of its pose.
        views: views of each CT. Each virtual patient is seen at a share of the positions, so that half of them have as
            many views as the CT.
        size: side of the images in pixels.
        isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`).
        blurs_px: standard deviations of blurs of the images, pixels; the linear probe runs for each, the CNN for the
            first.
        steps: optimizer steps of the CNN; 0 leaves it out.
        controls: random divisions of the virtual patients for a control.
        seed: seed of positions, divisions and CNN.
        plot: PNG file for the power spectra.
        sheet: PNG file for views of every CT beside those of a virtual patient; they show people, so do not publish it
            without their licence.
        compare: results of an earlier run with the same options, such as one of an earlier commit, to print below.
        json: file for the results.
    """

    real: tuple[str, ...] = ("lidc-0001", "openkbp-24", "openkbp-114", "openkbp-311")
    raised: tuple[str, ...] = ("lidc-0001",)
    people: tuple[str, ...] = tuple(
        f"virtual:{seed}?arms={arms}&table=false" for arms in ("sides", "raised") for seed in range(3000, 3006)
    )
    views: int = 96
    size: int = 128
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM
    blurs_px: tuple[float, ...] = (0.0, 3.0)
    steps: int = 150
    controls: int = 1
    seed: int = 0
    plot: Path | None = None
    sheet: Path | None = None
    compare: Path | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        check_image_size(self.size)
        check_isocenter_depth(self.isocenter_depth_mm)
        for name, least in (("views", 1), ("steps", 0), ("controls", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected {least} or more.")
        if not self.blurs_px or min(self.blurs_px) < 0:
            raise ValueError(f"--blurs-px is {self.blurs_px}, expected numbers from 0.")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which images are compared and how the CNN is trained, as JSON."""
        return {
            "real": list(self.real),
            "raised": list(self.raised),
            "people": list(self.people),
            "views": self.views,
            "size": self.size,
            "isocenter_depth_mm": self.isocenter_depth_mm,
            "steps": self.steps,
        }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the results: a row for each comparison and classifier."""

    def cells(figures: Mapping[str, Any], form: str) -> tuple[str, str]:
        low, high = figures["interval"] or (figures["lowest"], figures["highest"])
        what = "" if figures["interval"] else " (range)"
        return form.format(figures["mean"]), f"{form.format(low)} to {form.format(high)}{what}"

    return markdown_table(
        (
            "comparison", "classifier", "blur, px", "balanced accuracy", "95 % interval", "AUC", "95 % interval",
            "people left out", "images tested",
        ),
        [
            (
                row["comparison"], row["classifier"], f"{row['blur_px']:g}", *cells(row["balanced_accuracy"], "{:.0%}"),
                *cells(row["auc"], "{:.2f}"), str(row["people"]), str(row["images"]),
            )
            for row in rows
        ],
    )  # fmt: skip


def earlier_report(path: Path, settings: Mapping[str, Any]) -> str:
    """Formats the results that an earlier run saved.

    Args:
        path: its JSON file.
        settings: `Arguments.settings` of this run.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it holds no results of this script, or results of other settings.
    """
    found = read_json_mapping(path)
    try:
        run = found["run"]
        tables = table(found["results"]), band_table(found["power_relative_to_real"])
        title = f"{path}, commit {run['git']}, {run['date']}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"--compare is {path}, which holds no results of benchmarks/realism.py.") from error
    for name, value in settings.items():
        # Early results do not state which CTs have raised arms.
        if found.get(name, value) != value:
            raise ValueError(
                f"--compare is {path}, which was measured with {name} {found[name]}, expected {value} as in this run."
            )
    return "\n".join(["", title, *tables])


def draw_sheet(collection: ImageCollection, count: int = 3) -> Image.Image:
    """Draws views of each CT, each above the same view of a virtual person, with equal histograms."""
    matched = np.rint(match_histograms(collection.images, collection.air)).astype(np.uint8)
    side, cts = matched.shape[-1], list(collection.axis)
    sheet = Image.new("L", (count * len(cts) * side, len(collection.groups) * side))
    for (row, groups), (column, ct) in product(enumerate(collection.groups.values()), enumerate(cts)):
        # The positions of the first virtual person, all of which the CT has as well.
        others = next(group for group in collection.groups[VIRTUAL] if group.ct == ct)
        own = next(group for group in groups if group.ct == ct).rows
        shown = [own[collection.position[own] == position] for position in collection.position[others.rows[:count]]]
        for number, found in enumerate(shown):
            for image in matched[found]:
                sheet.paste(Image.fromarray(image), ((column * count + number) * side, row * side))
    return sheet


def run(arguments: Arguments) -> None:
    """Renders, compares, prints and saves."""
    earlier = None if arguments.compare is None else earlier_report(arguments.compare, arguments.settings)
    collection = collect(
        arguments.real,
        arguments.raised,
        arguments.people,
        views=arguments.views,
        size=arguments.size,
        isocenter_depth_mm=arguments.isocenter_depth_mm,
        seed=arguments.seed,
    )
    rows = judge(
        collection,
        blurs_px=arguments.blurs_px,
        steps=arguments.steps,
        controls=arguments.controls,
        seed=arguments.seed,
    )
    found = spectra(collection)
    ratios = {part: band_ratios(curves) for part, curves in found.items()}
    print(table(rows))
    print(band_table(ratios))
    if earlier is not None:
        print(earlier)
    values = {
        "results": rows,
        "spectra": found,
        "power_relative_to_real": ratios,
        "bands_per_mm": list(BANDS_PER_MM),
        **arguments.settings,
        "controls": arguments.controls,
    }
    save_measurement(arguments.json, values, arguments.seed)
    if arguments.plot is not None:
        with drawing(str(arguments.plot)):
            draw_spectra(found, arguments.plot)
    if arguments.sheet is not None:
        with atomic_write(arguments.sheet) as temporary:
            draw_sheet(collection).save(temporary, format="PNG")


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
