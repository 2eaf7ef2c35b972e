"""Raw outputs of language models as the authors of the paper released them: CSV files with ``filename`` and ``output``.

Their repository is that of "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control"; its files are the
user's to bring.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carm_env.language.answers import AnswerError
from carm_env.language.grammar import parse

CORRECTIONS, FIRST_ANSWERS = "correction_reasoning", "synthetic_localization"
"""Folders of the revised answers, and of the answers before."""
_CASE = re.compile(r"case-\w+?(?=_|\.|$)")


class ReleasedFileError(ValueError):
    """A released file is missing, or is not as the authors wrote it."""


@dataclass(frozen=True)
class RevisedAnswer:
    """An answer about an X-ray that is centred on a landmark, before and after a correction.

    Attributes:
        patient: the patient's case.
        target: id of the landmark in the middle.
        first: the two ids that were named first; empty if the answer could not be read.
        revised: the two ids of the revised answer; empty as above.
    """

    patient: str
    target: int
    first: tuple[int, ...]
    revised: tuple[int, ...]


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads a released CSV file.

    Raises:
        ReleasedFileError: a column is missing, a row is cut short, or the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReleasedFileError(f"{path} cannot be read: {error}.") from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ReleasedFileError(f"{path} has no column {missing[0]!r}, expected {', '.join(columns)}.")
    for number, row in enumerate(rows, 1):
        if any(row[name] is None for name in columns):
            raise ReleasedFileError(f"{path}, row {number} is cut short: it has no {columns[-1]!r}. Copy it again.")
    return rows


def read_corrections(folder: Path) -> dict[str, list[RevisedAnswer]]:
    """Reads the revised answers of every model, with the same model's answers before.

    Args:
        folder: the folder ``results`` of the authors' repository.

    Raises:
        ReleasedFileError: there are no corrections, a file is damaged, or no first answers belong to one.
    """
    paths = sorted((folder / CORRECTIONS).glob("*.csv"))
    if not paths:
        raise ReleasedFileError(
            f"{folder / CORRECTIONS} holds no CSV file, expected the folder 'results' of the authors' repository."
        )
    firsts = {path.stem: path for path in (folder / FIRST_ANSWERS).glob("*.csv")}
    found = {}
    for path in paths:
        # Revised answers of a tuned model have a longer name than its first ones.
        stems = [stem for stem in firsts if stem in path.stem]
        if not stems:
            raise ReleasedFileError(
                f"{folder / FIRST_ANSWERS} holds no first answers for {path.name}, expected a file whose name is part "
                f"of that name. It holds: {', '.join(sorted(firsts)) or 'nothing'}."
            )
        found[path.stem] = _revised(path, firsts[max(stems, key=len)])
    return found


def _revised(path: Path, first_path: Path) -> list[RevisedAnswer]:
    firsts: Mapping[str, str] = {
        row["filename"]: row["output"] for row in read_rows(first_path, ("filename", "output"))
    }
    answers = []
    for number, row in enumerate(read_rows(path, ("filename", "output", "target")), 1):
        name, target = row["filename"], row["target"].strip()
        if name not in firsts:
            raise ReleasedFileError(f"{path}, row {number}: {name!r} is not in {first_path.name}.")
        if not (target.isascii() and target.isdigit()):
            raise ReleasedFileError(f"{path}, row {number}: target is {target!r}, expected the id of a landmark.")
        case = _CASE.search(name)
        answers.append(
            RevisedAnswer(
                case.group() if case else name, int(target), _pair("pair", firsts[name]),
                _pair("correction", row["output"]),
            )
        )  # fmt: skip
    return answers


def _pair(kind: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(parse(kind, text, "lenient").landmarks)
    except AnswerError:
        return ()
