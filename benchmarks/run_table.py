"""Runs as lines of CSV, for suites that are no part of the board: python benchmarks/run_table.py SUITE... > runs.csv

A line a run of these suites below runs/ (--runs), in the order of suite, strategy and seed: its id and hyperparameters, what
it billed, the score of each task, and the mixture that it has learned if it has (the mean of one that moves). Records of a
study's own variants cannot be submitted; this is how they are kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from harness.record import Record, read

COLUMNS = ["suite", "strategy", "hyperparameters", "lr", "budget", "seed", "id", "status", "billed_flops", "score"]


def line(r: Record) -> list[str]:
    """One run; scores are fractions, tasks by name."""
    i = r.identity
    passed = {k: i.hyperparameters[k] for k in sorted(i.passed)}
    head = [i.suite, i.strategy, json.dumps(passed), f"{i.lr:g}", f"{i.budget.multiple:g}", str(i.seed), r.id, r.status]
    tasks = " ".join(f"{task}={s.value:.4f}" for task, s in sorted(r.scores.items()))
    return [*head, str(r.total_model_flops), f"{r.macro:.4f}", tasks, mixture(r)]


def mixture(r: Record) -> str:
    """Weights by task, empty of a run that has not learned any."""
    logs = [e.data["weights"] for e in r.events if (e.verb, e.note) == ("log", "weights")]
    return " ".join(
        f"{task}={sum(p[task] for p in logs) / len(logs):.4f}" for task in (sorted(logs[0]) if logs else ())
    )


def main() -> None:
    """All runs of the suites asked for that did not fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    records = [read(path) for path in args.runs.glob("*/record.json")]
    found = [line(r) for r in records if r.identity.suite in args.suites and r.status != "failed"]
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([*COLUMNS, "tasks", "weights"])
    out.writerows(sorted(found, key=lambda words: (*words[:5], int(words[5]))))


if __name__ == "__main__":
    main()
