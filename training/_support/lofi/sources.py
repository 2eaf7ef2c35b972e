"""The images and reports of a training: views of virtual patients, or a data set of people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from carm_env.patients.build import default_workers
from carm_env.reports.view_reports import ReportWriter
from carm_env.system.threads import usable_cpus
from carm_env.xray_datasets.grounded_images import of_split, read_grounded, read_grounded_images
from training._support.lofi.arguments import LofiArguments
from training._support.lofi.data import GroundedImages
from training._support.processes import process_count
from training._support.views import load_views, views_folder

_MAX_WORKERS = 8
_LIMITS = """The reports are of few hospitals and in one language, and their boxes differ between readers. The terms of
the data also apply to the weights."""


@dataclass(frozen=True)
class LofiData:
    """The data of a training.

    Attributes:
        train: images to train on.
        calibration: images that select the best epoch.
        test: loads the images to evaluate on.
        card: further arguments of `training._support.card.model_card`.
    """

    train: GroundedImages
    calibration: GroundedImages
    test: Callable[[], GroundedImages]
    card: Mapping[str, str] = field(default_factory=dict)


def load_data(arguments: LofiArguments, size: int) -> LofiData:
    """Loads the data that the arguments name.

    Args:
        arguments: settings of the training.
        size: side of the images, pixels.
    """
    if arguments.data:
        return _people(arguments, size)
    card = {"task": "image-text-retrieval"}
    return LofiData(_views(arguments, "train", size), _views(arguments, "calibration", size),
                    lambda: _views(arguments, "test", size), card)  # fmt: skip


def _people(arguments: LofiArguments, size: int) -> LofiData:
    reports = read_grounded(Path(arguments.data), arguments.least_quality)
    workers = arguments.workers or min(usable_cpus(), _MAX_WORKERS)

    def part(split: str, limit: int | None = None) -> GroundedImages:
        return GroundedImages(*read_grounded_images(of_split(reports, split)[:limit], size, workers))

    card = {"task": "image-text-retrieval", "data": "X-rays of people with reports and boxes", "limits": _LIMITS,
            "weights_license": "other"}  # fmt: skip
    return LofiData(part("train", arguments.max_images), part("validation"), lambda: part("test"), card)


def _views(arguments: LofiArguments, split: str, size: int) -> GroundedImages:
    folder = Path(arguments.output_dir)
    views = load_views(arguments, split, folder, size, arguments.max_images)
    writer = ReportWriter(views.images.shape[1], arguments.seed)
    workers = arguments.workers or max(1, default_workers() // process_count())
    views_of = views_folder(arguments, split, folder)
    return GroundedImages(views.images, writer.of_dataset(views_of, split, len(views), workers))
