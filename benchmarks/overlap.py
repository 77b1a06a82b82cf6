"""What the overlap report costs: 400,000 training rows against 10,000 test items, rows made on the spot.

    python benchmarks/overlap.py [--rows 400000] [--items 10000]

Prints the CPU seconds, their ratio to comparing sets of a sample of the rows (the plain way, which keeps every 13-gram of
the training rows in memory), and the peak memory of the process. A tenth of the items share a text with a training row.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from harness.data import Row
from harness.overlap import COMMON, grams, overlap

TEMPLATE = "Answer the question below:"


def rows(n: int, seed: int) -> Iterator[tuple[str, str]]:
    """Texts of 20 to 180 words out of 30,000, as instruction data has; every third begins with a template."""
    rng = Random(seed)
    words = [f"{a}{b}" for a in "bcdfglmnprstvz" for b in range(2200)]
    for i in range(n):
        text = " ".join(rng.choices(words, k=rng.randint(20, 180)))
        yield (f"{TEMPLATE} {text}" if i % 3 == 0 else text), str(i)


def plain(pairs: list[tuple[str, str]], test: dict[str, list[Row]]) -> int:
    """Items with a rare 13-gram, by sets."""
    counts = Counter(g for source, _ in pairs for g in grams(source))
    rare = {g for g, n in counts.items() if n < max(2, COMMON * len(pairs))}
    return sum(not rare.isdisjoint(grams(r.input)) for group in test.values() for r in group)


def peak_memory() -> int:
    """kiB of this program: ru_maxrss also holds those of the process that started it, up to the start."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--items", type=int, default=10_000)
    args = parser.parse_args()
    leaked = [pair for pair, _ in zip(rows(args.rows, 1), range(args.items // 10), strict=False)]
    own = list(rows(args.items - len(leaked), 2))
    test = {"all": [Row(str(i), "all", a, b, "", "") for i, (a, b) in enumerate(leaked + own)]}
    began = time.process_time()
    for _ in rows(args.rows, 1):
        pass
    making = time.process_time() - began
    began = time.process_time()
    found = overlap(rows(args.rows, 1), test)["all"]
    seconds = time.process_time() - began - making
    peak = peak_memory() / 2**20
    sample = list(rows(args.rows // 100, 1))
    began = time.process_time()
    plain(sample, test)
    ratio = 100 * (time.process_time() - began) / seconds
    print(f"{args.rows:,} rows, {args.items:,} items: {found}")
    print(f"{seconds:.1f} s of one CPU, {ratio:.1f} times faster than the plain way; peak memory {peak:.2f} GiB")
    assert found["exact"] == found["rare_13_gram"] == len(leaked)


if __name__ == "__main__":
    main()
