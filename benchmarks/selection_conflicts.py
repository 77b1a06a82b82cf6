"""What selectors chose, from the records of a study: python benchmarks/selection_conflicts.py STUDY.yaml [--runs DIR]

Markdown, a row an entry at a budget, of its events named `selection`: pairs of chosen examples whose gradients conflict (of
32 x 31 / 2), the same for as many drawn at random from the same pools, the mean over seeds of their ratio with its 95 %
interval (Student's t), the overlap with the top of the pool by the anchors' products, and the residual of the objective.
A line of the log has the means of the selections since the line before; a run's mean weighs each by its selections, which
are the chosen examples (`tasks`) over those of one batch. Also the largest share of a task among the chosen.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.matrix import Cell, build
from harness.record import Record, read
from harness.request import Request
from harness.stats import mean_interval

NAMES = ("conflicts", "random_conflicts", "overlap", "residual")


def of_run(r: Record) -> dict[str, float]:
    """Means over the selections of one run, of what its strategy logs; `ratio` of the first two, `largest` a share."""
    lines = [e.data for e in r.events if e.note == "selection" and isinstance(e.data, Mapping)]
    weights = [float(sum(line["tasks"])) for line in lines]
    total = sum(weights)
    if not total:
        return {}
    found = {
        name: sum(w * float(line[name]) for w, line in zip(weights, lines, strict=True)) / total
        for name in NAMES
        if all(name in line for line in lines)
    }
    if found.get("random_conflicts"):
        found["ratio"] = found["conflicts"] / found["random_conflicts"]
    by_task = [sum(counts) for counts in zip(*(line["tasks"] for line in lines), strict=True)]
    return found | {"largest": max(by_task) / total}


def table(cells: Iterable[Cell]) -> str:
    """Markdown; entries that log no selection are left out."""
    groups: dict[tuple[str, float], list[dict[str, float]]] = defaultdict(list)
    for cell in cells:
        path = cell.record
        if path is not None and (found := of_run(read(path))):
            groups[cell.entry, cell.plan.identity.budget.multiple].append(found)
    lines = [
        "| strategy | budget | seeds | conflicting pairs | at random | ratio | overlap | residual | largest task |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (entry, budget), runs in groups.items():
        means = [_mean(runs, name, digits) for name, digits in (("conflicts", 0), ("random_conflicts", 0))]
        rest = [_mean(runs, name, 2) for name in ("overlap", "residual")]
        largest = f"{100 * sum(r['largest'] for r in runs) / len(runs):.0f} %"
        lines.append(f"| {entry} | {budget:g}x | {len(runs)} | {' | '.join([*means, _ratio(runs), *rest, largest])} |")
    return "\n".join(lines)


def _mean(runs: list[dict[str, float]], name: str, digits: int) -> str:
    values = [r[name] for r in runs if name in r]
    return f"{sum(values) / len(values):.{digits}f}" if values else "–"


def _ratio(runs: list[dict[str, float]]) -> str:
    values = [r["ratio"] for r in runs if "ratio" in r]
    if not values:
        return "–"
    e = mean_interval(values)
    return f"{e.value:.3f}" + ("" if e.low is None else f" [{e.low:.3f}, {e.high:.3f}]")


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    sys.stdout.write(table(build(args.study, {}, Request(runs=args.runs), args.results).cells) + "\n")


if __name__ == "__main__":
    main()
