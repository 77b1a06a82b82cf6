"""Two rows against each other, task by task: numbers for the page's script, and the table of all rows for who has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness import REFERENCE
from harness.plain import plain
from harness.rows import Row, Section
from harness.stats import t_quantile

MOST = 200  # rows that a page holds


@dataclass(frozen=True)
class Comparison:
    """`data`: for the script; `best`: per task the highest mean among the entries of the first budget."""

    data: dict[str, Any]
    means: dict[str, list[float]]
    best: list[float]


def comparison(s: Section) -> Comparison:
    """Scores of every seed and task of a workload. The interval is Student's t over the seeds that both rows have."""
    rows = s.rows[:MOST]
    tested = {row.key for row in s.budgets[0][1] if row.tie is not None}
    means = {row.key: [sum(r.scores[t].value for r in row.runs) / len(row.runs) for t in s.tasks] for row in rows}
    data = {
        "tasks": [plain(t, 120) for t in s.tasks],
        "rows": [_row(row, s.tasks) | {"tested": row.key in tested} for row in rows],
        "t": [round(float(t_quantile(df, 0.05)), 4) for df in range(1, 101)],
        "reference": REFERENCE,
        "better": sorted(map(list, s.better)),
    }
    shown = [row for row in s.budgets[0][1] if row.key in means]
    entries = [means[row.key] for row in shown if not row.tuning] or [means[row.key] for row in shown]
    return Comparison(data, means, [max(column) for column in zip(*entries, strict=True)])


def _row(row: Row, tasks: list[str]) -> dict[str, Any]:
    seeds = {r.identity.seed: [round(r.scores[t].value, 5) for t in tasks] for r in row.runs}
    return {
        "key": row.key,
        "label": plain(row.label, 160) + (", tuning" if row.tuning else ""),
        "budget": row.multiple,
        "spent": round(row.spent, 4),
        "seeds": seeds,
    }
