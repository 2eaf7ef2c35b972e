"""Texts, numbers and table cells as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

from carm_env.evaluation.intervals import MIN_PATIENTS
from carm_env.evaluation.replay_page import shown

NO_VALUE = "–"
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+")


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        content: HTML.
        sort: value that the table is sorted by; None to sort by the content.
        css: names of classes.
    """

    content: str
    sort: float | None = None
    css: str = ""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: heading.
        is_number: whether it is aligned to the right and sorted as numbers, the largest first.
        explanation: what the heading means; empty if it is plain.
    """

    title: str
    is_number: bool = True
    explanation: str = ""


def visible(value: object) -> str:
    r"""Returns a text with a space for its invisible characters, which could change the order of others.

    >>> visible("a\x07b")
    'a b'
    """
    return _INVISIBLE.sub(" ", str(value))


def attribute(value: object) -> str:
    r"""Returns a text for an attribute of HTML: `visible` and escaped.

    >>> attribute('a"b\x07<')
    'a&quot;b &lt;'
    """
    return html.escape(visible(value))


def percent(share: float) -> str:
    """Returns a share in per cent, as HTML.

    >>> percent(0.875)
    '88&nbsp;%'
    """
    return f"{100 * share:.0f}&nbsp;%"


def interval_text(interval: Sequence[float] | None, patients: int) -> str:
    """Returns the interval of a share in per cent; a dash if there is none, or for fewer than `MIN_PATIENTS` patients.

    >>> interval_text((0.25, 0.755), 5), interval_text((0.25, 0.75), 4)
    ('25–76', '–')
    """
    known = known_interval(interval, patients)
    return NO_VALUE if known is None else f"{100 * known[0]:.0f}–{100 * known[1]:.0f}"


def known_interval(interval: Sequence[float] | None, patients: int) -> tuple[float, float] | None:
    """Returns an interval that may be shown; None for one of too few patients."""
    if interval is None or patients < MIN_PATIENTS:
        return None
    low, high = interval
    return low, high


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], sorted_by: int | None = None) -> str:
    """Returns a table whose columns can be sorted, in a box that scrolls sideways.

    The first cell of a row is its heading.

    Args:
        caption: the caption, as HTML.
        columns: the columns.
        rows: the cells of each row.
        sorted_by: column that the rows are sorted by already, its largest value first; None for none.
    """
    name = attribute(html.unescape(re.sub("<[^>]*>", "", caption)))
    heads = "".join(_heading(column, number == sorted_by) for number, column in enumerate(columns))
    body = "".join(f"<tr>{''.join(_cells(row, columns))}</tr>" for row in rows)
    whole = f"<caption><span>{caption}</span></caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return scrolling(f'<table class="sortable">{whole}</table>', name)


def scrolling(content: str, name: str) -> str:
    """Returns HTML in a box that scrolls sideways, also by keyboard; `name` is the text of an attribute."""
    return f'<div class="scroll" role="region" aria-label="{name}" tabindex="0">{content}</div>'


def _heading(column: Column, is_sorted: bool) -> str:
    css = ' class="n"' if column.is_number else ""
    title = f' title="{attribute(column.explanation)}"' if column.explanation else ""
    order = "descending" if is_sorted else "none"
    return f'<th scope="col"{css} aria-sort="{order}"><button type="button"{title}>{shown(column.title)}</button></th>'


def _cells(row: Sequence[Cell], columns: Sequence[Column]) -> list[str]:
    cells = []
    for number, (cell, column) in enumerate(zip(row, columns, strict=True)):
        names = " ".join(name for name in ("n" if column.is_number else "", cell.css) if name)
        css = f' class="{names}"' if names else ""
        sort = "" if cell.sort is None else f' data-v="{cell.sort:.6g}"'
        tag = ("th", ' scope="row"') if number == 0 else ("td", "")
        cells.append(f"<{tag[0]}{tag[1]}{css}{sort}>{cell.content}</{tag[0]}>")
    return cells


def facts(values: Sequence[tuple[str, str]]) -> str:
    """Returns names and values as a list of definitions; the values are HTML."""
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{shown(name)}</dt><dd>{value}</dd></div>" for name, value in values)
        + "</dl>"
    )


def paragraphs(sentences: Sequence[str]) -> str:
    """Returns sentences as a list of HTML."""
    return "<ul>" + "".join(f"<li>{shown(sentence)}</li>" for sentence in sentences) + "</ul>" if sentences else ""
