"""The plots of `benchmarks.scaling`, one PNG each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from carm_env.errors import MissingExtraError
from carm_env.files import atomic_write

INCHES, DOTS_PER_INCH = (6.4, 4.0), 100
BLUE, ORANGE = "#1f6fb4", "#d9792b"


def import_pyplot() -> Any:
    """matplotlib.pyplot, drawing to files alone.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench", "Drawing plots") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def save_plots(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the figures of `benchmarks.scaling.measure` into `folder`; the files made."""
    return [save_plot(folder / f"scaling_{name}.png", name, figures[name]) for name in _DRAWINGS]


def save_plot(path: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Draw one of them: ``side``, ``voxels``, ``patients`` or ``environments``."""
    figure, axes = import_pyplot().subplots(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    _DRAWINGS[name](axes, rows)
    axes.grid(True, which="both", alpha=0.25)
    with atomic_write(path) as temporary:
        # Without the version of matplotlib in it, the same figures make the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    import_pyplot().close(figure)
    return path


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows]


def _logarithmic(axes: Any, ticks: Sequence[float], labels: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels)
    axes.minorticks_off()


def _draw_side(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    sides = _column(rows, "side")
    axes.plot(sides, _column(rows, "frame_ms"), "o-", color=BLUE, label="whole frame")
    axes.plot(sides, _column(rows, "lines_ms"), "s--", color=ORANGE, label="line integrals of two materials")
    axes.set_yscale("log")
    _logarithmic(axes, sides, [str(side) for side in sides])
    axes.set_xlabel("side of the picture, pixels")
    axes.set_ylabel("CPU time of a picture, ms")
    axes.legend()


def _draw_voxels(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    millions = [row["voxels"] / 1e6 for row in rows]
    axes.plot(millions, _column(rows, "frame_ms"), "o-", color=BLUE)
    axes.set_yscale("log")
    _logarithmic(axes, millions, [f"{number:.3g}" for number in millions])
    axes.set_xlabel("voxels, millions")
    axes.set_ylabel("CPU time of a frame, ms", color=BLUE)
    if all(row["memory_mib"] is not None for row in rows):
        memory = axes.twinx()
        memory.plot(millions, _column(rows, "memory_mib"), "s--", color=ORANGE)
        memory.set_yscale("log")
        memory.set_ylabel("memory of volume and camera, MiB", color=ORANGE)


def _draw_patients(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    numbers = _column(rows, "patients")
    axes.plot(numbers, _column(rows, "frame_ms"), "o-", color=BLUE)
    _logarithmic(axes, numbers, [str(number) for number in numbers])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("patients that take turns")
    axes.set_ylabel("CPU time of a frame, ms")


def _draw_environments(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for threads, colour, style in zip(
        sorted({row["threads"] for row in rows}), (BLUE, ORANGE), ("o-", "s--"), strict=False
    ):
        chosen = [row for row in rows if row["threads"] == threads]
        label = f"{threads} thread" + ("s" if threads > 1 else "")
        axes.plot(_column(chosen, "environments"), _column(chosen, "steps_per_s"), style, color=colour, label=label)
    numbers = sorted({row["environments"] for row in rows})
    _logarithmic(axes, numbers, [str(number) for number in numbers])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("environments")
    axes.set_ylabel("environment steps a second, all together")
    axes.legend()


_DRAWINGS: dict[str, Callable[[Any, Sequence[Mapping[str, Any]]], None]] = {
    "side": _draw_side,
    "voxels": _draw_voxels,
    "patients": _draw_patients,
    "environments": _draw_environments,
}
