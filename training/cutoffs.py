"""Learn the cutoffs of the router's stages from a CSV of samples.

    python training/cutoffs.py samples.csv
    python training/cutoffs.py samples.csv --cards my_cards --out my_cutoffs.json

The columns are ``stage`` (modality, finding, card, or 1 to 3), ``p2`` (probability of the runner-up) and ``label``
(FIRST or SECOND, the right answer). Further columns are left out. `benchmarks/router.py` writes such a file with
``--csv``. The cutoffs are valid for the cards that the samples were taken with: their fingerprint is in the file.

Source: "One VLM, Two Roles", section 3, algorithm 2.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from carm_env.system.command_line import run_script
from carm_env.system.csv_files import read_csv_rows
from policies.routing.cards import CARDS, read_repository
from policies.routing.cutoffs import Cutoffs, CutoffsError, learn_cutoffs, write_cutoffs
from policies.routing.selection import FIRST, SECOND, STAGES, stage_name

COLUMNS = ("stage", "p2", "label")


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        samples: the CSV file.
        cards: folder of the model cards that the samples were taken with.
        model: name of the model that the samples are of, for the file.
        out: file of the cutoffs.
    """

    samples: Positional[Path]
    cards: Path = CARDS
    model: str = ""
    out: Path = Path("runs/cutoffs.json")


def read_samples(path: Path) -> tuple[list[str], list[float], list[str]]:
    """Reads stages, probabilities and labels.

    Raises:
        CsvFileError: the file cannot be read, or a column is missing.
        CutoffsError: there is no row, or a value is wrong; the message names the line.
    """
    rows = read_csv_rows(path, COLUMNS)
    if not rows:
        raise CutoffsError(f"{path} has no row, expected samples with the columns {', '.join(COLUMNS)}.")
    stages, probabilities, labels = [], [], []
    for number, row in enumerate(rows, start=2):
        try:
            stage, probability, label = _sample(row)
        except ValueError as error:
            raise CutoffsError(f"{path}, line {number}: {error}") from error
        stages.append(stage)
        probabilities.append(probability)
        labels.append(label)
    return stages, probabilities, labels


def _sample(row: Mapping[str, str]) -> tuple[str, float, str]:
    stage, label = stage_name(row["stage"]), row["label"].strip().upper()
    try:
        probability = float(row["p2"])
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise ValueError(f"p2 is {row['p2']!r}, expected a probability from 0 to 1.")
    if label not in (FIRST, SECOND):
        raise ValueError(f"label is {row['label']!r}, expected {FIRST} or {SECOND}.")
    return stage, probability, label


def report(cutoffs: Cutoffs) -> str:
    """Formats the cutoffs as the paper's table 1."""
    lines = [f"{'stage':10} {'cutoff':>10} {'right':>11}  optimal intervals"]
    for stage in STAGES:
        found = cutoffs.sweeps.get(stage)
        if found is None:
            lines.append(f"{stage:10} no samples: the first answer is taken")
            continue
        intervals = "; ".join(f"[{low:.6f}, {high:.6f})" for low, high in found.intervals)
        right = f"{found.score} of {found.samples}"
        lines.append(f"{stage:10} {found.cutoff:10.6f} {right:>11}  {intervals}")
    return "\n".join(lines)


def run(arguments: Arguments) -> None:
    """Learns, prints and writes the cutoffs."""
    repository = read_repository(arguments.cards)
    cutoffs = learn_cutoffs(*read_samples(arguments.samples), repository.fingerprint, arguments.model)
    print(report(cutoffs))
    write_cutoffs(arguments.out, cutoffs)
    print(f"\ncutoffs for the cards {repository.fingerprint[:12]}: {arguments.out}")


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_script(run, Arguments, __doc__, given)


if __name__ == "__main__":
    sys.exit(main())
