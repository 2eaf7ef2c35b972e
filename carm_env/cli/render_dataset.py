"""``carm-env render-dataset``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.views.sample import PAPER_VIEWS_PER_PATIENT, ViewOptions


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        out: folder of the dataset; a second run renders only what is missing.
        split: patients of each split, as NAME=PATIENT,PATIENT...; a cohort or one of its splits is a patient, too.
        views_per_patient: number of views of each patient; the paper has 1024.
        size: side of the images in pixels.
        angles: draw both angles of the C-arm up to this many degrees either way; 0 for frontal views.
        augment: any of noise, window, collimation, dose, domain.
        seed: seed of the sampling.
        isocenter_depth: distance of the isocentre from mid-depth of the body towards the source, mm; by default as in
            the paper.
        domain_severity: severity of the augmentation domain, 0 to 1.
        workers: number of processes; by default one per CPU, as far as memory allows.
    """

    out: Path
    split: tuple[str, ...] = ("train=standard/train", "calibration=standard/calibration", "test=standard/test")
    views_per_patient: int = PAPER_VIEWS_PER_PATIENT
    size: int = 128
    angles: float = 0.0
    augment: tuple[str, ...] = ("noise",)
    seed: int = 0
    isocenter_depth: float = DEFAULT_ISOCENTER_DEPTH_MM
    domain_severity: float = 1.0
    workers: int | None = None


def render_dataset(arguments: Arguments) -> int:
    """Render labelled views of many patients as a Hugging Face dataset (Parquet)."""
    from carm_env.views.write import write_view_dataset

    splits = dict(_split(text) for text in arguments.split)
    options = ViewOptions(
        arguments.views_per_patient, arguments.size, arguments.angles, arguments.augment, arguments.seed,
        arguments.isocenter_depth, arguments.domain_severity,
    )  # fmt: skip
    paths = write_view_dataset(arguments.out, splits, options, arguments.workers)
    size = sum(path.stat().st_size for path in paths)
    views = len(paths) * options.views_per_patient
    print(f"{arguments.out}: {len(paths)} patients, {views} views, {size / 1e6:.0f} MB")
    return 0


def _split(text: str) -> tuple[str, list[str]]:
    name, equals, patients = text.partition("=")
    if not (name.isidentifier() and equals and patients):
        raise ValueError(f"--split is {text!r}, expected NAME=PATIENTS, e.g. train=standard/train.")
    return name, patients.split(",")
