"""Divide BBH's only split into ours: `python suites/bbh/make_ids.py --mirror DIR`.

Reads DIR/datasets/SaylorTwift/bbh (without --mirror: the hub) and writes ids.json beside this file: for each task the row
numbers of train, validation and test, in a drawn order, so that the first n of a split are a random sample of it.
Deterministic: the same rows give the same bytes. Prints the digests that suites/bbh.yaml pins.

Rows that ask the same (equal `input` but for case and spacing) stay in one split, whatever their targets. Dropped: rows
of multiple-choice tasks whose target is no option letter, since no answer to them passes the stock flexible filter.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from random import Random

import datasets

from harness.data import content_digest
from harness.suite import load_suite

SEED = 2_210_09261
SHARES = {"test": 0.3, "validation": 0.2}  # the rest is train
LETTER = re.compile(r"\([A-Z]\)")
Rows = list[tuple[str, str]]


def usable(rows: Rows) -> list[int]:
    """Row numbers, without those of a multiple-choice task whose target is no option letter."""
    letters = [bool(LETTER.fullmatch(target)) for _, target in rows]
    choice = sum(letters) > len(rows) / 2
    return [i for i, letter in enumerate(letters) if letter or not choice]


def divide(task: str, rows: Rows) -> dict[str, list[int]]:
    """Row numbers by split. Groups of equal questions go whole to the first split that has room for them."""
    groups: dict[str, list[int]] = {}
    numbers = usable(rows)
    for i in numbers:
        groups.setdefault(" ".join(rows[i][0].lower().split()), []).append(i)
    rng = Random(f"{SEED} {task}")
    drawn = rng.sample(sorted(groups.values()), len(groups))
    room = {split: round(share * len(numbers)) for split, share in SHARES.items()}
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for group in sorted(drawn, key=len, reverse=True):  # stable: the drawn order, the few large groups first
        fits = [split for split, n in room.items() if n - len(splits[split]) >= len(group)]
        splits[fits[0] if fits else "train"] += group
    return {split: rng.sample(sorted(chosen), len(chosen)) for split, chosen in splits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mirror", type=Path, help="folder with datasets/SaylorTwift/bbh; without it, the hub")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("ids.json"))
    args = parser.parse_args()
    suite = load_suite("bbh")
    source = str(args.mirror / "datasets" / str(suite.data.hub)) if args.mirror else str(suite.data.hub)
    rows: dict[str, Rows] = {}
    ids: dict[str, dict[str, list[int]]] = {}
    for task in sorted(suite.tasks):
        table = datasets.load_dataset(source, task, split=suite.data.split)
        rows[task] = [(row["input"], row["target"]) for row in table]
        ids[task] = divide(task, rows[task])
    lines = [f"{json.dumps(task)}: {json.dumps(splits)}" for task, splits in ids.items()]
    args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    for split in ("train", "validation", "test"):
        chosen = {task: [rows[task][i] for i in ids[task][split]] for task in ids}
        print(f"{split}: {content_digest(chosen)}  # {sum(map(len, chosen.values()))} rows")


if __name__ == "__main__":
    main()
