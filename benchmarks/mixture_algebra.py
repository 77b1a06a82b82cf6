"""What does TaskPGM's algebra cost? `python benchmarks/mixture_algebra.py --tasks 300`.

Made-up looks of n single-task models at all tasks' items; then the affinity matrix from them and the weights for several
r, the released path, and the greedy variant. Printed are seconds and the peak of what each allocates. Memory of the
looks themselves is the last line of each affinity: it is there before the algebra begins.
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

from harness.api import Distribution, Example
from harness.registry import find

TASKPGM: Any = find("taskpgm").cls


def measured(name: str, use: Callable[[], Any]) -> Any:
    """One line; the result."""
    started = time.perf_counter()
    use()
    seconds = time.perf_counter() - started
    tracemalloc.start()  # slows down what it watches, so not in the same call
    found = use()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{name:34}{seconds:10.3f} s{peak / 1e6:10.1f} MB")
    return found


def looks(n: int, rounds: int, tokens: int, seed: int = 0) -> tuple[list[Example], list[list[Any]]]:
    """Items, a round holds one of each task, and (n, N) arrays of log-probabilities: own tasks are known best."""
    rng = np.random.default_rng(seed)
    names = [f"task{i:03}" for i in range(n)]
    items = [Example(f"v:{t}/{k}", t, "validation") for k in range(rounds) for t in names]
    place = rng.normal(size=(n, 4))
    apart = np.linalg.norm(place[:, None] - place[None], axis=2)
    S_N = rng.integers(1, 2 * tokens, len(items))
    return items, [
        [-(0.1 + apart[i, k % n] * rng.random(s)).astype(np.float32) for k, s in enumerate(S_N)] for i in range(n)
    ]


def distributions(views: list[list[Any]], top_k: int, vocabulary: int = 50_000) -> list[list[Distribution]]:
    """Lists of the `top_k` likeliest tokens around those log-probabilities; models share most of a list."""
    rng = np.random.default_rng(1)
    shared = [np.stack([rng.choice(vocabulary, 2 * top_k, replace=False) for _ in row]) for row in views[0]]

    def one(k: int, logp: Any) -> Distribution:
        first = np.exp(logp)[:, None]
        rest = (1 - first) * 0.5 ** np.arange(1, top_k)
        ids = np.concatenate([shared[k][:, :1], shared[k][:, rng.permutation(2 * top_k - 1)[: top_k - 1] + 1]], 1)
        p = np.concatenate([first, rest], 1)
        return Distribution(ids, np.log(p).astype(np.float32), np.maximum(1 - p.sum(1), 0.0).astype(np.float32))

    return [[one(k, logp) for k, logp in enumerate(row)] for row in views]


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3, help="validation items of each task")
    parser.add_argument("--tokens", type=int, default=5, help="response tokens of an item, mean")
    parser.add_argument("--jsd-tasks", type=int, default=100)
    parser.add_argument("--top-k", type=int, default=64)
    args = parser.parse_args()
    items, views = looks(args.tasks, args.rounds, args.tokens)
    S = measured(f"PMI, {args.tasks} tasks", lambda: TASKPGM().pmi(items, views))
    print(
        f"{'  looks at ' + str(len(items)) + ' items':46}{args.tasks * len(items) * (112 + 4 * args.tokens) / 1e6:10.1f} MB"
    )
    for r in (None, 0.0, 0.5, 1.0, 2.0, 20.0):
        measured(f"weights, r = {args.tasks / 2 if r is None else r:g}", lambda r=r: TASKPGM(r=r).weights(S))
    measured("weights, released path", lambda: TASKPGM(faithful=True).weights(S))
    measured("weights of 20 tasks, greedily", lambda: TASKPGM(m=20).weights(S))
    few, views = looks(args.jsd_tasks, 1, args.tokens)
    lists = distributions(views, args.top_k)
    silent: Any = SimpleNamespace(log=lambda name, value: None)
    measured(f"JSD, {args.jsd_tasks} tasks", lambda: TASKPGM(affinity="jsd").jsd(silent, few, lists))
    held = sum(d.ids.nbytes + d.logp.nbytes + d.tail.nbytes for row in lists for d in row)
    print(f"{'  looks at ' + str(len(few)) + ' items':46}{held / 1e6:10.1f} MB")


if __name__ == "__main__":
    main()
