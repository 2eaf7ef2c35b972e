"""Contents of the page that do not come from results: model cards, and figures printed in publications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class PrintedRow(NamedTuple):
    """A row of a `PrintedTable`.

    Attributes:
        name: what was measured.
        cells: the figures as texts, one per column.
        is_printed: whether the publication prints them; otherwise they were measured with this software.
    """

    name: str
    cells: tuple[str, ...]
    is_printed: bool


@dataclass(frozen=True)
class PrintedTable:
    """Figures of a publication, with our own of the same kind beside them.

    Attributes:
        title: caption of the table.
        columns: headings of the figures.
        rows: the rows.
        note: sentences below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[PrintedRow, ...]
    note: str = ""


@dataclass(frozen=True)
class SiteParts:
    """Contents of the page that do not come from results.

    Attributes:
        cards: model card of each policy that has one, as Markdown.
        publication: name of the publication whose figures are shown.
        printed: its figures.
    """

    cards: Mapping[str, str] = field(default_factory=dict)
    publication: str = ""
    printed: Sequence[PrintedTable] = ()
