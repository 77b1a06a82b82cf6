"""Write the pocket suite's rows: `python suites/pocket/make_data.py`.

Deterministic: the same families and seeds give the same bytes. Three files in data/, one row a line:
{"task": ..., "input": ..., "target": ...}. No input occurs twice, neither within a split nor across splits of a task.
Some small tasks carry label noise in train; validation and test are clean.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import families as f

SEED, VALIDATION, TEST = 414_243, 150, 300
Item = tuple[str, str, str]  # input, target, a plausible wrong target


def addition(rng: Random) -> Item:
    a, b = f.addition(rng, 10, 99)
    return f"{a} + {b}", str(a + b), str(a + b + 10)


def subtraction(rng: Random) -> Item:
    b, a = sorted(f.distinct(rng, 10, 99))
    return f"{a} minus {b}", str(a - b), str(a - b + 10)


def reverse(rng: Random) -> Item:
    items = f.words(rng, 4, 6)
    return "reverse " + " ".join(items), " ".join(items[::-1]), " ".join(items)


def descending(rng: Random) -> Item:
    s = f.digits(rng, 6, 9)
    return f"descending {s}", "".join(sorted(s, reverse=True)), "".join(sorted(s))


def lookup(rng: Random) -> Item:
    pairs, i = f.table(rng, 3, 5)
    value = pairs[i][1]
    wrong = [v for _, v in pairs if v != value] or [(value + 1) % 10]
    return f"{', '.join(f'{k}={v}' for k, v in pairs)} get {pairs[i][0]}", str(value), str(rng.choice(wrong))


def larger(rng: Random) -> Item:
    a, b = f.distinct(rng, 10, 99)
    return f"greater of {a} and {b}", str(max(a, b)), str((max(a, b) - 10 + rng.randint(1, 89)) % 90 + 10)


def last(rng: Random) -> Item:
    items = f.words(rng, 3, 6)
    return f"last {' '.join(items)}", items[-1], rng.choice(items[:-1])


@dataclass(frozen=True)
class Task:
    """One task: its generator, its training rows, and the share of them whose target is the wrong one."""

    name: str
    draw: Callable[[Random], Item]
    rows: int
    noise: float = 0.0


TASKS = [
    Task("addition", addition, 300),
    Task("subtraction", subtraction, 250),
    Task("reverse", reverse, 300),
    Task("descending", descending, 450),
    Task("last", last, 100, 0.35),
    Task("lookup", lookup, 120, 0.4),
    Task("larger", larger, 150, 0.35),
]
BEINGS, RAREST, COMMONEST = 100, 2, 11  # beings, and how many training rows the rarest and the commonest of them have
FORMS = [
    "which colour has the {}",
    "colour of the {}",
    "the {} has which colour",
    "favourite colour of the {}",
    "the {} likes which colour",
    "what colour is the {}",
    "the colour of the {}",
    "the {} is which colour",
    "what is the colour of the {}",
    "the {} likes what colour",
    "which is the colour of the {}",
    "the {} has what colour",
    "what colour has the {}",
    "the {} keeps which colour",
    "which colour is the {}",
    "what colour likes the {}",
]


def drawn(task: Task, seed: int) -> Iterator[tuple[str, int, Item]]:
    """Split, index within it, item: test first, then validation, then train, no input twice."""
    rng, seen = Random(f"{seed} {task.name}"), set[str]()
    for split, n in (("test", TEST), ("validation", VALIDATION), ("train", task.rows)):
        i = 0
        while i < n:
            item = task.draw(rng)
            if item[0] not in seen:
                seen.add(item[0])
                yield split, i, item
                i += 1


def colours(seed: int) -> Iterator[tuple[str, str, str]]:
    """(split, input, target): the colour of each being, asked in forms of its own in every split.

    The number of training rows of a being grows geometrically from RAREST to COMMONEST. So the facts arrive one by one:
    were they all as frequent, they would come within a few looks of each other, at a time that each seed sets anew.
    """
    rng = Random(f"{seed} colours")
    for i, being in enumerate(rng.sample([f"{a} {b}" for a in f.ADJECTIVES for b in f.ANIMALS], BEINGS)):
        colour, forms = rng.choice(f.COLOURS), iter(rng.sample(FORMS, len(FORMS)))
        for split, n in (
            ("test", share(TEST, i)),
            ("validation", share(VALIDATION, i)),
            ("train", round(RAREST * (COMMONEST / RAREST) ** (i / (BEINGS - 1)))),
        ):
            yield from ((split, form.format(being), colour) for form in islice(forms, n))


def share(total: int, i: int) -> int:
    """How many of `total` items the being at index `i` gets, so that all are used and no two differ by more than one."""
    return total * (i + 1) // BEINGS - total * i // BEINGS


def rows(seed: int = SEED) -> dict[str, list[dict[str, str]]]:
    """All rows by split."""
    splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for task in TASKS:
        mislabelled = set(Random(f"{seed} {task.name} noise").sample(range(task.rows), round(task.noise * task.rows)))
        for split, i, (text, target, wrong) in drawn(task, seed):
            label = wrong if split == "train" and i in mislabelled else target
            splits[split].append({"task": task.name, "input": text, "target": label})
    for split, text, target in colours(seed):
        splits[split].append({"task": "colours", "input": text, "target": target})
    return splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, items in rows().items():
        (args.out / f"{split}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


if __name__ == "__main__":
    main()
