"""Whether a gap to the reference changes with the budget: python benchmarks/gaps.py MATRIX.yaml [--reference ENTRY]

Markdown, a row an entry that stands at several budgets beside the reference: its difference at each, and how much the
difference at each other budget exceeds that at 1x, all paired on the same seeds, with the 95 % interval of the paired t-test
over seeds. Items are the same for all and not drawn again, so these intervals are for seeds alone; the board's are for both.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness.matrix import build
from harness.record import read
from harness.request import Request
from harness.stats import Estimate, mean_interval, paired_difference

Scores = dict[str, dict[float, dict[int, float]]]  # by entry, budget and seed: macro mean, %
RATE = re.compile(r" lr=\S+$")


def gaps(scores: Scores, reference: str) -> Iterator[tuple[str, dict[float, Estimate], dict[float, Estimate]]]:
    """(entry, its difference at each budget, that less the one at 1x), for entries with two budgets of the reference's."""
    for entry, budgets in scores.items():
        apart = {b: _less(budgets[b], scores[reference][b]) for b in budgets if b in scores[reference]}
        if entry == reference or 1.0 not in apart or len(apart) < 2:
            continue
        at = {b: mean_interval(list(found.values())) for b, found in apart.items() if found}
        more = {b: paired_difference(found, apart[1.0]) for b, found in apart.items() if b != 1.0}
        yield entry, at, {b: found for b, found in more.items() if found}


def _less(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def said(found: Estimate | None) -> str:
    """A cell of the table, in points."""
    if found is None:
        return ""
    text = f"{found.value:+.1f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+.1f}, {found.high:+.1f}]"
    return text.replace("-", "−")


def lines(scores: Scores, reference: str) -> Iterator[str]:
    """The table."""
    budgets = sorted(scores[reference])
    others = [b for b in budgets if b != 1.0]
    yield "| strategy | " + " | ".join([f"{b:g}x" for b in budgets] + [f"{b:g}x less 1x" for b in others]) + " |"
    yield "| --- |" + " ---: |" * (len(budgets) + len(others))
    for entry, at, more in gaps(scores, reference):
        yield (
            f"| {entry} | "
            + " | ".join([said(at.get(b)) for b in budgets] + [said(more.get(b)) for b in others])
            + " |"
        )


def collect(cells: Iterable[tuple[str, float, int, float]]) -> Scores:
    """From (entry, budget, seed, score)."""
    found: Scores = defaultdict(lambda: defaultdict(dict))
    for entry, budget, seed, score in cells:
        found[entry][budget][seed] = score
    return found


def main() -> None:
    """One table of a matrix file's records in results/ and runs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--reference", default="proportional")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    cells = build(args.matrix, {}, Request(runs=args.runs), Path("results")).cells
    done = [(cell, read(cell.record)) for cell in cells if cell.record]
    scores = collect(
        (RATE.sub("", c.entry), r.identity.budget.multiple, r.identity.seed, 100 * r.macro) for c, r in done
    )
    if args.reference not in scores:
        sys.exit(f"gaps.py: {args.matrix.name} has no finished run of '{args.reference}'; it has {', '.join(scores)}")
    sys.stdout.writelines(line + "\n" for line in lines(scores, args.reference))


if __name__ == "__main__":
    main()
