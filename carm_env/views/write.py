"""Write labelled views: a Hugging Face dataset with one Parquet file per patient.

A folder holds ``README.md`` (the dataset card, which tells `datasets.load_dataset` the files of each split),
``views.json`` (options, geometry of the C-arm, files) and ``data/SPLIT/PATIENT-FINGERPRINT.parquet``. The content of a
patient's file depends on patient and options only, so files are written in parallel and never written twice.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from tqdm import tqdm

from carm_env.geometry import CArmGeometry
from carm_env.landmarks import LANDMARKS, N_LANDMARKS
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.patients.separation import TRAINED_ON, check_separate, check_trainable, person_of
from carm_env.system.files import atomic_write, content_hash, write_json, write_text
from carm_env.system.leftovers import settle
from carm_env.system.messages import announce
from carm_env.system.output_folders import lock_output
from carm_env.system.processes import run_in_processes
from carm_env.system.structured_files import dump_yaml
from carm_env.views.read import DATASET_FORMAT, OPTIONS_FILE, ViewDatasetError, import_pyarrow, read_description
from carm_env.views.sample import View, ViewOptions, render_views

_ROWS_PER_GROUP = 256
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
    needed = {split: _needed_patients(split, refs, options, max_views) for split, refs in _checked(splits).items()}
    with lock_output(folder, "--out", wait):
        for split in needed:
            settle(folder / "data" / split)
        return _write(folder, needed, options, default_workers() if workers is None else workers)


def _write(
    folder: Path, needed: Mapping[str, Sequence[tuple[PatientRef, int]]], options: ViewOptions, workers: int
) -> list[Path]:
    geometry = dataclasses.asdict(CArmGeometry())
    description: dict[str, Any] = {"format": DATASET_FORMAT, "options": options.to_json(), "geometry": geometry}
    existing = _existing(folder) or {**description, "files": {}}
    if existing["options"] != description["options"]:
        raise ViewDatasetError(
            f"{folder} holds views with other options: it has {existing['options']}, asked for {options.to_json()}. "
            "Choose another folder, or remove this one."
        )
    prepare_patients([ref for patients in needed.values() for ref, _ in patients], workers)
    shards = [
        _Shard(ref, count, folder / "data" / split / f"{_file_name(ref)}.parquet", options)
        for split, patients in needed.items()
        for ref, count in patients
    ]
    files = {split: [shard.path.name for shard in shards if shard.path.parent.name == split] for split in needed}
    others = {split: _kept(folder, split, names, files, needed) for split, names in existing["files"].items()}
    files = {**{split: names for split, names in others.items() if names}, **files}
    # The folder may also hold files of other patients or of earlier builds: only listed files are read.
    write_json(folder / OPTIONS_FILE, {**description, "files": files})
    missing = [shard for shard in shards if _count_whole_rows(shard.path) < shard.count]
    with tqdm(total=len(shards), initial=len(shards) - len(missing), unit="patient", desc="views",
              disable=not missing) as bar:  # fmt: skip
        for _ in run_in_processes(_write_shard, missing, max(1, min(workers, len(missing)))):
            bar.update()
    write_text(folder / "README.md", _card(folder, files, options))
    return [shard.path for shard in shards]


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


def _kept(
    folder: Path,
    split: str,
    names: Sequence[str],
    files: Mapping[str, Sequence[str]],
    needed: Mapping[str, Sequence[tuple[PatientRef, int]]],
) -> list[str]:
    """Returns the files of an earlier split whose patients may stay beside those that are needed now."""
    listed = {name for written in files.values() for name in written}
    people = {
        person_of(ref) for other, patients in needed.items() if {split, other} & set(TRAINED_ON) for ref, _ in patients
    }
    kept = [name for name in names if name not in listed]
    return [name for name in kept if person_of(_patient_of(folder / "data" / split / name)) not in people]


def _checked(splits: Mapping[str, Sequence[PatientName]]) -> dict[str, tuple[PatientRef, ...]]:
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


@dataclass(frozen=True)
class _Shard:
    ref: PatientRef
    count: int
    path: Path
    options: ViewOptions


def _write_shard(shard: _Shard) -> None:
    pa = import_pyarrow()
    schema = _schema()
    views = islice(render_views(shard.ref, shard.options), shard.count)
    table = pa.Table.from_pylist([_row(view, number) for number, view in enumerate(views)], schema=schema)
    with atomic_write(shard.path) as temporary:
        # PNG does not shrink any further.
        pa.parquet.write_table(table, temporary, row_group_size=_ROWS_PER_GROUP, compression="none",
                               write_page_checksum=True)  # fmt: skip


def _row(view: View, number: int) -> dict[str, Any]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(view.image).save(buffer, "PNG")
    labels = view.labels
    return {
        "image": {"bytes": buffer.getvalue(), "path": f"{view.patient.replace(':', '-')}-{number:05d}.png"},
        "patient": view.patient,
        "isocenter_lps_mm": list(view.pose.isocenter_lps_mm),
        "alpha_deg": view.pose.alpha_deg,
        "beta_deg": view.pose.beta_deg,
        "closest_landmarks": list(labels.closest_landmarks),
        "displacement_mm": labels.displacement_mm.astype(np.float32).tolist(),
        "pixels": labels.pixels.astype(np.float32).tolist(),
        "visible": labels.visible.tolist(),
        "technique": json.dumps(dict(view.technique), sort_keys=True),
    }


def _schema() -> Any:
    pa = import_pyarrow()
    numbers, flags = pa.list_(pa.float32()), pa.list_(pa.bool_())
    columns = {
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "patient": pa.string(),
        "isocenter_lps_mm": numbers,
        "alpha_deg": pa.float32(),
        "beta_deg": pa.float32(),
        "closest_landmarks": pa.list_(pa.int32()),
        "displacement_mm": pa.list_(numbers),
        "pixels": pa.list_(numbers),
        "visible": flags,
        "technique": pa.string(),
    }

    def feature(kind: Any) -> dict[str, Any]:
        if pa.types.is_struct(kind):
            return {"_type": "Image"}
        if pa.types.is_list(kind):
            return {"feature": feature(kind.value_type), "_type": "List"}
        return {"dtype": "float32" if pa.types.is_floating(kind) else str(kind), "_type": "Value"}

    # `datasets` reads its features from here: without them images would arrive as bytes.
    features = {name: feature(kind) for name, kind in columns.items()}
    return pa.schema(list(columns.items()), {"huggingface": json.dumps({"info": {"features": features}})})


def _file_name(ref: PatientRef) -> str:
    name = str(ref)
    readable = "".join(letter if letter.isalnum() else "-" for letter in name)[:60]
    patient = ref.load_unscanned()
    content = patient.fingerprint
    if ref.scan is not None:
        # Scanning takes a second, and hundreds of patients are named one after another.
        content = content_hash([content, repr(ref.scan.scan_of(patient))])[: len(content)]
    return f"{readable}-{content_hash(name)[:6]}-{content}"


def _patient_of(path: Path) -> str:
    """Returns the name of the patient of a Parquet file; empty if the file is missing or damaged."""
    pa = import_pyarrow()
    try:
        return str(pa.parquet.ParquetFile(path).read_row_group(0, ["patient"])["patient"][0].as_py())
    except Exception:  # pyarrow raises many kinds for a damaged file
        return ""


def _count_rows(path: Path) -> int:
    """Returns the number of rows of a Parquet file; 0 if it is missing or damaged."""
    pa = import_pyarrow()
    try:
        return int(pa.parquet.ParquetFile(path).metadata.num_rows)
    except Exception:  # pyarrow raises many kinds for a damaged file
        return 0


def _count_whole_rows(path: Path) -> int:
    """Does the same as `_count_rows`, and also returns 0 if the data do not match their checksums."""
    pa = import_pyarrow()
    try:
        file = pa.parquet.ParquetFile(path, page_checksum_verification=True)
        return sum(len(file.read_row_group(number)) for number in range(file.num_row_groups))
    except FileNotFoundError:
        return 0
    except Exception:  # pyarrow raises many kinds for a damaged file
        announce(f"{path} is damaged and rendered again.")
        return 0


def _card(folder: Path, files: Mapping[str, Sequence[str]], options: ViewOptions) -> str:
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
    views = {
        split: sum(_count_rows(folder / "data" / split / name) for name in names) for split, names in files.items()
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
