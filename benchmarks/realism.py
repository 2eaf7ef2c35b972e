"""Measure how well classifiers tell DRRs of real CTs from those of virtual patients, by options of their names.

    python benchmarks/realism.py --json r.json --plot r.png --sheet s.png

Half of the images are frontal views of real CTs, half are views of virtual patients at the same positions relative to
landmarks, on the voxels of the same CT, without its table. No view shows an end of a volume, and all images have the
same histogram. Each CT is left out in turn and tested beside virtual people that were not trained on either: 50 % is
chance, which means that the classifier has found no difference that generalises to another person. The controls
divide virtual patients of one version, and real CTs, into two kinds at random. A blur removes details first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks._support.discrimination import Classifier, Group, Score, halves, leave_one_out, linear_probe, small_cnn
from benchmarks._support.matched_views import (
    Images,
    Positions,
    Subject,
    Voxels,
    draw_positions,
    match_histograms,
    render_matched,
)
from benchmarks._support.power_spectrum import power_spectrum, radial_mean
from carm_env.anatomy.build import ANATOMY_VERSION
from carm_env.evaluation.intervals import mean_interval
from carm_env.evaluation.plots import drawing, new_figure, save_figure
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.geometry import DEFAULT_GEOMETRY, DEFAULT_ISOCENTER_DEPTH_MM, check_image_size, check_isocenter_depth
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.reference import PatientRef
from carm_env.patients.separation import person_of
from carm_env.system.command_line import run_script
from carm_env.system.files import atomic_write
from policies.out_of_distribution import Backbone

REAL = "real"
LEAST_PEOPLE = 5
"""With fewer people no interval is given, only the range."""
_LEAST_OTHERS = 2
"""Virtual people for each CT that pose as none in a control."""
BANDS_PER_MM = (0.0, 0.03, 0.06, 0.12, 0.24)
"""Edges of the bands of spatial frequencies at mid-depth, cycles per mm."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        real: CTs of people, installed by name.
        raised: CTs whose arms are raised; the arms of others are at the sides.
        people: virtual patients, for each pose of the arms at least two; a CT is compared with those of its pose.
        versions: options of their names, each of which makes a version of these patients.
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
        json: file for the results.
    """

    real: tuple[str, ...] = ("lidc-0001", "openkbp-24", "openkbp-114", "openkbp-311")
    raised: tuple[str, ...] = ("lidc-0001",)
    people: tuple[str, ...] = tuple(
        f"virtual:{seed}?arms={arms}&table=false" for arms in ("sides", "raised") for seed in range(3000, 3006)
    )
    versions: tuple[str, ...] = (f"anatomy={ANATOMY_VERSION}",)
    views: int = 96
    size: int = 128
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM
    blurs_px: tuple[float, ...] = (0.0, 3.0)
    steps: int = 150
    controls: int = 1
    seed: int = 0
    plot: Path | None = None
    sheet: Path | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        check_image_size(self.size)
        check_isocenter_depth(self.isocenter_depth_mm)
        for name, least in (("views", 1), ("steps", 0), ("controls", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected {least} or more.")
        if not self.blurs_px or min(self.blurs_px) < 0:
            raise ValueError(f"--blurs-px is {self.blurs_px}, expected numbers from 0.")


@dataclass(frozen=True, eq=False)
class Collection:
    """Images of real CTs and of virtual patients.

    Attributes:
        images: ``(n, s, s)`` before the histograms are matched.
        groups: groups of images by kind: `REAL`, or a version of the virtual patients.
        position: ``(n,)`` number of the position of each image among those of its CT.
        axis: landmarks between which the views of each CT lie.
        mid_depth_pixel_mm: side of a pixel at mid-depth.
    """

    images: Images
    groups: Mapping[str, list[Group]]
    position: NDArray[np.intp]
    axis: Mapping[str, tuple[str, str]]
    mid_depth_pixel_mm: float

    @property
    def air(self) -> NDArray[np.bool_]:
        """``(n, s, s)`` pixels of open air, which are black."""
        return self.images == 0


def version_of(person: str, version: str) -> PatientRef:
    """Returns a version of a patient: its name with further options."""
    return PatientRef.parse(f"{person}{'&' if '?' in person else '?'}{version}")


def arms_of(ref: PatientRef) -> str:
    """Returns the pose of the arms of a virtual patient; ``"sides"`` for others."""
    return "sides" if ref.virtual is None else ref.virtual.parameters.arms


def collect(arguments: Arguments) -> Collection:
    """Builds and renders all patients.

    Raises:
        UnknownNameError: a CT is not installed.
        ValueError: a CT lacks the landmarks or shows an end of its volume everywhere.
    """
    cts = {name: PatientRef.parse(name) for name in arguments.real}
    arms = {name: "raised" if name in arguments.raised else "sides" for name in cts}
    versions = {version: [version_of(person, version) for person in arguments.people] for version in arguments.versions}
    prepare_patients([*cts.values(), *(ref for refs in versions.values() for ref in refs)], default_workers())
    positions: dict[str, Positions] = {}
    voxels: dict[str, Voxels] = {}
    builder = _Builder()
    for number, (name, ref) in enumerate(cts.items()):
        patient = ref.load()
        subject, voxels[name] = Subject.of(patient, arguments.isocenter_depth_mm), Voxels.of(patient)
        positions[name] = draw_positions(subject, arguments.views, np.random.default_rng([arguments.seed, number]))
        own = voxels[name].own_mm, voxels[name].spacing_mm
        images = render_matched(subject, positions[name], *own, arguments.size)
        builder.add(REAL, person_of(ref), name, images, np.arange(len(images)))
    for version, refs in versions.items():
        for pose in dict.fromkeys(arms.values()):
            similar = [ref for ref in refs if arms_of(ref) == pose]
            share = -(-2 * arguments.views // max(len(similar), 1))
            for number, ref in enumerate(similar):
                subject = Subject.of(ref.load(), arguments.isocenter_depth_mm)
                for name in (name for name in cts if arms[name] == pose):
                    # Another share of the positions for each person, the same one in every version.
                    usable = np.flatnonzero(subject.shown(positions[name]))
                    chosen = np.sort(np.roll(usable, -number * share)[:share])
                    if not len(chosen):
                        raise ValueError(f"{ref} shows an end of its volume in all views that match {name}.")
                    wanted = voxels[name].of_others_mm, voxels[name].spacing_mm
                    images = render_matched(subject, positions[name].only(chosen), *wanted, arguments.size)
                    builder.add(version, person_of(ref), name, images, chosen)
    field_mm = DEFAULT_GEOMETRY.field_of_view_at_mm(arguments.isocenter_depth_mm)
    axis = {name: found.axis for name, found in positions.items()}
    return Collection(
        np.concatenate(builder.images), builder.groups, np.concatenate(builder.positions), axis,
        field_mm / arguments.size,
    )  # fmt: skip


class _Builder:
    """Numbers images in the order in which they are added."""

    def __init__(self) -> None:
        self.images: list[Images] = []
        self.positions: list[NDArray[np.intp]] = []
        self.groups: dict[str, list[Group]] = {}
        self._count = 0

    def add(self, kind: str, person: str, ct: str, images: Images, positions: NDArray[np.intp]) -> None:
        rows = np.arange(self._count, self._count + len(images))
        self.groups.setdefault(kind, []).append(Group(person, ct, rows))
        self.images.append(images)
        self.positions.append(positions)
        self._count += len(images)


def comparisons(
    collection: Collection, controls: int, seed: int
) -> Iterator[tuple[str, list[Group], list[Group], bool]]:
    """Yields name, first and second kind of each comparison, and whether the kinds are matched by CT.

    Controls of virtual patients let people pose as the real CTs, each as one of them, if there are enough people. The
    real control divides the CTs in halves in all ways.
    """
    real, cts = collection.groups[REAL], list(collection.axis)
    versions = {kind: groups for kind, groups in collection.groups.items() if kind != REAL}
    for version, groups in versions.items():
        yield f"{version}, real", real, groups, True
    for version, groups in versions.items():
        for number in range(controls):
            first, second = _posing(groups, cts, np.random.default_rng([seed, number]))
            if len({group.person for group in first}) > 1:
                yield f"control: {version}, itself", first, second, True
    if len(cts) >= 4:
        for one, other in halves([group.person for group in real]):
            yield (
                "control: real, real",
                [group for group in real if group.person in one],
                [group for group in real if group.person in other],
                False,
            )


def _posing(groups: Sequence[Group], cts: Sequence[str], rng: np.random.Generator) -> tuple[list[Group], list[Group]]:
    """Lets virtual people pose as CTs while two others are left for each CT; returns their groups and the rest."""
    roles: dict[str, str] = {}
    for ct in rng.permutation(cts).tolist():
        free = [group.person for group in groups if group.ct == ct and group.person not in roles]
        if len(free) > _LEAST_OTHERS:
            roles[str(rng.choice(free))] = ct
    first = [group for group in groups if roles.get(group.person) == group.ct]
    return first, [group for group in groups if group.person not in roles]


def blurred(images: Images, sigma_px: float) -> Images:
    """Returns images ``(n, s, s)`` behind a Gaussian blur."""
    return (
        images if sigma_px == 0 else np.stack([gaussian_filter(image.astype(np.float32), sigma_px) for image in images])
    )


def judge(collection: Collection, arguments: Arguments) -> list[dict[str, Any]]:
    """Runs every classifier on every comparison; returns one mapping for each."""
    backbone, rows = Backbone(), []
    for number, sigma in enumerate(arguments.blurs_px):
        matched = match_histograms(blurred(collection.images, sigma), collection.air)
        classifiers: dict[str, Classifier] = {
            "linear probe": linear_probe(backbone.features(np.rint(matched).astype(np.uint8)))
        }
        if arguments.steps and number == 0:
            classifiers["small CNN"] = small_cnn(matched, arguments.steps, arguments.seed)
        for kind, classify in classifiers.items():
            found: dict[str, list[Score]] = {}
            for name, first, second, is_matched in comparisons(collection, arguments.controls, arguments.seed):
                found.setdefault(name, []).extend(leave_one_out(first, second, classify, matched=is_matched))
            for name, scores in found.items():
                rows.append({"comparison": name, "classifier": kind, "blur_px": sigma, **summary(scores)})
    return rows


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Returns the means of the scores, their ranges, and intervals by person if there are enough people, each once."""
    people = [score.person for score in scores]
    result: dict[str, Any] = {"people": len(set(people)), "images": sum(score.images for score in scores)}
    for name in ("balanced_accuracy", "auc"):
        values = [getattr(score, name) for score in scores]
        is_enough = LEAST_PEOPLE <= result["people"] == len(scores)
        result[name] = {
            "mean": float(np.mean(values)),
            "lowest": min(values),
            "highest": max(values),
            "interval": list(mean_interval(values, people)) if is_enough else None,
        }
    return {**result, "scores": [asdict(score) for score in scores]}


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


def spectra(collection: Collection) -> dict[str, dict[str, Any]]:
    """Returns the mean radial power spectra of images with equal histograms, by part of the body and kind.

    A person counts once, whatever the number of images. ``per_mm`` are the frequencies at mid-depth.
    """
    matched = match_histograms(collection.images, collection.air)
    found: dict[str, dict[str, Any]] = {}
    for axis in dict.fromkeys(collection.axis.values()):
        part: dict[str, Any] = {}
        for kind, groups in collection.groups.items():
            curves = []
            for group in (group for group in groups if collection.axis[group.ct] == axis):
                radial = [radial_mean(*power_spectrum(image)) for image in matched[group.rows]]
                part.setdefault("per_mm", (radial[0][0] / collection.mid_depth_pixel_mm).tolist())
                curves.append(np.mean([power for _, power in radial], axis=0))
            part[kind] = np.mean(curves, axis=0).tolist()
        found[f"{axis[0]} to {axis[1]}"] = part
    return found


def band_ratios(part: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns the power of the virtual patients relative to that of the CTs in each band of `BANDS_PER_MM`."""
    frequency = np.array(part["per_mm"])
    bands = [(frequency > low) & (frequency <= high) for low, high in pairwise(BANDS_PER_MM)]
    power = {
        kind: [float(np.mean(np.array(values)[band])) for band in bands]
        for kind, values in part.items()
        if kind != "per_mm"
    }
    real = power.pop(REAL)
    return {kind: [own / other for own, other in zip(values, real, strict=True)] for kind, values in power.items()}


def band_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats `band_ratios`: a row for each part of the body and anatomy."""
    headings = [f"{low:g} to {high:g} per mm" for low, high in pairwise(BANDS_PER_MM)]
    rows = [
        (part, kind, *(f"{value:.2f}" for value in values))
        for part, curves in found.items()
        for kind, values in band_ratios(curves).items()
    ]
    return markdown_table(("power relative to real CTs", "", *headings), rows)


def draw_spectra(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the power spectra of every part of the body."""
    figure, axes = new_figure(4.2 * len(found), 3.4, columns=len(found), squeeze=False)
    for axis, (part, curves) in zip(axes[0], found.items(), strict=True):
        frequency = np.array(curves["per_mm"])
        shown = slice(1, len(frequency) * 2 // 3)
        for kind, style in zip((name for name in curves if name != "per_mm"), cycle(("k-", "C1--", "C0-"))):
            axis.loglog(frequency[shown], np.array(curves[kind])[shown], style, label=kind)
        axis.set_title(part, fontsize=10)
        axis.set_xlabel("cycles per mm at mid-depth")
        axis.grid(True, which="both", alpha=0.25)
    axes[0, 0].set_ylabel("power, equal histograms")
    axes[0, 0].legend()
    save_figure(figure, path)


def draw_sheet(collection: Collection, count: int = 3) -> Image.Image:
    """Draws views of each CT, each above the same view of a virtual person in every version, with equal histograms."""
    matched = np.rint(match_histograms(collection.images, collection.air)).astype(np.uint8)
    side, cts = matched.shape[-1], list(collection.axis)
    sheet = Image.new("L", (count * len(cts) * side, len(collection.groups) * side))
    for (row, groups), (column, ct) in product(enumerate(collection.groups.values()), enumerate(cts)):
        # The positions of the first virtual person, all of which the CT has as well.
        others = next(
            group for kind, own in collection.groups.items() if kind != REAL for group in own if group.ct == ct
        )
        own = next(group for group in groups if group.ct == ct).rows
        shown = [own[collection.position[own] == position] for position in collection.position[others.rows[:count]]]
        for number, found in enumerate(shown):
            for image in matched[found]:
                sheet.paste(Image.fromarray(image), ((column * count + number) * side, row * side))
    return sheet


def run(arguments: Arguments) -> None:
    """Renders, compares, prints and saves."""
    collection = collect(arguments)
    rows = judge(collection, arguments)
    found = spectra(collection)
    print(table(rows))
    print(band_table(found))
    values = {
        "results": rows, "spectra": found, "power_relative_to_real": {p: band_ratios(c) for p, c in found.items()},
        "bands_per_mm": list(BANDS_PER_MM), "real": list(arguments.real), "people": list(arguments.people),
        "versions": list(arguments.versions),
        "views": arguments.views, "size": arguments.size, "isocenter_depth_mm": arguments.isocenter_depth_mm,
        "steps": arguments.steps, "controls": arguments.controls,
    }  # fmt: skip
    save_measurement(arguments.json, values, arguments.seed)
    if arguments.plot is not None:
        with drawing(str(arguments.plot)):
            draw_spectra(found, arguments.plot)
    if arguments.sheet is not None:
        with atomic_write(arguments.sheet) as temporary:
            draw_sheet(collection).save(temporary, format="PNG")


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
