"""Estimates core-hours and bytes of large datasets of views from measured results.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --views 1000000000 --views-per-patient 4096 --cores 1024 --json cost.json

With ``V`` views, ``v`` views per patient and ``n`` worker processes in the measurement of their speed-up ``r``:

    patients      P = ceil(V / v)
    core-hours    (P * build + V * view) / (r / n) / 3600
    bytes         V * bytes per view;  P * bytes per patient while patients are kept in a cache

``build``, ``view`` and the bytes are those of ``benchmarks/dataset_speed.py``, ``r / n`` that of
``benchmarks/workers_speed.py`` on quiet CPUs. A cost is printed only for a price that you give.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.system.command_line import run_script
from carm_env.system.errors import finite_number
from carm_env.system.structured_files import read_json_mapping
from carm_env.views.sample import PAPER_VIEWS_PER_PATIENT

_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        views: numbers of views.
        views_per_patient: views of each patient.
        size: side of the images in pixels, one of those that were measured.
        dataset_speed: result of benchmarks/dataset_speed.py.
        workers_speed: result of benchmarks/workers_speed.py.
        cores: cores that work at the same time, for the hours that pass.
        price_per_core_hour: price of one core for one hour, in any currency; without it no cost is printed.
        json: file for the result.
    """

    views: tuple[int, ...] = (10**6, 10**7, 10**9)
    views_per_patient: int = PAPER_VIEWS_PER_PATIENT
    size: int = 128
    dataset_speed: Path = _RESULTS / "2026-11-30" / "dataset_speed.json"
    workers_speed: Path = _RESULTS / "2026-11-28" / "workers_speed.json"
    cores: int | None = None
    price_per_core_hour: float | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        for name in ("views_per_patient", "cores"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least 1.")
        if not self.views or min(self.views) < 1:
            raise ValueError(f"--views is {self.views}, expected numbers of at least 1.")
        if (
            self.price_per_core_hour is not None
            and finite_number("--price-per-core-hour", self.price_per_core_hour) < 0
        ):
            raise ValueError(f"--price-per-core-hour is {self.price_per_core_hour}, expected 0 or more.")


@dataclass(frozen=True)
class Measured:
    """Measured figures.

    Attributes:
        build_s: CPU time of building a patient, s.
        patient_bytes: size of a patient in the cache.
        view_s: CPU time of a view, s.
        parquet_bytes: size of a view as PNG in Parquet, with its labels.
        npz_bytes: size of the image of a view in a compressed NPZ.
        efficiency: speed-up of worker processes divided by their number, the lowest of the measured policies.
    """

    build_s: float
    patient_bytes: float
    view_s: float
    parquet_bytes: float
    npz_bytes: float
    efficiency: float


@dataclass(frozen=True)
class Estimate:
    """What a dataset needs.

    Attributes:
        views: number of views.
        patients: number of patients.
        build_core_hours, view_core_hours, core_hours: core-hours of the patients, of the views, and of both.
        parquet_bytes: size of the dataset, PNG in Parquet.
        npz_bytes: size of the images alone, as compressed NPZ.
        patient_bytes: size of all patients, if they are kept.
        hours: hours that pass on the given cores; None if there are none.
        cost: price of the core-hours; None without a price.
    """

    views: int
    patients: int
    build_core_hours: float
    view_core_hours: float
    core_hours: float
    parquet_bytes: float
    npz_bytes: float
    patient_bytes: float
    hours: float | None = None
    cost: float | None = None


def read_measured(dataset_speed: Path, workers_speed: Path, size: int) -> Measured:
    """Reads the measured figures.

    Args:
        dataset_speed: result of ``benchmarks/dataset_speed.py``.
        workers_speed: result of ``benchmarks/workers_speed.py``.
        size: side of the images in pixels.

    Raises:
        ValueError: a file holds something else, or no measurement of this size.
        OSError: a file cannot be read.
    """
    dataset, workers = read_json_mapping(dataset_speed), read_json_mapping(workers_speed)
    try:
        rows = {int(row["size"]): row for row in dataset["views"]}
        if size not in rows:
            raise ValueError(f"--size is {size}, expected one of: {', '.join(map(str, sorted(rows)))}.")
        row = rows[size]
        ratio = min(finite_number("ratio", policy["quiet"]["ratio"]) for policy in workers["policies"].values())
        figures = (
            dataset["build_s"], dataset["patient_bytes"], row["view_ms"] / 1e3, row["parquet_bytes"], row["npz_bytes"],
            min(1.0, ratio / workers["workers"]),
        )  # fmt: skip
        measured = Measured(*(finite_number("a figure", value) for value in figures))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{dataset_speed} or {workers_speed} is not the result of benchmarks/dataset_speed.py or workers_speed.py "
            f"({type(error).__name__}: {error})."
        ) from error
    if min(asdict(measured).values()) <= 0:
        raise ValueError(f"{dataset_speed} or {workers_speed} has a figure that is not positive: measure again.")
    return measured


def estimate(
    views: int, views_per_patient: int, measured: Measured, cores: int | None = None, price: float | None = None
) -> Estimate:
    """Returns what a dataset of this many views needs; the module's docstring has the formulas.

    >>> found = estimate(2000, 1000, Measured(36.0, 1e6, 0.0036, 1e4, 1e4, 0.5), cores=2)
    >>> found.patients, found.build_core_hours, found.view_core_hours, found.hours
    (2, 0.04, 0.004, 0.022)
    """
    patients = math.ceil(views / views_per_patient)
    build = patients * measured.build_s / measured.efficiency / 3600
    view = views * measured.view_s / measured.efficiency / 3600
    return Estimate(
        views=views,
        patients=patients,
        build_core_hours=build,
        view_core_hours=view,
        core_hours=build + view,
        parquet_bytes=views * measured.parquet_bytes,
        npz_bytes=views * measured.npz_bytes,
        patient_bytes=patients * measured.patient_bytes,
        hours=None if cores is None else (build + view) / cores,
        cost=None if price is None else (build + view) * price,
    )


def table(estimates: list[Estimate]) -> str:
    """Returns the estimates as a Markdown table."""
    header = ["views", "patients", "core-hours: patients", "views", "total", "Parquet, GB", "NPZ, GB", "patients, GB"]
    rows: list[list[str]] = []
    for item in estimates:
        hours = (item.build_core_hours, item.view_core_hours, item.core_hours)
        sizes = (item.parquet_bytes, item.npz_bytes, item.patient_bytes)
        rows.append(
            [
                f"{item.views:,}", f"{item.patients:,}", *(f"{value:,.1f}" for value in hours),
                *(f"{value / 1e9:,.1f}" for value in sizes),
            ]
        )  # fmt: skip
    for name, values in (("hours", [item.hours for item in estimates]), ("cost", [item.cost for item in estimates])):
        if values[0] is not None:
            header.append(name)
            rows = [[*row, f"{value:,.1f}"] for row, value in zip(rows, values, strict=True)]
    return markdown_table(header, rows)


def run(arguments: Arguments) -> None:
    """Estimates, prints and writes the result."""
    measured = read_measured(arguments.dataset_speed, arguments.workers_speed, arguments.size)
    estimates = [
        estimate(views, arguments.views_per_patient, measured, arguments.cores, arguments.price_per_core_hour)
        for views in arguments.views
    ]
    print(
        f"Measured: {measured.build_s:.1f} s per patient, {measured.view_s * 1e3:.2f} ms and "
        f"{measured.parquet_bytes:,.0f} bytes per view of {arguments.size} x {arguments.size} pixels, efficiency of "
        f"parallel workers {measured.efficiency:.2f}; {arguments.views_per_patient} views per patient.\n"
    )
    print(table(estimates))
    result: dict[str, Any] = {
        "measured": asdict(measured),
        "estimates": [{name: value for name, value in asdict(item).items() if value is not None} for item in estimates],
        "settings": {
            "views_per_patient": arguments.views_per_patient,
            "size": arguments.size,
            "dataset_speed": arguments.dataset_speed.name,
            "workers_speed": arguments.workers_speed.name,
        },
    }
    save_measurement(arguments.json, result, 0)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
