"""Labelled views on disk: a Hugging Face dataset, one Parquet file for each patient.

A folder holds ``README.md`` (the dataset card, whose header tells `datasets.load_dataset` where the splits are),
``views.json`` (the options) and ``data/SPLIT/PATIENT-FINGERPRINT.parquet``. A patient's file is the same whoever
writes it, so it can be written in parallel, and what is there is not written again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from carm_env.catalogue import expand_patients, load_patient
from carm_env.errors import MissingExtraError
from carm_env.files import atomic_write, content_hash, write_json, write_text
from carm_env.landmarks import LANDMARKS, N_LANDMARKS
from carm_env.preparation import default_workers, prepare_patients
from carm_env.processes import run_in_processes
from carm_env.views import View, ViewOptions, render_views

DATASET_FORMAT = 1
OPTIONS_FILE = "views.json"
_ROWS_PER_GROUP = 256
_IN_MEMORY_PIXELS = 256


class ViewDatasetError(ValueError):
    """A folder holds no view dataset, or one of another version or other options."""


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train", "a dataset of views") from error
    return pyarrow


def _schema() -> Any:
    pa = _pyarrow()
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

    def feature(kind: str) -> dict[str, Any]:
        return {"dtype": kind, "_type": "Value"}

    def listed(inner: dict[str, Any]) -> dict[str, Any]:
        return {"feature": inner, "_type": "List"}

    features = {
        "image": {"_type": "Image"},
        "patient": feature("string"),
        "isocenter_lps_mm": listed(feature("float32")),
        "alpha_deg": feature("float32"),
        "beta_deg": feature("float32"),
        "closest_landmarks": listed(feature("int32")),
        "displacement_mm": listed(listed(feature("float32"))),
        "pixels": listed(listed(feature("float32"))),
        "visible": listed(feature("bool")),
        "technique": feature("string"),
    }
    # `datasets` reads its features from here: without them images would arrive as bytes.
    return pa.schema(list(columns.items()), {"huggingface": json.dumps({"info": {"features": features}})})


def _row(view: View, number: int) -> dict[str, Any]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(view.image).save(buffer, "PNG")
    labels = view.labels
    return {
        "image": {"bytes": buffer.getvalue(), "path": f"{view.patient.replace(':', '-')}-{number:05d}.png"},
        "patient": view.patient,
        "isocenter_lps_mm": list(view.place.isocenter_lps_mm),
        "alpha_deg": view.place.alpha_deg,
        "beta_deg": view.place.beta_deg,
        "closest_landmarks": list(labels.closest_landmarks),
        "displacement_mm": labels.displacement_mm.astype(np.float32).tolist(),
        "pixels": labels.pixels.astype(np.float32).tolist(),
        "visible": labels.visible.tolist(),
        "technique": json.dumps(dict(view.technique), sort_keys=True),
    }


@dataclass(frozen=True)
class _Shard:
    name: str
    path: Path
    options: ViewOptions


def _write_shard(shard: _Shard) -> Path:
    pa = _pyarrow()
    schema = _schema()
    rows = [_row(view, number) for number, view in enumerate(render_views(shard.name, shard.options))]
    with atomic_write(shard.path) as temporary:
        table = pa.Table.from_pylist(rows, schema=schema)
        # PNG does not shrink any further.
        pa.parquet.write_table(table, temporary, row_group_size=_ROWS_PER_GROUP, compression="none")
    return shard.path


def write_view_dataset(
    folder: Path, splits: Mapping[str, Sequence[str]], options: ViewOptions, workers: int | None = None
) -> list[Path]:
    """Render the views of patients and write them; what is in the folder already is kept.

    Args:
        folder: where to; another dataset there is refused, not overwritten.
        splits: names of patients, cohorts or splits, for each split of the dataset.
        options: which views.
        workers: processes; by default as many as CPUs.

    Returns:
        The Parquet files, split by split.

    Raises:
        UnknownNameError: no such patient.
        ViewDatasetError: the folder holds a dataset of other options, or a patient is in two splits.
        MissingExtraError: pyarrow is not installed.
    """
    _pyarrow()
    patients = {split: expand_patients(list(names)) for split, names in splits.items()}
    everyone = [name for names in patients.values() for name in names]
    twice = sorted({name for name in everyone if everyone.count(name) > 1})
    if twice:
        raise ViewDatasetError(f"{', '.join(twice)} would be in two splits, expected each patient in one.")
    description = {"format": DATASET_FORMAT, "options": options.to_json()}
    there = _description(folder) if (folder / OPTIONS_FILE).exists() else description
    if there["options"] != description["options"]:
        raise ViewDatasetError(
            f"{folder} holds views of other options ({there['options']}), asked for "
            f"{options.to_json()}: choose another folder, or remove it."
        )
    workers = default_workers() if workers is None else workers
    prepare_patients(everyone, workers)
    shards = [
        _Shard(name, folder / "data" / split / f"{_file_name(name)}.parquet", options)
        for split, names in patients.items()
        for name in names
    ]
    folder.mkdir(parents=True, exist_ok=True)
    # Files of other patients, or of earlier builds of these, may lie there as well: only what is listed is read.
    listed = {split: [shard.path.name for shard in shards if shard.path.parent.name == split] for split in patients}
    write_json(folder / OPTIONS_FILE, {**description, "files": listed})
    missing = [shard for shard in shards if not _is_whole(shard.path, options.views_per_patient)]
    with tqdm(total=len(shards), initial=len(shards) - len(missing), unit="patient", desc="views",
              disable=not missing) as bar:  # fmt: skip
        for _ in run_in_processes(_write_shard, missing, max(1, min(workers, len(missing)))):
            bar.update()
    write_text(folder / "README.md", _card(patients, listed, options))
    return [shard.path for shard in shards]


def _file_name(name: str) -> str:
    patient = load_patient(name)
    readable = "".join(letter if letter.isalnum() else "-" for letter in name)[:60]
    return f"{readable}-{content_hash(name)[:6]}-{patient.fingerprint}"


def _is_whole(path: Path, rows: int) -> bool:
    pa = _pyarrow()
    try:
        return bool(pa.parquet.ParquetFile(path).metadata.num_rows == rows)
    except (OSError, pa.ArrowInvalid):
        return False


def _description(folder: Path) -> dict[str, Any]:
    path = folder / OPTIONS_FILE
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != DATASET_FORMAT:
            raise ValueError(f"format {description['format']}, expected {DATASET_FORMAT}")
        description["files"] = dict(description["files"])
        ViewOptions(**{**description["options"], "augment": tuple(description["options"]["augment"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ViewDatasetError(
            f"{folder} is no dataset of views ({error}): write one with `carm-env render-dataset --out {folder}`."
        ) from error
    return description


class LazyImages:
    """Pictures that stay on disk until they are asked for, indexed along the first axis like an array.

    `datasets` keeps them in memory-mapped Arrow files in its cache, still as PNG.

    Args:
        paths: Parquet files of one split.
        size: pixels a side.

    Raises:
        MissingExtraError: datasets is not installed.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        try:
            from datasets import Dataset, Features
            from datasets import Image as Picture
        except ImportError as error:
            raise MissingExtraError("datasets", "train", "views that are read as they are needed") from error
        features = Features({"image": Picture()})
        self._table = Dataset.from_parquet([str(path) for path in paths], columns=["image"], features=features)
        self.shape = (len(self._table), size, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        if np.ndim(key) == 0 and not isinstance(key, slice):
            return np.asarray(self._table[int(key)]["image"])
        chosen = np.arange(len(self))[key].tolist()
        pictures = np.zeros((len(chosen), *self.shape[1:]), np.uint8)
        for row, number in enumerate(chosen):
            pictures[row] = self._table[number]["image"]
        return pictures


Pictures: TypeAlias = "NDArray[np.uint8] | LazyImages"
"""``(n, size, size)`` uint8, in memory or on disk."""


@dataclass(frozen=True, eq=False)
class ViewArrays:
    """Views in memory; the pictures there, too, or on disk.

    Attributes:
        images: ``(n, size, size)`` uint8.
        closest_landmarks: ``(n, 3)`` ids, nearest first; 0 where a patient has fewer.
        displacement_mm: ``(n, 14, 2)`` float32, NaN where absent.
        visible: ``(n, 14)``.
        isocenter_lps_mm: ``(n, 3)`` float32.
        patients: ``(n,)`` number of each view's patient in `names`.
        names: of the patients.
        pixels: ``(n, 14, 2)`` float32, places ``(u, v)`` in the picture, NaN where absent.
    """

    images: Pictures
    closest_landmarks: NDArray[np.int64]
    displacement_mm: NDArray[np.float32]
    visible: NDArray[np.bool_]
    isocenter_lps_mm: NDArray[np.float32]
    patients: NDArray[np.int64]
    names: tuple[str, ...]
    pixels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)


def read_views(folder: Path, split: str, lazily: bool | None = None) -> ViewArrays:
    """Read a split: a byte a pixel, so 0.8 GB for 51,200 views of 128 x 128 pixels.

    Args:
        folder: of `write_view_dataset`.
        split: of it.
        lazily: leave the pictures on disk; by default those of more than 256 pixels (41 GB for 51,200 of 896).

    Raises:
        ViewDatasetError: no dataset, an unknown split, a damaged file, or one without landmarks.
        MissingExtraError: pyarrow, or datasets for pictures on disk, is not installed.
    """
    from PIL import Image

    pa = _pyarrow()
    description = _description(folder)
    files, size = description["files"], int(description["options"]["size"])
    lazily = size > _IN_MEMORY_PIXELS if lazily is None else lazily
    if not files.get(split):
        raise ViewDatasetError(f"{folder} has no split {split!r}, expected one of: {', '.join(files) or 'none'}.")
    paths = [folder / "data" / split / name for name in files[split]]
    parts: list[tuple[Any, ...]] = []
    names: list[str] = []
    shown: list[NDArray[np.uint8]] = []
    for path in paths:
        try:
            stored = pa.parquet.read_schema(path).names
            table = pa.parquet.read_table(path, columns=[name for name in stored if name != "image" or not lazily])
            columns = {name: table[name].to_pylist() for name in ("closest_landmarks", "patient")}
            pictures = [] if lazily else table["image"].to_pylist()
            images = [np.asarray(Image.open(io.BytesIO(item["bytes"]))) for item in pictures]
            displacement = np.array(table["displacement_mm"].to_pylist(), np.float32)
            visible = np.array(table["visible"].to_pylist(), bool)
            isocenters = np.array(table["isocenter_lps_mm"].to_pylist(), np.float32)
            pixels = np.array(table["pixels"].to_pylist(), np.float32)
        except (OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
            raise ViewDatasetError(f"{path} cannot be read ({error}): remove it and render again.") from error
        if displacement.shape[1:] != (N_LANDMARKS, 2):
            raise ViewDatasetError(f"{path} has displacements {displacement.shape[1:]}, expected {(N_LANDMARKS, 2)}.")
        closest = np.zeros((len(displacement), 3), np.int64)
        for number, ids in enumerate(columns["closest_landmarks"]):
            closest[number, : len(ids)] = ids
        parts.append((closest, displacement, visible, isocenters, np.full(len(closest), len(names)), pixels))
        names.append(columns["patient"][0])
        shown += images
    closest, displacement, visible, isocenters, patients, pixels = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    seen = LazyImages(paths, size) if lazily else np.stack(shown)
    return ViewArrays(seen, closest, displacement, visible, isocenters, patients, tuple(names), pixels)


def _card(patients: Mapping[str, Sequence[str]], files: Mapping[str, Sequence[str]], options: ViewOptions) -> str:
    header = {
        "pretty_name": "carm-env views",
        "license": "mit",
        "task_categories": ["image-classification", "keypoint-detection"],
        "tags": ["medical", "x-ray", "c-arm", "synthetic", "landmark-localization"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": [f"data/{split}/{name}" for name in files[split]]} for split in patients
                ],
            }
        ],
    }
    counts = "\n".join(f"| {split} | {len(names)} | {len(names) * options.views_per_patient} |"
                       for split, names in patients.items())  # fmt: skip
    return f"""---
{yaml.safe_dump(header, sort_keys=False).rstrip()}
---

# Labelled C-arm views

X-rays of {options.size} x {options.size} pixels with where fourteen landmarks lie, rendered by carm-env.
**Research use only, not a medical device.**

| split | patients | views |
|---|---|---|
{counts}

Options: `{json.dumps(options.to_json())}`. Isocentres are a scrambled Sobol sequence over each patient's workspace, at
mid-depth of the body, where the beam meets it. No patient is in two splits.

| column | what |
|---|---|
| `image` | grey PNG, the patient's right on the left, cranial up |
| `patient` | its name in carm-env |
| `isocenter_lps_mm`, `alpha_deg`, `beta_deg` | where the C-arm stands |
| `closest_landmarks` | ids of the three nearest landmarks, nearest first, by the distance across the beam |
| `displacement_mm` | for each landmark, to the left and cranially, from the isocentre; NaN where absent |
| `pixels`, `visible` | place (u, v) in the picture, and whether it lies in it |
| `technique` | what was drawn for this view, JSON |

Landmarks 1 to {N_LANDMARKS}: {", ".join(item.name for item in LANDMARKS)}.

```python
from datasets import load_dataset

views = load_dataset("FOLDER", split="{next(iter(patients), "train")}", streaming=True)
```
"""
