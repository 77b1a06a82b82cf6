"""Scores of single tasks: python benchmarks/by_task.py RUNS.csv|MATRIX.yaml TASK... [--to ENTRY] [--means] [--also RUNS.csv]

Of lines of run_table.py, or of a matrix file's records in results/ and runs/. Markdown, a row an entry of each suite: its mean
over seeds and the difference to the entry `--to` on the same seeds, with the 95 % interval of the paired t-test over seeds;
`--means` leaves the differences out. `score` is the macro mean over tasks. Items are the same for all and not drawn again, so
these intervals are for seeds alone; the board's are for both.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from harness.matrix import build
from harness.record import read
from harness.request import Request
from harness.stats import paired_difference

RATE = re.compile(r" lr=\S+$")
Seeds = dict[int, dict[str, float]]  # by seed: `score` and each task, %


def records(path: Path, runs: Path, seeds: str | None = None) -> dict[str, dict[str, Seeds]]:
    """By suite and entry with its budget, of a matrix file's records; `seeds` instead of the file's."""
    found: dict[str, dict[str, Seeds]] = defaultdict(lambda: defaultdict(dict))
    asked = {"seeds": seeds} if seeds else {}
    for cell in build(path, asked, Request(runs=runs), Path("results")).cells:
        if cell.record:
            record = read(cell.record)
            budget = record.identity.budget.multiple
            values = {"score": 100 * record.macro, **{t: 100 * s.value for t, s in record.scores.items()}}
            named = RATE.sub("", cell.entry) + ("" if budget == 1 else f" {budget:g}x")
            found[record.identity.suite][named][record.identity.seed] = values
    return found


def lines(path: Path, rates: bool = False) -> dict[str, dict[str, Seeds]]:
    """By suite and entry, each in the order of the file; `rates`: names end with the learning rate."""
    found: dict[str, dict[str, Seeds]] = defaultdict(lambda: defaultdict(dict))
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            options = " ".join(f"{k}={v}" for k, v in json.loads(row["hyperparameters"]).items())
            budget = "" if row["budget"] == "1" else f" {row['budget']}x"
            tasks = {name: float(value) for name, value in (pair.split("=") for pair in row["tasks"].split())}
            values = {name: 100 * value for name, value in {"score": float(row["score"]), **tasks}.items()}
            rate = f" lr={row['lr']}" if rates else ""
            found[row["suite"]][f"{row['strategy']} {options}".strip() + rate + budget][int(row["seed"])] = values
    return found


def cell(mine: Seeds, other: Seeds | None, task: str) -> tuple[str, str]:
    """The mean and the difference, as text."""
    scores = {seed: values[task] for seed, values in mine.items() if task in values}
    if not scores:  # a suite without this task
        return "", ""
    mean = f"{sum(scores.values()) / len(scores):.1f}"
    found = paired_difference(scores, {seed: values[task] for seed, values in other.items()}) if other else None
    if found is None:
        return mean, ""
    ends = "" if found.low is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return mean, f"{found.value:+.1f}{ends}"


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--to", default="proportional")
    parser.add_argument("--means", action="store_true")
    parser.add_argument("--seeds", help="in place of a matrix file's: 0-15")
    parser.add_argument("--also", type=Path, metavar="RUNS.csv", help="these lines' entries too, named with their rate")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="of runs that are not submitted")
    args = parser.parse_args()
    matrix = args.runs.suffix in (".yaml", ".yml")
    if args.seeds and not matrix:
        parser.error("--seeds is for a matrix file")
    out = sys.stdout.write
    columns = slice(0, 1 if args.means else 2)
    heads = [head for task in args.tasks for head in (f"{task}, %", f"to {args.to}")[columns]]
    out(f"| suite | entry | seeds | {' | '.join(heads)} |\n| --- | --- | ---: |{' ---: |' * len(heads)}\n")
    more = lines(args.also, rates=True) if args.also else {}
    for suite, found in (records(args.runs, args.folder, args.seeds) if matrix else lines(args.runs)).items():
        entries = {**found, **more.get(suite, {})}
        for entry, seeds in entries.items():
            other = entries.get(args.to) if entry != args.to else None
            cells = [c for task in args.tasks for c in cell(seeds, other, task)[columns]]
            out(f"| {suite} | {entry} | {len(seeds)} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
