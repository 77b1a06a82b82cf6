"""Does a comparison hang on one task? python benchmarks/leave_one_out.py MATRIX.yaml [TASK...] [--seeds SEEDS] [--to ENTRY]

Markdown, from a matrix file's records: the difference of each entry to `--to` in the mean over all tasks, and over all but one,
for each TASK (all, unless some are named) in turn, at a budget of 1x, on the seeds that both have; the interval is that of the
paired t-test over seeds, `*` where it leaves out zero. Then how many of all entries are above and below `--to` in that sense,
each tested alone. Entries farther than --near points from it, by all tasks, are counted but have no line. `--also RUNS.csv`:
entries of run_table.py's lines as well, named with their rate (`proportional lr=0.0004`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.by_task import Seeds, records
from benchmarks.by_task import lines as of_file
from harness.stats import Estimate, paired_difference

OTHER = re.compile(r" [0-9.]+x$")  # an entry at another budget than 1x
ALL = "score"  # the mean over all tasks, beside the tasks


def without(seeds: Seeds, task: str | None) -> dict[int, float]:
    """By seed, the mean over all tasks but one (None: over all)."""
    found = {}
    for seed, values in seeds.items():
        kept = [value for name, value in values.items() if name not in (ALL, task)]
        found[seed] = sum(kept) / len(kept)
    return found


def sign(found: Estimate) -> int:
    """1 and -1 where the interval leaves out zero."""
    if found.low is None or found.high is None:
        return 0
    return (found.low > 0) - (found.high < 0)


def cell(found: Estimate) -> str:
    """The difference, half its interval, and whether that leaves out zero."""
    half = "" if found.high is None else f" ± {found.high - found.value:.1f}"
    return f"{found.value:+.1f}{half}{' *' if sign(found) else ''}"


def lines(entries: Mapping[str, Seeds], to: str, near: float, tasks: Sequence[str] = ()) -> Iterator[str]:
    """The table of one suite; without `tasks`, each of its tasks."""
    first = next(iter(entries[to].values()))
    columns: Sequence[str | None] = (None, *(tasks or (name for name in first if name != ALL)))
    heads = ["all tasks", *(f"without {task}" for task in columns[1:])]
    yield f"| entry | seeds | {' | '.join(heads)} |"
    yield f"| --- | ---: |{' ---: |' * len(heads)}"
    above, below = [0] * len(heads), [0] * len(heads)
    others = {task: without(entries[to], task) for task in columns}
    for entry, seeds in entries.items():
        if entry == to:
            continue
        found = [paired_difference(without(seeds, task), others[task]) for task in columns]
        made = [one for one in found if one is not None]
        if len(made) < len(found):  # no seed in common
            continue
        for k, one in enumerate(made):
            above[k] += sign(one) > 0
            below[k] += sign(one) < 0
        if abs(made[0].value) <= near:
            yield f"| {entry} | {len(seeds.keys() & entries[to].keys())} | {' | '.join(map(cell, made))} |"
    yield f"| above {to} | | {' | '.join(map(str, above))} |"
    yield f"| below {to} | | {' | '.join(map(str, below))} |"


def main() -> None:
    """A table a suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrix", type=Path)
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    parser.add_argument("--seeds", help="in place of the file's: 0-15")
    parser.add_argument("--also", type=Path, metavar="RUNS.csv")
    parser.add_argument("--to", default="proportional")
    parser.add_argument("--near", type=float, default=10.0, help="points")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="of runs that are not submitted")
    args = parser.parse_args()
    more = of_file(args.also, rates=True) if args.also else {}
    for suite, found in records(args.matrix, args.folder, args.seeds).items():
        entries = {name: seeds for name, seeds in {**found, **more.get(suite, {})}.items() if not OTHER.search(name)}
        if args.to not in entries:
            parser.error(f"no entry {args.to!r} on {suite}; there are {', '.join(entries)}")
        if unknown := set(args.tasks) - set(next(iter(entries[args.to].values()))):
            parser.error(f"no task {', '.join(sorted(unknown))} in {suite}")
        sys.stdout.writelines(line + "\n" for line in lines(entries, args.to, args.near, args.tasks))


if __name__ == "__main__":
    main()
