"""Measures what a dataset of views costs: CPU time and bytes of a patient and of a view.

    python benchmarks/dataset_speed.py --json dataset_speed.json

- **build**: CPU time of building a virtual patient, and its bytes in the cache;
- **view**: CPU time of a view of ``carm-env render-dataset``, from the X-ray to the Parquet file, and its bytes as PNG
  in Parquet, with all labels, and as NPZ, images alone.

Everything runs on one core. `benchmarks/cost_model.py` scales the result up.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.one_core import one_core
from carm_env.anatomy.build import build_patient
from carm_env.evaluation.provenance import PACKAGES, save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.patients.build import prepare_patients
from carm_env.patients.reference import PatientRef
from carm_env.system.command_line import run_script
from carm_env.views.read import read_views
from carm_env.views.sample import ViewOptions, render_views
from carm_env.views.write import write_view_dataset

_WARM_UP = "virtual:0"
"""Its build and its views compile the kernels."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        patients: virtual patients; each is built once more, whether or not it is in the cache.
        views: views of each patient.
        sizes: sides of the images in pixels.
        json: file for the result.
    """

    patients: tuple[str, ...] = ("virtual:1000", "virtual:1001")
    views: int = 512
    sizes: tuple[int, ...] = (128, 256)
    json: Path | None = None

    def __post_init__(self) -> None:
        if self.views < 1 or not self.patients or not self.sizes:
            raise ValueError("--views, --patients or --sizes is empty or 0, expected at least one of each.")
        for name in self.patients:
            if PatientRef.parse(name).virtual is None:
                raise ValueError(f"--patients has {name!r}, expected virtual patients, such as virtual:1000.")


def measure_builds(refs: list[PatientRef]) -> dict[str, float]:
    """Returns the mean CPU time of building a patient, s, and its mean size in the cache, bytes."""
    seconds = []
    for ref in refs:
        assert ref.virtual is not None
        print(f"building {ref}", flush=True)
        start = time.process_time()
        build_patient(ref.virtual)
        seconds.append(time.process_time() - start)
    sizes = [sum(path.stat().st_size for path in ref.folder.iterdir()) for ref in refs]
    return {"build_s": float(np.mean(seconds)), "patient_bytes": float(np.mean(sizes))}


def measure_views(refs: list[PatientRef], views: int, size: int) -> dict[str, float]:
    """Returns the CPU time and the bytes of a view of `size` pixels a side, means over all views."""
    options = ViewOptions(views, size)
    for ref in refs:
        next(render_views(ref, options))
    print(f"{len(refs)} x {views} views of {size} pixels", flush=True)
    with tempfile.TemporaryDirectory(prefix="carm-env-dataset-") as name:
        folder = Path(name)
        start = time.process_time()
        paths = write_view_dataset(folder, {"test": refs}, options, 1)
        seconds = time.process_time() - start
        images = read_views(folder, "test", lazily=False).images
        count = len(images)
        archive = io.BytesIO()
        np.savez_compressed(archive, image=np.asarray(images))
        return {
            "size": size,
            "view_ms": seconds / count * 1e3,
            "parquet_bytes": sum(path.stat().st_size for path in paths) / count,
            "npz_bytes": len(archive.getvalue()) / count,
        }


def measure(arguments: Arguments) -> dict[str, Any]:
    """Measures everything, one after the other."""
    refs = [PatientRef.parse(name) for name in arguments.patients]
    prepare_patients(refs, 1)
    if not set(arguments.patients) & {_WARM_UP}:
        warm_up = PatientRef.parse(_WARM_UP)
        assert warm_up.virtual is not None
        build_patient(warm_up.virtual)
    builds = measure_builds(refs)
    return {**builds, "views": [measure_views(refs, arguments.views, size) for size in arguments.sizes]}


def run(arguments: Arguments) -> None:
    """Measures, prints and writes the result."""
    started = time.perf_counter()
    with one_core():
        result = measure(arguments)
    print(f"a patient: {result['build_s']:.1f} s of CPU time to build, {result['patient_bytes'] / 1e6:.1f} MB")
    rows = [
        (row["size"], f"{row['view_ms']:.2f}", f"{row['parquet_bytes']:,.0f}", f"{row['npz_bytes']:,.0f}")
        for row in result["views"]
    ]
    print(markdown_table(("pixels a side", "ms per view", "bytes, PNG in Parquet", "bytes, NPZ"), rows))
    settings = {"patients": list(arguments.patients), "views_per_patient": arguments.views}
    save_measurement(arguments.json, {**result, "settings": settings}, 0, (*PACKAGES, "pillow", "pyarrow"))
    print(f"Took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
