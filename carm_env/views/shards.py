"""The files of a dataset of views: one Parquet file per patient.

The content of a file depends on patient and options only.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.patients.reference import PatientRef
from carm_env.system.files import atomic_write, content_hash
from carm_env.system.messages import announce
from carm_env.views.read import import_pyarrow
from carm_env.views.sample import View, ViewOptions, render_views

_ROWS_PER_GROUP = 256


@dataclass(frozen=True)
class Shard:
    """One file of a dataset, with the views of one patient.

    Attributes:
        ref: the patient.
        count: number of views, the first ones of the patient.
        path: the Parquet file.
        options: the views of the patient.
    """

    ref: PatientRef
    count: int
    path: Path
    options: ViewOptions


def write_shard(shard: Shard) -> None:
    """Renders the views of a patient and writes their file, atomically."""
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


def shard_prefix(ref: PatientRef) -> str:
    """Returns how the names of the files of a patient begin, of whatever build; nothing is loaded or built."""
    name = str(ref)
    readable = "".join(letter if letter.isalnum() else "-" for letter in name)[:60]
    return f"{readable}-{content_hash(name)[:6]}-"


def shard_name(ref: PatientRef) -> str:
    """Returns the name of the file of a patient, which states its fingerprint; the patient is built if necessary."""
    patient = ref.load_unscanned(quiet=True)
    content = patient.fingerprint
    if ref.scan is not None:
        # Scanning takes a second, and hundreds of patients are named one after another.
        content = content_hash([content, repr(ref.scan.scan_of(patient))])[: len(content)]
    return f"{shard_prefix(ref)}{content}.parquet"


def patient_of(source: Any) -> str:
    """Returns the name of the patient of a Parquet file; empty if the file is missing or damaged.

    Args:
        source: path of the file, or the file opened for reading.
    """
    pa = import_pyarrow()
    try:
        return str(pa.parquet.ParquetFile(source).read_row_group(0, ["patient"])["patient"][0].as_py())
    except Exception:  # pyarrow raises many kinds for a damaged file
        return ""


def count_rows(source: Any) -> int:
    """Returns the number of rows of a Parquet file; 0 if it is missing, or damaged at its end. See `patient_of`."""
    pa = import_pyarrow()
    try:
        return int(pa.parquet.ParquetFile(source).metadata.num_rows)
    except Exception:  # pyarrow raises many kinds for a damaged file
        return 0


def count_whole_rows(path: Path) -> int:
    """Does the same as `count_rows`, and also returns 0 if the data do not match their checksums."""
    pa = import_pyarrow()
    try:
        file = pa.parquet.ParquetFile(path, page_checksum_verification=True)
        return sum(len(file.read_row_group(number)) for number in range(file.num_row_groups))
    except FileNotFoundError:
        return 0
    except Exception:  # pyarrow raises many kinds for a damaged file
        announce(f"{path} is damaged and rendered again.")
        return 0
