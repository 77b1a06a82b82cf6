"""Variants of the embedded suite for the studies: `python benchmarks/variants.py` writes them to benchmarks/variants/.

Each is a suite file with its own data, made from suites/pocket/data by the rules below and nothing else, so that two people
get the same bytes. Only what is named changes; the test split changes only where the task itself does.

half       each task keeps the first half of its training rows
coarse     four tasks for eight: sums, order, text and facts
fine       sixteen tasks for eight: each is split at its median training input, in the order of strings
poisoned   40 % of the training targets of `larger` are those of other prompts of the task
low_prior  the digits of `addition`'s answers are written as other digits, in all splits: what the base model expects is wrong
twin       `reverse` is there twice, under two names; the training targets of `larger` are shuffled, so they are noise
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from harness.paths import asset

Row = dict[str, str]
Rows = dict[str, list[Row]]  # by split
SPLITS = ("train", "validation", "test")
FOLDER = Path(__file__).parent / "variants"
COARSE = {
    "addition": "sums",
    "subtraction": "sums",
    "descending": "order",
    "larger": "order",
    "last": "text",
    "reverse": "text",
    "colours": "facts",
    "lookup": "facts",
}
OTHER_DIGITS = str.maketrans("0123456789", "5812760493")  # no digit stays
POISON = 0.4


def half(rows: Rows) -> Rows:
    """Each task's first half of the training rows."""
    train = []
    for task in COARSE:
        mine = [row for row in rows["train"] if row["task"] == task]
        train += mine[: len(mine) // 2]
    return rows | {"train": train}


def coarse(rows: Rows) -> Rows:
    """Four tasks."""
    return {split: [row | {"task": COARSE[row["task"]]} for row in rows[split]] for split in rows}


def fine(rows: Rows) -> Rows:
    """Sixteen tasks."""
    median = {
        task: statistics.median_low(row["input"] for row in rows["train"] if row["task"] == task) for task in COARSE
    }

    def split_in_two(row: Row) -> Row:
        part = "first" if row["input"] <= median[row["task"]] else "second"
        return row | {"task": f"{row['task']}_{part}"}

    return {split: [split_in_two(row) for row in rows[split]] for split in rows}


def poisoned(rows: Rows, task: str = "larger") -> Rows:
    """Some targets of one task are wrong."""
    return rows | {"train": exchanged(rows["train"], task, POISON)}


def low_prior(rows: Rows, task: str = "addition") -> Rows:
    """One task's answers in digits that mean others."""

    def other(row: Row) -> Row:
        return row | {"target": row["target"].translate(OTHER_DIGITS)} if row["task"] == task else row

    return {split: [other(row) for row in rows[split]] for split in rows}


def twin(rows: Rows) -> Rows:
    """One task under two names, another one noise."""
    doubled = {
        split: [*rows[split], *(row | {"task": "reverse_again"} for row in rows[split] if row["task"] == "reverse")]
        for split in rows
    }
    return doubled | {"train": exchanged(doubled["train"], "larger", 1.0)}


def exchanged(train: list[Row], task: str, share: float) -> list[Row]:
    """This share of the task's rows, drawn with a fixed seed, with the target of another row, always a different one."""
    rng = np.random.default_rng(5)
    mine = [i for i, row in enumerate(train) if row["task"] == task]
    targets = [train[i]["target"] for i in mine]
    found = list(train)
    for i in sorted(rng.permutation(mine)[: round(share * len(mine))].tolist()):
        others = [t for t in targets if t != train[i]["target"]]
        found[i] = train[i] | {"target": others[rng.integers(len(others))]}
    return found


VARIANTS: dict[str, Callable[[Rows], Rows]] = {
    "half": half,
    "coarse": coarse,
    "fine": fine,
    "poisoned": poisoned,
    "low_prior": low_prior,
    "twin": twin,
}


def pocket() -> Rows:
    """The rows of the suite itself."""
    data = asset("suites") / "pocket" / "data"
    return {s: [json.loads(line) for line in (data / f"{s}.jsonl").read_text().splitlines()] for s in SPLITS}


def write(name: str, folder: Path = FOLDER) -> Path:
    """The variant's suite file below `folder`, its data beside it."""
    rows, home = VARIANTS[name](pocket()), folder / name
    home.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (home / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[split]))
    spec = yaml.safe_load((asset("suites") / "pocket.yaml").read_text())
    title = next(line.split(maxsplit=1)[1] for line in str(__doc__).splitlines() if line.startswith(f"{name} "))
    spec |= {
        "name": f"pocket-{name.replace('_', '-')}",
        "title": f"Pocket, {name}: {title}",
        "data": {"files": name + "/{split}.jsonl", "licence": spec["data"]["licence"]},
        "tasks": {task: {"signal": "exact_match"} for task in sorted({row["task"] for row in rows["train"]})},
    }
    path = folder / f"pocket-{name.replace('_', '-')}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False, width=120))
    return path


if __name__ == "__main__":
    for variant in sys.argv[1:] or VARIANTS:
        print(write(variant))
