"""Model cards and figures of the paper for the web page of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import policies
from benchmarks._support.own_localization import own_results
from benchmarks._support.paper_tables import (
    CENTRED_METRICS,
    REAL_METRICS,
    RETRIEVAL_METRICS,
    TABLE_1,
    TABLE_2,
    Model,
)
from carm_env.evaluation.site.parts import PrintedRow, PrintedTable, SiteParts
from policies.registry import POLICIES

CHECKPOINTS = Path(policies.__file__).parent / "checkpoints"
_SOURCE = "“Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control”"
_VALID = "The paper counts valid answers only. benchmarks/paper.py recomputes its tables from the released answers."


def site_parts() -> SiteParts:
    """Returns the cards of the weights that ship, and tables 1 and 2 of the paper with our own results beside them."""
    ours = own_results(())
    synthetic = {model: row[: len(CENTRED_METRICS)] for model, row in TABLE_2.items()}
    real = {model: row[len(CENTRED_METRICS) :] for model, row in TABLE_2.items()}
    centred = tuple(f"centred_{name}" for name in CENTRED_METRICS)
    return SiteParts(
        cards={path.parent.name: path.read_text(encoding="utf-8") for path in _cards()},
        publication=_SOURCE,
        printed=(
            _table("Table 1: the three landmarks closest to the centre, synthetic X-rays", RETRIEVAL_METRICS,
                   TABLE_1, ours, RETRIEVAL_METRICS),
            _table("Table 2: the landmark in the centre, synthetic X-rays", CENTRED_METRICS, synthetic, ours, centred),
            _table("Table 2: the landmark in the centre, real X-rays", REAL_METRICS, real, {}, (), _VALID),
        ),
    )  # fmt: skip


def _cards() -> list[Path]:
    return [path for path in sorted(CHECKPOINTS.glob("*/README.md")) if path.parent.name in POLICIES]


def _table(
    title: str,
    names: tuple[str, ...],
    printed: Mapping[Model, tuple[float, ...]],
    ours: Mapping[str, Mapping[str, float]],
    own_names: tuple[str, ...],
    note: str = "",
) -> PrintedTable:
    rows = [PrintedRow(str(model), tuple(map(_printed_figure, row)), True) for model, row in printed.items()]
    rows += [
        PrintedRow(policy, tuple(f"{figures[name]:.2f}" for name in own_names), False)
        for policy, figures in ours.items()
        if own_names and all(name in figures for name in own_names)
    ]
    return PrintedTable(title, tuple(f"{name[0].upper()}@{name[-1]}" for name in names), tuple(rows), note)


def _printed_figure(value: float) -> str:
    """Returns a figure with the decimals of the paper, two or three."""
    return f"{value:.3f}".removesuffix("0")
