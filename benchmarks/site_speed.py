"""Time of `harness site` over made-up records with items: python benchmarks/site_speed.py [RECORDS [FOLDER]]

Prints seconds of the clock and of the processors, and the size of the largest pages. Bars: 2,000 records in 10 s, 20,000 in
60 s, on two cores with nothing else to do; a board's page under 300 kB compressed, with its script and style.

Items are as long as pocket's real ones (2,400 lines, 760 kB unpacked). Measured on two virtual cores of one machine, which
together do about 1.3 times what one does, with nothing else to do: 2,010 records in 6.5 to 8.5 s (10 to 14 s of processors),
20,000 records in 54 s (90), a third of it reading them, half the pages of runs. Both bars are met there; beside other work
20,000 took 66 to 77 s. The largest board has 53 kB compressed.
"""

from __future__ import annotations

import gzip
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `harness site` does, before numpy is there

from harness.publish import build
from tests.worlds import world


def make(results: Path, records: int) -> int:
    """At least so many records of 40 strategies, ten seeds and three budgets a suite in `results`, and their number."""
    strategies, seeds, budgets = 40, 10, (0.5, 1.0, 2.0)
    skills = {"proportional": 0.7} | {f"strategy_{k}": 0.6 + 0.005 * k for k in range(strategies - 1)}
    made, suite = 0, 0
    while made < records:
        few = dict(list(skills.items())[: max(1, min(strategies, (records - made) // (seeds * len(budgets))))])
        name = "pocket" if not suite else f"suite{suite}"
        made += len(world(results, seeds, few, budgets, suite=name, n=300))
        suite += 1
    return made


def main(records: int, results: Path) -> None:
    """One build of the site of `results`, which are made first where the folder is not there."""
    if not results.exists():
        print(f"{make(results, records)} records made in {results}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), _processors()
        index = build([results], Path(folder) / "dist")
        print(f"{time.perf_counter() - start:.1f} s, {_processors() - before:.1f} s of processors")
        shared = sum(len(gzip.compress((index.parent / f).read_bytes())) for f in ("style.css", "site.js"))
        for pages in ("boards", "compare", "runs", "strategies"):
            sizes = [len(gzip.compress(p.read_bytes())) for p in list((index.parent / pages).glob("*.html"))[:50]]
            print(f"{pages}: up to {(max(sizes) + shared) / 1e3:.0f} kB compressed")


def _processors() -> float:
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    if len(sys.argv) > 2:
        main(asked, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as there:
            main(asked, Path(there) / "results")
