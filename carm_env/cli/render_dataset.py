"""``carm-env render-dataset``."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.patients.build import BUILD_BYTES
from carm_env.system.cluster import Cluster, EngineName, check_engine, connect
from carm_env.system.object_storage import is_url
from carm_env.views.sample import PAPER_VIEWS_PER_PATIENT, ViewOptions

_SEEDS = re.compile(r"virtual:(?P<first>\d{1,9})-(?P<last>\d{1,9})(?P<options>\?.*)?", re.ASCII)


@dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        out: folder of the dataset, or its URL in object storage, such as s3://BUCKET/FOLDER (extra: storage); a second
            run renders only what is missing.
        split: patients of each split, as NAME=PATIENT,PATIENT...; a cohort or one of its splits is a patient, too, and
            virtual:FIRST-LAST are the patients of these seeds.
        views_per_patient: number of views of each patient; the paper has 1024.
        size: side of the images in pixels.
        angles: draw both angles of the C-arm up to this many degrees either way; 0 for frontal views.
        augment: any of noise, window, collimation, dose, domain.
        seed: seed of the sampling.
        isocenter_depth: distance of the isocentre from mid-depth of the body towards the source, mm; by default as in
            the paper.
        domain_severity: severity of the augmentation domain, 0 to 1.
        workers: number of processes; by default one per CPU, as far as memory allows, and with Ray one per CPU of the
            cluster.
        engine: what renders: processes of this machine, or the machines of a Ray cluster (extra: ray). With Ray, a
            folder has to be one that all machines share.
        ray_address: HOST:PORT of the head node of the cluster that this machine belongs to, or auto; by default the
            environment variable RAY_ADDRESS, and without it a Ray that is started here.
        discard_patients: with a URL or Ray, remove each virtual patient that was built for its views from the cache
            when they are stored.
    """

    out: str
    split: tuple[str, ...] = ("train=standard/train", "calibration=standard/calibration", "test=standard/test")
    views_per_patient: int = PAPER_VIEWS_PER_PATIENT
    size: int = 128
    angles: float = 0.0
    augment: tuple[str, ...] = ("noise",)
    seed: int = 0
    isocenter_depth: float = DEFAULT_ISOCENTER_DEPTH_MM
    domain_severity: float = 1.0
    workers: int | None = None
    engine: EngineName = "processes"
    ray_address: str | None = None
    discard_patients: bool = False


def render_dataset(arguments: Arguments) -> int:
    """Render labelled views of many patients as a Hugging Face dataset (Parquet)."""
    check_engine(arguments.engine, arguments.ray_address)
    splits = dict(_split(text) for text in arguments.split)
    options = ViewOptions(
        arguments.views_per_patient, arguments.size, arguments.angles, arguments.augment, arguments.seed,
        arguments.isocenter_depth, arguments.domain_severity,
    )  # fmt: skip
    if arguments.engine == "ray" or is_url(arguments.out):
        with _cluster(arguments) as cluster:
            patients, nbytes = _store(arguments, splits, options, cluster)
    elif arguments.discard_patients:
        raise ValueError("--discard-patients needs a URL as --out, or --engine ray: leave it out.")
    else:
        from carm_env.views.write import write_view_dataset

        paths = write_view_dataset(Path(arguments.out), splits, options, arguments.workers)
        patients, nbytes = len(paths), sum(path.stat().st_size for path in paths)
    views = patients * options.views_per_patient
    print(f"{arguments.out}: {patients} patients, {views} views, {nbytes / 1e6:.0f} MB")
    return 0


def _cluster(arguments: Arguments) -> contextlib.AbstractContextManager[Cluster | None]:
    if arguments.engine == "processes":
        return contextlib.nullcontext()
    return connect(arguments.ray_address, arguments.workers, memory=BUILD_BYTES)


def _store(
    arguments: Arguments, splits: dict[str, list[str]], options: ViewOptions, cluster: Cluster | None
) -> tuple[int, int]:
    """Returns the number of patients and of bytes."""
    from carm_env.views.store import store_view_dataset

    url = arguments.out if is_url(arguments.out) else f"file://{Path(arguments.out).absolute().as_posix()}"
    stored = store_view_dataset(
        url, splits, options, arguments.workers, cluster, discard_patients=arguments.discard_patients
    )
    print(f"Rendered: {stored.rendered} patients")
    return sum(map(len, stored.files.values())), stored.nbytes


def _split(text: str) -> tuple[str, list[str]]:
    name, equals, patients = text.partition("=")
    if not (name.isidentifier() and equals and patients):
        raise ValueError(f"--split is {text!r}, expected NAME=PATIENTS, e.g. train=standard/train.")
    return name, [patient for part in patients.split(",") for patient in _seeds(part)]


def _seeds(text: str) -> list[str]:
    """Returns the patients of a range of seeds, or the name of a patient or cohort as it is.

    >>> _seeds("virtual:98-100?arms=sides")
    ['virtual:98?arms=sides', 'virtual:99?arms=sides', 'virtual:100?arms=sides']
    """
    found = _SEEDS.fullmatch(text)
    if found is None:
        return [text]
    first, last = int(found["first"]), int(found["last"])
    if last < first:
        raise ValueError(f"--split has {text!r}, expected virtual:FIRST-LAST with FIRST at most LAST.")
    return [f"virtual:{seed}{found['options'] or ''}" for seed in range(first, last + 1)]
