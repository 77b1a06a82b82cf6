"""Divide BBH's only split into ours: `python suites/bbh/make_ids.py --mirror DIR`.

Reads DIR/datasets/SaylorTwift/bbh (without --mirror: the hub) and writes ids.json beside this file: for each task the row
numbers of train, validation and test, in a drawn order, so that the first n of a split are a random sample of it.
Deterministic: the same rows give the same bytes. Prints the digests that suites/bbh.yaml pins.

Rows that are nearly the same stay in one split, whatever their targets: many items are one story, table or sequence of
swaps with several questions about it. Two rows are kin when at least 70 % of the 13-grams of the shorter one are in the
other, not counting those that a tenth of the task's rows have (its template); rows too short for that, when their texts
are equal. Dropped: rows of multiple-choice tasks whose target is no option letter, since no answer to them passes the
stock flexible filter.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from random import Random

from harness.data import content_digest, hub_rows
from harness.overlap import grams
from harness.suite import load_suite

SEED = 2210_09261
SHARES = {"test": 0.3, "validation": 0.2}  # the rest is train
SHARED, TEMPLATE, ENOUGH = 0.7, 0.1, 10
LETTER = re.compile(r"\([A-Z]\)")
Rows = list[tuple[str, str]]


def usable(rows: Rows) -> list[int]:
    """Row numbers, without those of a multiple-choice task whose target is no option letter."""
    letters = [bool(LETTER.fullmatch(target)) for _, target in rows]
    choice = sum(letters) > len(rows) / 2
    return [i for i, letter in enumerate(letters) if letter or not choice]


def kin(texts: list[str]) -> list[list[int]]:
    """Groups of positions whose texts are nearly the same, in order of their first members."""
    found = [grams(text) for text in texts]
    counts = Counter(gram for each in found for gram in each)
    own = [{gram for gram in each if counts[gram] < TEMPLATE * len(texts)} for each in found]
    plain = [" ".join(text.lower().split()) for text in texts]
    group = list(range(len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        size = min(len(own[i]), len(own[j]))
        if plain[i] == plain[j] or (size >= ENOUGH and len(own[i] & own[j]) >= SHARED * size):
            group = [group[i] if g == group[j] else g for g in group]
    members: dict[int, list[int]] = {}
    for i, g in enumerate(group):
        members.setdefault(g, []).append(i)
    return list(members.values())


def divide(task: str, rows: Rows) -> dict[str, list[int]]:
    """Row numbers by split. In a drawn order, each group goes whole to the first split that has room for it."""
    numbers = usable(rows)
    groups = [[numbers[k] for k in group] for group in kin([rows[i][0] for i in numbers])]
    rng = Random(f"{SEED} {task}")
    room = {split: round(share * len(numbers)) for split, share in SHARES.items()}
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for group in rng.sample(groups, len(groups)):
        fits = [split for split, n in room.items() if n - len(splits[split]) >= len(group)]
        splits[fits[0] if fits else "train"] += group
    return {split: rng.sample(sorted(chosen), len(chosen)) for split, chosen in splits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mirror", type=Path, help="folder with datasets/SaylorTwift/bbh; without it, the hub")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("ids.json"))
    args = parser.parse_args()
    rows = hub_rows(load_suite("bbh"), args.mirror)
    ids = {task: divide(task, table) for task, table in rows.items()}
    lines = [f"{json.dumps(task)}: {json.dumps(splits)}" for task, splits in ids.items()]
    args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    for split in ("train", "validation", "test"):
        chosen = {task: [rows[task][i] for i in ids[task][split]] for task in ids}
        print(f"{split}: {content_digest(chosen)}  # {sum(map(len, chosen.values()))} rows")


if __name__ == "__main__":
    main()
