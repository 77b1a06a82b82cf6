"""Scores of single tasks from lines of run_table.py: python benchmarks/by_task.py RUNS.csv TASK... [--to ENTRY]

Markdown, a row an entry of each suite: its mean over seeds and the difference to the entry `--to` on the same seeds, with the
95 % interval of the paired t-test over seeds. `score` is the macro mean over tasks. Items are the same for all and not drawn
again, so these intervals are for seeds alone; the board's are for both.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

from harness.stats import paired_difference

Seeds = dict[int, dict[str, float]]  # by seed: `score` and each task, %


def read(path: Path) -> dict[str, dict[str, Seeds]]:
    """By suite and entry, each in the order of the file."""
    found: dict[str, dict[str, Seeds]] = defaultdict(lambda: defaultdict(dict))
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            options = " ".join(f"{k}={v}" for k, v in json.loads(row["hyperparameters"]).items())
            budget = "" if row["budget"] == "1" else f" {row['budget']}x"
            tasks = {name: float(value) for name, value in (pair.split("=") for pair in row["tasks"].split())}
            values = {name: 100 * value for name, value in {"score": float(row["score"]), **tasks}.items()}
            found[row["suite"]][f"{row['strategy']} {options}".strip() + budget][int(row["seed"])] = values
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--to", default="proportional")
    args = parser.parse_args()
    out = sys.stdout.write
    heads = [head for task in args.tasks for head in (f"{task}, %", f"to {args.to}")]
    out(f"| suite | entry | seeds | {' | '.join(heads)} |\n| --- | --- | ---: |{' ---: |' * len(heads)}\n")
    for suite, entries in read(args.runs).items():
        for entry, seeds in entries.items():
            other = entries.get(args.to) if entry != args.to else None
            cells = [c for task in args.tasks for c in cell(seeds, other, task)]
            out(f"| {suite} | {entry} | {len(seeds)} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
