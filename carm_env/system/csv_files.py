"""CSV files of others, with errors that name the file, the row and the column."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from carm_env.system.errors import CArmEnvError


class CsvFileError(CArmEnvError, ValueError):
    """A CSV file cannot be read, lacks a column, or has a row that is cut short; the message names the file."""


def read_csv_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads the rows of a CSV file with a header, UTF-8 with or without a byte order mark; ``.gz`` is unpacked.

    Args:
        path: the file.
        columns: columns that it must have; it may have more.

    Raises:
        CsvFileError: a column is missing, a row is cut short, or the file cannot be read.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise CsvFileError(f"{path} cannot be read: {error}.") from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise CsvFileError(f"{path} has no column {missing[0]!r}, expected {', '.join(columns)}.")
    for number, row in enumerate(rows, 1):
        if absent := next((name for name in columns if row[name] is None), None):
            raise CsvFileError(f"{path}, row {number} is cut short: it has no {absent!r}. Copy it again.")
    return rows
