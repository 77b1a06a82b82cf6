"""Strategies over all workloads: geometric mean of the FLOPs ratio to the reference, and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from harness import RULES_VERSION
from harness.picture import profile_picture
from harness.plain import cell
from harness.profiles import Ratio, geometric_ratio, performance_profile
from harness.rows import Row, Section, one

FACTORS = [1 + 0.05 * k for k in range(61)]  # 1 to 4 times the best


@dataclass(frozen=True)
class Line:
    """One strategy as its defaults are, at 1x: `cells` has a row of each workload, or None where there is no result."""

    strategy: str
    cells: tuple[Row | None, ...]
    ratio: Ratio | None
    area: float | None

    @property
    def found(self) -> int:
        return sum(cell is not None for cell in self.cells)

    @property
    def order(self) -> float:
        """What lines are sorted by: the ratio, and lower bounds behind all numbers, those of most misses last.

        By the bound alone, who stops early and reaches nothing would stand before who reaches everything.
        """
        return self.ratio.value + 1e6 * self.ratio.censored if self.ratio else math.inf


def view(sections: Sequence[Section]) -> dict[str, Any]:
    """Values of the page: workloads of the present rules that are whole (no `--limit`), lines, the picture."""
    whole = [s for s in sections if s.first.rules_version == RULES_VERSION and s.first.reports.limit is None]
    plain_rows = [_plain(s) for s in whole]
    names = sorted({name for rows in plain_rows for name in rows})
    everywhere = [n for n in names if all(n in rows for rows in plain_rows)]
    costs = {n: [_cost(rows[n]) for rows in plain_rows] for n in everywhere}
    solved = {n: c for n, c in costs.items() if all(x is not None and x > 0 for x in c)}
    shares = (
        performance_profile({n: [float(x or math.inf) for x in c] for n, c in solved.items()}, FACTORS)
        if solved
        else {}
    )
    areas = {n: float(curve.mean()) for n, curve in shares.items()}
    lines = [Line(n, tuple(rows.get(n) for rows in plain_rows), _ratio(n, plain_rows), areas.get(n)) for n in names]
    lines.sort(key=lambda line: (-line.found, line.order, line.strategy))
    drawn = {n: [float(x) for x in curve] for n, curve in shares.items()} if len(whole) > 1 else {}
    numbers = [",".join(["factor", *map(cell, drawn)])]
    numbers += [",".join(f"{x:.3f}" for x in (f, *values)) for f, *values in zip(FACTORS, *drawn.values(), strict=True)]
    picture = Markup(profile_picture(FACTORS, drawn))
    return {
        "whole": whole,
        "lines": lines,
        "profiles": picture,
        "shares": drawn,
        "numbers": Markup(escape("\n".join(numbers))),
    }


def _plain(s: Section) -> dict[str, Row]:
    """The ranked 1x rows without settings of a workload, by strategy: of several that with most seeds, then the newest."""
    rows = [row for m, rows in s.budgets if m == 1 for row in rows if row.ranked and not row.settings]
    rows.sort(key=lambda row: (row.is_reference, len(row.runs), max(r.ended for r in row.runs), row.key))
    return {row.strategy: row for row in rows}


def _cost(row: Row) -> float | None:
    return row.to_target


def _ratio(name: str, workloads: Sequence[dict[str, Row]]) -> Ratio | None:
    triples = []
    for rows in workloads:
        row, own = rows.get(name), next((r for r in rows.values() if r.is_reference), None)
        if row is None or own is None or row.to_target is None or own.to_target is None:
            continue
        triples.append((row.to_target * one(row.first), row.billed, own.to_target * one(own.first)))
    return geometric_ratio(triples)
