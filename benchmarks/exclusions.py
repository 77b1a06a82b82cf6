"""Which tasks mSFT stops training on, when, and at what score: python benchmarks/exclusions.py MATRIX.yaml [--low SCORE]

Of the records of a matrix file (results/ and runs/) whose strategy logs `excluded`, as `msft` does. Markdown: a line an entry
and budget, with the tasks that a run excludes on average and how many of them at the start of their roll-out, where no look
had been better; then a line a task: in how many runs it is excluded, as which on average, how many epochs into the roll-out
its peak lies, its mean validation score at that peak, and in how many runs that score is below --low (0.05).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from harness.matrix import build
from harness.record import Event, read
from harness.request import Request


@dataclass(frozen=True)
class Exclusion:
    """One task of one run: `order` from 1, `epoch` of the roll-out, `value` its metric (a share, where that is accuracy)."""

    task: str
    order: int
    epoch: float
    value: float


def exclusions(events: Iterable[Event]) -> list[Exclusion]:
    """Those of one run, in their order."""
    found = [e.data for e in events if e.note == "excluded" and e.data]
    return [Exclusion(d["task"], k, d["epoch"], d["value"]) for k, d in enumerate(found, start=1)]


def lines(made: Mapping[str, list[list[Exclusion]]], low: float) -> Iterator[str]:
    """Both tables; `made` has a list a run of each entry."""
    yield "| entry | runs | excluded a run | at the start of a roll-out |\n| --- | ---: | ---: | ---: |"
    for entry, runs in made.items():
        started = fmean(sum(x.epoch == 0 for x in run) for run in runs)
        yield f"| {entry} | {len(runs)} | {fmean(map(len, runs)):.1f} | {started:.1f} |"
    yield f"\n| entry | task | runs | as which | epoch | score at its peak | below {low:g} |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for entry, runs in made.items():
        by_task: dict[str, list[Exclusion]] = defaultdict(list)
        for x in (x for run in runs for x in run):
            by_task[x.task].append(x)
        for task, some in sorted(by_task.items()):
            means = [fmean(x.order for x in some), fmean(x.epoch for x in some), fmean(x.value for x in some)]
            numbers = f"{means[0]:.1f} | {means[1]:.2f} | {means[2]:.2f} | {sum(x.value < low for x in some)}"
            yield f"| {entry} | {task} | {len(some)} of {len(runs)} | {numbers} |"


def main() -> None:
    """The tables of one matrix file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--low", type=float, default=0.05)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    made: dict[str, list[list[Exclusion]]] = defaultdict(list)  # by entry and budget, a list a run
    for cell in build(args.matrix, {}, Request(runs=args.runs), Path("results")).cells:
        if cell.record:
            record = read(cell.record)
            made[f"{cell.entry} {record.identity.budget.multiple:g}x"].append(exclusions(record.events))
    made = {entry: runs for entry, runs in made.items() if any(runs)}
    if not made:
        sys.exit(f"exclusions.py: no finished run of {args.matrix.name} has excluded a task")
    sys.stdout.writelines(line + "\n" for line in lines(made, args.low))


if __name__ == "__main__":
    main()
