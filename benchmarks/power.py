"""What comparisons with these seeds can find: python benchmarks/power.py MATRIX.yaml [--seeds SEEDS] [--near POINTS]

Markdown, a line an entry of each workload and budget: the difference to the reference, whether it is told apart from it (alone;
with all comparisons to the reference together; with those of all pairs, which the board's groups are made of), and the smallest
true difference that its test would find in four cases of five - alone, and as the first step of Holm's procedure over all rows.
All as on the board, for seeds and items. Then the same of the pooled variance (the squared errors of rows that share their
number of seeds, by their degrees of freedom): of all of them, and of those within --near points of the reference, which are
the ones that more seeds could tell apart. A row that loses tasks in some seeds varies many times as much as they do.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.compare import ALPHA, Comparison, Difference
from harness.matrix import build
from harness.request import Request
from harness.stats import detectable, holm
from harness.study import Row, rows


def differences(made: Iterable[Row]) -> Iterator[tuple[Row, Difference]]:
    """The rows that are compared with their reference over two seeds or more."""
    for row in made:
        comparison = row.standings.comparison
        found = comparison.differences.get(row.entry) if comparison else None
        if found is not None and found.error is not None:
            yield row, found


def told(comparison: Comparison) -> dict[str, str]:
    """By entry: the widest set of tests, all held together at 5 %, in which it is told apart from the reference."""
    tested = {name: d.p for name, d in comparison.differences.items() if d.p is not None}
    found = {}
    for (name, p), adjusted in zip(tested.items(), holm(list(tested.values())), strict=True):
        pair = (name, str(comparison.reference))
        every = pair in comparison.better or pair[::-1] in comparison.better
        found[name] = "all pairs" if every else "all to it" if adjusted < ALPHA else "alone" if p < ALPHA else "no"
    return found


def pooled(found: Iterable[Difference]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of the pooled variance."""
    parts = [(d.error, d.df) for d in found if d.error is not None and d.df is not None and math.isfinite(d.df)]
    df = sum(df for _, df in parts)
    return math.sqrt(sum(df * error**2 for error, df in parts) / df), df


def cells(alone: float | None, under_holm: float | None) -> str:
    """Two columns, in points."""
    return " | ".join("" if x is None else f"{100 * x:.1f}" for x in (alone, under_holm))


def lines(made: list[Row], near: float) -> Iterator[str]:
    """The table; `near` in points."""
    yield "| workload | entry | budget | seeds | difference | told apart | detectable alone | under Holm |"
    yield "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |"
    found = list(differences(made))
    for row, d in found:
        comparison = row.standings.comparison
        value = f"{100 * d.estimate.value:+.1f} | {told(comparison)[row.entry] if comparison else ''}"
        head = f"| {row.suite} x {row.model} | {row.entry} | {row.budget:g}x | {d.estimate.n} | {value}"
        yield f"{head} | {cells(d.detectable, d.detectable_holm)} |"

    def sort(pair: tuple[Row, Difference]) -> tuple[str, str, float, int]:
        return pair[0].suite, pair[0].model, pair[0].budget, pair[1].estimate.n

    for (suite, model, budget, n), group in itertools.groupby(sorted(found, key=sort), sort):
        peers = list(group)
        comparison = peers[0][0].standings.comparison
        tests = max(1, len(comparison.means) - 1) if comparison else 1
        close = [d for _, d in peers if abs(d.estimate.value) < near / 100]
        for name, some in (("pooled", [d for _, d in peers]), (f"pooled within {near:g} points", close)):
            if some:
                error, df = pooled(some)
                both = cells(detectable(error, df, ALPHA), detectable(error, df, ALPHA / tests))
                yield f"| {suite} x {model} | *{name}: {len(some)}* | {budget:g}x | {n} |  |  | {both} |"


def main() -> None:
    """One table of a matrix file's records in results/ and runs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--seeds", help="in place of the file's: 0-15")
    parser.add_argument("--near", type=float, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    given = {"seeds": args.seeds} if args.seeds else {}
    made = rows(build(args.matrix, given, Request(runs=args.runs), Path("results")).cells)
    sys.stdout.writelines(line + "\n" for line in lines(made, args.near))


if __name__ == "__main__":
    main()
