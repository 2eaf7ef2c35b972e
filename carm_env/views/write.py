"""Write labelled views: a Hugging Face dataset with one Parquet file per patient.

A folder holds ``README.md`` (the dataset card, which tells `datasets.load_dataset` the files of each split),
``views.json`` (options, geometry of the C-arm, files) and ``data/SPLIT/PATIENT-FINGERPRINT.parquet``. The content of a
patient's file depends on patient and options only, so files are written in parallel and never written twice.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from tqdm import tqdm

from carm_env.geometry import CArmGeometry
from carm_env.landmarks import LANDMARKS, N_LANDMARKS
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.patients.separation import TRAINED_ON, check_separate, check_trainable, person_of
from carm_env.system.files import write_json, write_text
from carm_env.system.leftovers import settle
from carm_env.system.output_folders import lock_output
from carm_env.system.processes import run_in_processes
from carm_env.system.structured_files import dump_yaml
from carm_env.views.read import DATASET_FORMAT, OPTIONS_FILE, ViewDatasetError, import_pyarrow, read_description
from carm_env.views.sample import ViewOptions
from carm_env.views.shards import Shard, count_rows, count_whole_rows, patient_of, shard_name, write_shard

_CARD = Path(__file__).with_name("dataset_card.md")


def write_view_dataset(
    folder: Path,
    splits: Mapping[str, Sequence[PatientName]],
    options: ViewOptions,
    workers: int | None = None,
    max_views: Mapping[str, int] | None = None,
    *,
    wait: bool = False,
) -> list[Path]:
    """Renders and writes the views of patients; files that exist already, and are not damaged, are kept.

    Splits that the folder holds and `splits` does not name stay in the dataset, without the patients that `splits`
    names now, and without other patients of the same people if one of the two splits is trained on.

    Args:
        folder: folder of the dataset.
        splits: from the name of a split to its patients, cohorts or cohort splits.
        options: the views of each patient.
        workers: number of processes; by default one per CPU.
        max_views: from the name of a split to the number of its views that are needed. The views of a split are
            ordered by patient, and only the patients of these first views are built and rendered. Read them with
            ``read_views(folder, split, max_views=...)``.
        wait: wait while another process writes to the folder, instead of raising.

    Returns:
        The Parquet files, split by split.

    Raises:
        UnknownNameError: unknown patient.
        ViewDatasetError: the folder holds a dataset with other options.
        SharedPersonError: a person is in two splits (`carm_env.patients.separation.check_separate`).
        HeldOutPatientError: a patient of the split ``train`` or ``calibration`` is reserved for tests.
        ValueError: a number in `max_views` is not positive.
        MissingExtraError: pyarrow is not installed.
        BusyError: another process writes to the folder.
    """
    import_pyarrow()
    needed = {
        split: _needed_patients(split, refs, options, max_views) for split, refs in checked_splits(splits).items()
    }
    with lock_output(folder, "--out", wait):
        for split in needed:
            settle(folder / "data" / split)
        return _write(folder, needed, options, default_workers() if workers is None else workers)


def _write(
    folder: Path, needed: Mapping[str, Sequence[tuple[PatientRef, int]]], options: ViewOptions, workers: int
) -> list[Path]:
    description = describe(options)
    existing = _existing(folder) or {**description, "files": {}}
    check_options(str(folder), existing, options)
    prepare_patients([ref for patients in needed.values() for ref, _ in patients], workers)
    shards = [
        Shard(ref, count, folder / "data" / split / shard_name(ref), options)
        for split, patients in needed.items()
        for ref, count in patients
    ]
    files = {split: [shard.path.name for shard in shards if shard.path.parent.name == split] for split in needed}
    others = {
        split: kept_files(split, names, files, needed, lambda split, name: patient_of(folder / "data" / split / name))
        for split, names in existing["files"].items()
    }
    files = {**{split: names for split, names in others.items() if names}, **files}
    # The folder may also hold files of other patients or of earlier builds: only listed files are read.
    write_json(folder / OPTIONS_FILE, {**description, "files": files})
    missing = [shard for shard in shards if count_whole_rows(shard.path) < shard.count]
    with tqdm(total=len(shards), initial=len(shards) - len(missing), unit="patient", desc="views",
              disable=not missing) as bar:  # fmt: skip
        for _ in run_in_processes(write_shard, missing, max(1, min(workers, len(missing)))):
            bar.update()
    views = {split: sum(count_rows(folder / "data" / split / name) for name in names) for split, names in files.items()}
    write_text(folder / "README.md", dataset_card(files, views, options))
    return [shard.path for shard in shards]


def describe(options: ViewOptions) -> dict[str, Any]:
    """Returns the content of ``views.json`` but for the files."""
    geometry = dataclasses.asdict(CArmGeometry())
    return {"format": DATASET_FORMAT, "options": options.to_json(), "geometry": geometry}


def check_options(folder: str, existing: Mapping[str, Any], options: ViewOptions) -> None:
    """Raises ViewDatasetError if the dataset that `folder` holds has other options."""
    if existing["options"] != options.to_json():
        raise ViewDatasetError(
            f"{folder} holds views with other options: it has {existing['options']}, asked for {options.to_json()}. "
            "Choose another folder, or remove this one."
        )


def _existing(folder: Path) -> dict[str, Any] | None:
    """Returns the description of the dataset that the folder holds; None if it holds none."""
    if not (folder / OPTIONS_FILE).exists():
        return None
    try:
        return read_description(folder)
    except ViewDatasetError as error:
        raise ViewDatasetError(
            f"{folder / OPTIONS_FILE} is damaged, so the options of the views beside it are unknown: remove {folder} "
            f"and render again ({error})."
        ) from error


def kept_files(
    split: str,
    names: Sequence[str],
    files: Mapping[str, Sequence[str]],
    needed: Mapping[str, Sequence[tuple[PatientRef, int]]],
    patient_of: Callable[[str, str], str],
) -> list[str]:
    """Returns the files of an earlier split whose patients may stay beside those that are needed now.

    Args:
        split: name of the earlier split.
        names: its files.
        files: the files that are needed now, by split.
        needed: their patients, each with its number of views.
        patient_of: returns the name of the patient of a file of a split.
    """
    listed = {name for written in files.values() for name in written}
    people = {
        person_of(ref) for other, patients in needed.items() if {split, other} & set(TRAINED_ON) for ref, _ in patients
    }
    kept = [name for name in names if name not in listed]
    return [name for name in kept if person_of(patient_of(split, name)) not in people]


def checked_splits(splits: Mapping[str, Sequence[PatientName]]) -> dict[str, tuple[PatientRef, ...]]:
    """Returns the patients of each split; for errors see `write_view_dataset`."""
    patients = {split: PatientRef.expand(names) for split, names in splits.items()}
    for split in TRAINED_ON:
        check_trainable(patients.get(split, ()), f"the split {split}")
    check_separate(patients)
    return patients


def _needed_patients(
    split: str, refs: Sequence[PatientRef], options: ViewOptions, max_views: Mapping[str, int] | None
) -> list[tuple[PatientRef, int]]:
    """Returns the patients of a split that are needed, each with its number of views."""
    every = options.views_per_patient
    limit = (max_views or {}).get(split, len(refs) * every)
    if limit < 1:
        raise ValueError(f"max_views of the split {split!r} is {limit}, expected at least 1.")
    return [(ref, min(every, limit - start)) for ref, start in zip(refs, range(0, limit, every), strict=False)]


def dataset_card(files: Mapping[str, Sequence[str]], views: Mapping[str, int], options: ViewOptions) -> str:
    """Returns the content of ``README.md``.

    Args:
        files: names of the files of each split.
        views: number of views of each split.
        options: the views of each patient.
    """
    data_files = [
        {"split": split, "path": [f"data/{split}/{name}" for name in names]} for split, names in files.items()
    ]
    header = {
        "pretty_name": "carm-env views",
        "license": "mit",
        "task_categories": ["image-classification", "keypoint-detection"],
        "tags": ["medical", "x-ray", "c-arm", "synthetic", "landmark-localization"],
        "configs": [{"config_name": "default", "data_files": data_files}],
    }
    counts = "\n".join(f"| {split} | {len(names)} | {views[split]} |" for split, names in files.items())
    values = {
        "header": dump_yaml(header).rstrip(),
        "size": options.size,
        "counts": counts,
        "options": json.dumps(options.to_json()),
        "middle": f"{(options.size - 1) / 2:g}",
        "landmarks": ", ".join(item.name for item in LANDMARKS),
        "n_landmarks": N_LANDMARKS,
        "split": next(iter(files), "train"),
    }
    return Template(_CARD.read_text(encoding="utf-8")).substitute(values)
