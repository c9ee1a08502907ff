"""Text with tabs → text in columns.

Owns: the elastic columns of Go's text/tabwriter as Docker uses it (cells end in a tab, a column is a block of
consecutive lines that have a cell there; least width 10, padding 3). Does not own: what the cells say.
"""

from __future__ import annotations

import unicodedata


def align(lines: list[str], least: int = 10, padding: int = 3) -> list[str]:
    """Lines with `\\t` between cells → lines padded with spaces. The last cell of a line is never padded."""
    rows = [line.split("\t") for line in lines]
    widths: list[list[int]] = [[] for _ in rows]
    _measure(rows, widths, 0, len(rows), 0, least, padding)
    out = []
    for row, width in zip(rows, widths, strict=True):
        cells = [cell + " " * (w - display_width(cell)) for cell, w in zip(row, width, strict=False)]
        out.append("".join(cells) + row[-1])
    return out


def _measure(
    rows: list[list[str]], widths: list[list[int]], first: int, end: int, column: int, least: int, padding: int
) -> None:
    """Gives every block of lines in [first, end) that has a terminated cell in `column` its width, then goes deeper."""
    line = first
    while line < end:
        start = line
        while line < end and len(rows[line]) - 1 > column:
            line += 1
        if line > start:
            width = max(least, *(display_width(row[column]) + padding for row in rows[start:line]))
            for each in widths[start:line]:
                each.append(width)
            _measure(rows, widths, start, line, column + 1, least, padding)
        line += 1


def display_width(text: str) -> int:
    """Columns of a terminal that `text` takes: wide East Asian characters take two."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
