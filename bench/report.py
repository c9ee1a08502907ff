"""Figures as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Row:
    """One piece of work: values of each engine, and the ratio that it should reach (dockerd's median to ours)."""

    title: str
    unit: str  # "ms", "s", "MB"
    goal: float | None = None  # at least so many times better
    limit: float | None = None  # at most so much, in `unit`
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, engine: str, value: float) -> None:
        self.values.setdefault(engine, []).append(value)

    def median(self, engine: str) -> float | None:
        return statistics.median(self.values[engine]) if self.values.get(engine) else None

    def p95(self, engine: str) -> float | None:
        values = sorted(self.values.get(engine, []))
        return values[math.ceil(len(values) * 0.95) - 1] if values else None

    def ratio(self) -> float | None:
        ours, theirs = self.median("dockyardd"), self.median("dockerd")
        return theirs / ours if ours and theirs else None

    def verdict(self) -> str:
        ratio, ours = self.ratio(), self.median("dockyardd")
        if self.goal is not None and ratio is not None:
            return f"{'ok' if ratio >= self.goal else 'MISSED'} (≥ {self.goal:g}×)"
        if self.limit is not None and ours is not None:
            return f"{'ok' if ours <= self.limit else 'MISSED'} (≤ {self.limit:g} {self.unit})"
        return ""


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows: list[Row]) -> str:
    """A Markdown table, its columns lined up."""
    head = ["work", "runs", "dockyardd", "p95", "dockerd", "p95", "ratio", "goal"]
    lines = [head, ["---", "--:", "--:", "--:", "--:", "--:", "--:", "---"]]
    for row in rows:
        ratio = row.ratio()
        lines.append(
            [
                f"{row.title} ({row.unit})",
                "/".join(str(len(row.values.get(name, []))) for name in ("dockyardd", "dockerd")),
                *(number(value) for name in ("dockyardd", "dockerd") for value in (row.median(name), row.p95(name))),
                f"{ratio:.1f}×" if ratio else "–",
                row.verdict(),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def write_json(rows: list[Row], path: Path, versions: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engines": versions,
        "rows": [
            asdict(row)
            | {
                "median": {name: row.median(name) for name in row.values},
                "p95": {name: row.p95(name) for name in row.values},
                "ratio": row.ratio(),
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
