"""Raw outputs of language models as the authors of the paper released them: CSV files with ``filename`` and ``output``.

Their repository is that of "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control"; its files are the
user's to bring.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.language.answers import AnswerError
from carm_env.language.grammar import parse
from carm_env.system.csv_files import CsvFileError, read_csv_rows
from carm_env.system.errors import CArmEnvError

CORRECTIONS, FIRST_ANSWERS = "correction_reasoning", "synthetic_localization"
"""Folders of the revised answers, and of the answers before."""
RETRIEVAL, REAL = "retrieval", "real_localization"
"""Folders of the answers to the question for the three closest landmarks, and about the real X-rays."""
_CASE = re.compile(r"case-\w+?(?=_|\.|$)")


class ReleasedFileError(CArmEnvError, ValueError):
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


@dataclass(frozen=True, eq=False)
class ReleasedAnswers:
    """The answers of one file, with the truth.

    Attributes:
        answers: ``(n, K)`` ids, best first; a row of zeros where fewer than K ids were given.
        truth: ``(n, m)`` true ids, closest first; zeros fill rows with fewer.
        patients: ``(n,)`` patient of each view; None if the file does not say.
    """

    answers: NDArray[np.int64]
    truth: NDArray[np.int64]
    patients: tuple[str, ...] | None


def released_folders(folder: Path) -> tuple[Path, Path]:
    """Returns the folders of the results and of the data below the authors' repository, or beside its results.

    Raises:
        ReleasedFileError: there are no results.
    """
    for results in (folder / "results", folder):
        if any((results / name).is_dir() for name in (RETRIEVAL, FIRST_ANSWERS, REAL)):
            data = results.parent / "data"
            return results, data if data.is_dir() else results / "data"
    raise ReleasedFileError(
        f"{folder} holds none of the folders {RETRIEVAL}, {FIRST_ANSWERS} and {REAL}, expected the authors' results or "
        "a folder above them."
    )


def read_retrieval(path: Path, data: Path) -> ReleasedAnswers:
    """Reads answers to the question for the three closest landmarks, as the authors read them: ids before colons.

    Args:
        path: a file of the folder `RETRIEVAL`.
        data: the authors' folder of data.

    Raises:
        ReleasedFileError: a file is damaged or missing, or names a view that the data lack.
    """
    if _is_baseline(path):
        rows = read_rows(path, ("pred", "target"))
        return _checked(
            path, [_numbers(row["pred"], 1) for row in rows], [_numbers(row["target"], 1) for row in rows], 3
        )
    truth = {
        row["filename"]: _numbers(row["top3_landmarks"])
        for row in read_rows(data / "test.csv", ("filename", "top3_landmarks"))
    }
    rows = read_rows(path, ("filename", "output"))
    answers = [[int(number) for number in re.findall(r"[\[,]\s*(\d{1,3}):", row["output"])] for row in rows]
    return _with_truth(path, rows, [answer if len(answer) == 3 else [] for answer in answers], truth, 3)


def read_centred(path: Path, data: Path) -> ReleasedAnswers:
    """Reads answers to X-rays that are centred on a landmark: the first two ids. See `read_retrieval`."""
    if _is_baseline(path):
        rows = read_rows(path, ("pred", "target"))
        answers = [_numbers(row["pred"], 1)[:2] for row in rows]
        return _checked(path, answers, [_numbers(row["target"], 1) for row in rows], 2)
    truth = {
        row["file_path"]: _numbers(row["landmark"])
        for row in read_rows(data / "classification.csv", ("file_path", "landmark"))
    }
    rows = read_rows(path, ("filename", "output"))
    return _with_truth(path, rows, [_first_two(row["output"]) for row in rows], truth, 2)


def read_real(path: Path, data: Path) -> ReleasedAnswers:
    """Reads answers about real X-rays, which can have several labels. See `read_retrieval`.

    The labels count from 0 in the files, and from 1 in what is returned.
    """
    if _is_baseline(path):
        rows = read_rows(path, ("pred", "target"))
        answers = [_numbers(row["pred"], 1)[:2] for row in rows]
        return _checked(path, answers, [_numbers(row["target"], 1) for row in rows], 2)
    truth = {
        row["SOPInstanceUID"]: _numbers(row["Target"], 1)
        for row in read_rows(data / "real.csv", ("SOPInstanceUID", "Target"))
    }
    rows = read_rows(path, ("filename", "output"))
    answers = [[number + 1 for number in _first_two(row["output"])] for row in rows]
    return _with_truth(path, rows, answers, truth, 2)


def read_test_patients(data: Path) -> frozenset[str]:
    """Returns the patients of the test views of table 1; none if the data lack them."""
    path = data / "test.csv"
    if not path.is_file():
        return frozenset()
    return frozenset(row["case_number"] for row in read_rows(path, ("case_number",)))


def _is_baseline(path: Path) -> bool:
    """Returns whether a file is of the paper's network: its ids count from 0, and it names no views."""
    return path.stem.startswith("test_")


def _numbers(text: str, offset: int = 0) -> list[int]:
    return [int(number) + offset for number in re.findall(r"\d{1,6}", text)]


def _first_two(text: str) -> list[int]:
    found = re.search(r"(\d{1,3}),\s*(\d{1,3})", text)
    return [int(number) for number in found.groups()] if found else []


def _with_truth(
    path: Path, rows: Sequence[Mapping[str, str]], answers: list[list[int]], truth: Mapping[str, list[int]], count: int
) -> ReleasedAnswers:
    for number, row in enumerate(rows, 1):
        if row["filename"] not in truth:
            raise ReleasedFileError(f"{path}, row {number}: the data have no {row['filename']!r}.")
    found = _checked(path, answers, [truth[row["filename"]] for row in rows], count)
    cases = [_CASE.search(row["filename"]) for row in rows]
    # A real X-ray is of nobody who is named: each counts as a patient.
    patients = tuple(case.group() if case else row["filename"] for case, row in zip(cases, rows, strict=True))
    return ReleasedAnswers(found.answers, found.truth, patients)


def _checked(path: Path, answers: list[list[int]], truth: list[list[int]], count: int) -> ReleasedAnswers:
    if not answers:
        raise ReleasedFileError(f"{path} holds no answers.")
    for number, labels in enumerate(truth, 1):
        if not labels:
            raise ReleasedFileError(f"{path}, row {number} has no true label.")
    width = max(map(len, truth))
    full = [answer if len(answer) == count else [0] * count for answer in answers]
    padded = [labels + [0] * (width - len(labels)) for labels in truth]
    return ReleasedAnswers(np.array(full), np.array(padded), None)


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads a released CSV file.

    Raises:
        ReleasedFileError: a column is missing, a row is cut short, or the file cannot be read.
    """
    try:
        return read_csv_rows(path, columns)
    except CsvFileError as error:
        raise ReleasedFileError(str(error)) from error


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
