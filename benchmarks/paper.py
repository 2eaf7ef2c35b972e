"""Recompute the paper's tables 1 and 2 and its heat map from the raw outputs that its authors released.

    python benchmarks/paper.py --released C-arm-localization-LLMs --json t.json
    python benchmarks/paper.py --released C-arm-localization-LLMs --out runs/paper --ours localization_mllm.json

``--released`` is the authors' repository, or its folder of results with the folder ``data`` beside it; any subset of
the files will do. Answers are read as the authors read them: ids before colons, and the first two ids. The paper's
tables are over valid answers; ``all`` in the results counts an answer that cannot be read as wrong. Each cell that
does not give the printed figure is listed with its difference, and with what other readings of the same answers give.
Writes a heat map of figure 3(a) for each file of answers to centred X-rays to ``--out``. The results of our own
policies, ``--ours``, are files of ``benchmarks/localization.py``; by default the newest in the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks._support.own_localization import own_results
from benchmarks._support.paper_tables import (
    CENTRED_METRICS,
    DL,
    REAL_METRICS,
    RETRIEVAL_METRICS,
    TABLE_1,
    TABLE_2,
    Model,
    model_of,
)
from benchmarks._support.released_answers import (
    FIRST_ANSWERS,
    REAL,
    RETRIEVAL,
    ReleasedAnswers,
    read_centred,
    read_real,
    read_retrieval,
    read_test_patients,
    released_folders,
)
from carm_env.evaluation import metrics
from carm_env.evaluation.plots import drawing
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table, plain_text
from carm_env.landmarks import N_LANDMARKS
from carm_env.system.command_line import run_script

LARGE_DIFFERENCE = 0.01
_KNOWN: dict[tuple[str, Model | None, str], str] = {
    (
        "table1",
        DL,
        "p_at_1",
    ): "5 of 10,240 first answers are not relevant, which is 0.9995: a 9 may be missing in print",
    ("table1", DL, "r_at_1"): "a third of P@1, see there",
}
"""What is known of cells that no reading gives."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        released: the authors' repository, or its folder of results.
        ours: results of benchmarks/localization.py to print beside; by default the newest in the repository.
        out: folder for the heat maps.
        json: file for the results.
    """

    released: Path
    ours: tuple[Path, ...] = ()
    out: Path = Path("runs/paper")
    json: Path | None = None


class Part(NamedTuple):
    """A part of a table.

    Attributes:
        table: ``table1`` or ``table2``.
        name: name of the part of table 2; empty for table 1.
        folder: folder of the released answers.
        read: reads a file of it.
        names: names of the metrics.
        printed: the printed figures of each row.
    """

    table: str
    name: str
    folder: str
    read: Callable[[Path, Path], ReleasedAnswers]
    names: tuple[str, ...]
    printed: Mapping[Model, tuple[float, ...]]


PARTS = (
    Part("table1", "", RETRIEVAL, read_retrieval, RETRIEVAL_METRICS, TABLE_1),
    Part(
        "table2", "synthetic", FIRST_ANSWERS, read_centred, CENTRED_METRICS,
        {model: row[:2] for model, row in TABLE_2.items()},
    ),
    Part("table2", "real", REAL, read_real, REAL_METRICS, {model: row[2:] for model, row in TABLE_2.items()}),
)  # fmt: skip


def values_of(name: str, answers: NDArray[np.int64], truth: NDArray[np.int64], repeats: bool) -> NDArray[np.float64]:
    """Returns a metric of every answer, ``(n,)``.

    Args:
        name: ``p_at_K``, ``r_at_K`` or ``h_at_K``.
        answers: ids ``(n, m)``, zeros for an answer that cannot be read.
        truth: true ids ``(n, m)``.
        repeats: count a landmark that is named twice twice, as the authors' script does.
    """
    kind, count = name[0], int(name[-1])
    if kind == "h":
        return metrics.hit_at(answers, truth, count)
    return {"p": metrics.precision_at, "r": metrics.recall_at}[kind](answers, truth, count, repeats=repeats)


def measure(part: Part, found: ReleasedAnswers) -> dict[str, Any]:
    """Returns the metrics of one file over valid answers, with intervals by patient, and over all answers."""
    valid = metrics.complete(found.answers)
    if not valid.any():
        raise ValueError(f"none of {len(valid)} answers can be read, expected those of one of the paper's models.")
    scores: dict[str, Any] = {"answers": len(valid), "valid": int(valid.sum())}
    whole: dict[str, float] = {}
    for name in part.names:
        values = values_of(name, found.answers, found.truth, repeats=True)
        scores[name] = float(values[valid].mean())
        whole[name] = float(values.mean())
        if found.patients is not None:
            owners = np.array(found.patients)[valid].tolist()
            interval = metrics.share_estimate(values[valid], owners)
            scores[f"{name}_interval"] = [interval.low, interval.high]
    return {**scores, "all": whole}


def differences(
    part: Part, stem: str, found: ReleasedAnswers, scores: Mapping[str, Any], test_patients: frozenset[str]
) -> list[dict[str, Any]]:
    """Returns the cells of a file whose recomputed value is not the printed one, with what other readings give."""
    model = model_of(stem)
    printed = part.printed.get(model) if model is not None else None
    rows = []
    for name, figure in zip(part.names, printed or (), strict=False):
        decimals = len(f"{figure}".partition(".")[2].ljust(2, "0"))
        if f"{scores[name]:.{decimals}f}" == f"{figure:.{decimals}f}":
            continue
        rows.append(
            {
                "table": part.table, "part": part.name, "file": stem, "row": str(model), "metric": name,
                "recomputed": scores[name], "printed": figure, "difference": scores[name] - figure,
                "large": abs(scores[name] - figure) > LARGE_DIFFERENCE,
                "explanation": _KNOWN.get((part.table, model, name)) or _explained(name, found, figure, test_patients),
            }
        )  # fmt: skip
    return rows


def _explained(name: str, found: ReleasedAnswers, printed: float, test_patients: frozenset[str]) -> str:
    """Says which other reading of the answers gives the printed figure, or that none does."""
    valid = metrics.complete(found.answers)
    readings = {
        "unreadable answers count as wrong": np.ones(len(valid), bool),
        "landmarks that are named twice count once": valid,
    }
    if found.patients is not None:
        readings["only the patients of the test views"] = valid & np.isin(found.patients, sorted(test_patients))
    tried = []
    for reading, rows in readings.items():
        if not rows.any():
            continue
        values = values_of(name, found.answers, found.truth, repeats="once" not in reading)
        value = float(values[rows].mean())
        if f"{value:.2f}" == f"{printed:.2f}":
            return f"printed if {reading}"
        tried.append(f"{reading}: {value:.3f}")
    return f"no reading of these answers gives it ({'; '.join(tried)}); they may be of another run"


def contradictions() -> list[str]:
    """Returns the printed rows that contradict themselves: with three relevant landmarks P@3 and R@3 are equal."""
    return [
        f"table 1, {model}: P@3 is {row[2]:.2f} and R@3 is {row[5]:.2f}, which are equal with three relevant landmarks"
        for model, row in TABLE_1.items()
        if row[2] != row[5]
    ]


def report(part: Part, scores: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Mapping[str, float]]) -> str:
    """Formats a part of a table: recomputed figures, and the printed ones after them; our own policies below."""
    rows = []
    for stem, found in scores.items():
        model = model_of(stem)
        printed = part.printed.get(model, ()) if model is not None else ()
        cells = [f"{found[name]:.3f}" for name in part.names]
        cells = [f"{cell} ({figure:g})" for cell, figure in zip(cells, printed, strict=True)] if printed else cells
        rows.append((plain_text(stem), str(model or "-"), f"{found['valid']}/{found['answers']}", *cells))
    prefix = {"": "", "synthetic": "centred_"}.get(part.name)
    if prefix is not None:
        for policy, figures in ours.items():
            keys = [prefix + name for name in part.names]
            if all(key in figures for key in keys):
                rows.append((plain_text(policy), "-", "-", *(f"{figures[key]:.3f}" for key in keys)))
    heads = [f"{name[0].upper()}@{name[-1]}" for name in part.names]
    return markdown_table(("released file", "row of the paper", "valid", *heads), rows)


def run(arguments: Arguments) -> None:
    """Recomputes the tables, prints and saves them."""
    results, data = released_folders(arguments.released)
    ours = own_results(arguments.ours)
    test_patients = read_test_patients(data)
    tables: dict[str, Any] = {"table1": {}, "table2": {"synthetic": {}, "real": {}}}
    unlike: list[dict[str, Any]] = []
    for part in PARTS:
        scores: dict[str, dict[str, Any]] = {}
        for path in sorted((results / part.folder).glob("*.csv")):
            found = part.read(path, data)
            scores[path.stem] = measure(part, found)
            unlike += differences(part, path.stem, found, scores[path.stem], test_patients)
            if part.folder == FIRST_ANSWERS:
                _draw(arguments.out / f"heat_map_{path.stem}.png", found, path.stem)
        if not scores:
            continue
        print(f"\n{part.table} {part.name}: recomputed (printed)\n\n{report(part, scores, ours)}")
        (tables[part.table] if not part.name else tables[part.table][part.name]).update(scores)
    print("\nCells that differ from print:" if unlike else "\nNo cell differs from print.")
    for row in unlike:
        where = f"{row['table']} {row['part']} {row['file']} {row['metric']}".replace("  ", " ")
        print(f"  {where}: {row['recomputed']:.4f}, printed {row['printed']:g}: {row['explanation']}")
    print("\nPrinted figures that contradict themselves:")
    for text in contradictions():
        print(f"  {text}")
    more = {"differences": unlike, "contradictions": contradictions(), "ours": ours}
    save_measurement(arguments.json, {**tables, **more}, 0)


def _draw(path: Path, found: ReleasedAnswers, title: str) -> None:
    first = np.where(found.answers[:, 0] <= N_LANDMARKS, found.answers[:, 0], 0)
    with drawing(path.name):
        metrics.save_confusion_matrix(path, metrics.confusion_matrix(first, found.truth[:, 0]), title)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
