"""What TaskPGM's energy makes of a task that is there twice and of one that is noise: `python benchmarks/taskpgm_algebra.py`.

Without arguments: planted affinities of nine tasks as in the `twin` variant of pocket, in Markdown; docs/studies/taskpgm.md
holds that text. With records of `taskpgm` runs: their measured affinities, means over the runs. Columns are weights: of
one of the twins, of the noise, of one of the other tasks (means), and the L1 distance to uniform.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.record import read
from harness.registry import find

TASKPGM: Any = find("taskpgm").cls
R = (0.0, 0.5, 1.0, 2.0, 4.5, 20.0)
TWINS, NOISE, N = ("reverse", "reverse_again"), "larger", 9
Array = np.ndarray[Any, Any]


def planted(kind: str) -> Array:
    """(9, 9), the twins first and the noise last: equal gaps between tasks, none between twins, larger ones to the noise.

    PMI: minus nats an item, 5 between tasks, 7 to the noise. JSD: 1 - divergence / ln 2, 0.5 between tasks, 0.3 to the noise.
    """
    own, gap, far = {"pmi": (0.0, -5.0, -7.0), "jsd": (1.0, 0.5, 0.3)}[kind]
    S = np.full((N, N), gap)
    S[:, -1] = S[-1] = far
    S[0, 1] = S[1, 0] = own
    np.fill_diagonal(S, own)
    return S


def row(p: Array, twins: Sequence[int], noise: int) -> tuple[float, float, float, float]:
    """Weights of a twin, of the noise and of another task, and the distance to uniform."""
    others = [i for i in range(len(p)) if i not in (*twins, noise)]
    return float(p[list(twins)].mean()), float(p[noise]), float(p[others].mean()), float(np.abs(p - 1 / len(p)).sum())


def table(S: Array, twins: Sequence[int], noise: int) -> str:
    """Markdown: a row an r, and the released path."""
    lines = ["| r | a twin | the noise | another | L1 to uniform |", "|---|---:|---:|---:|---:|"]
    solved = {f"{r:g}": TASKPGM(r=r).weights(S)[0] for r in R} | {"released": TASKPGM(faithful=True).weights(S)[0]}
    for name, p in solved.items():
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in row(p, twins, noise)) + " |")
    return "\n".join(lines)


def with_utility(S: Array) -> str:
    """The same with our utility term: all models gain alike, but the noise's gains nothing."""
    lines = ["| r | utility | a twin | the noise | another | L1 to uniform |", "|---|---|---:|---:|---:|---:|"]
    for r, utility in ((0.5, 0.0), (0.5, 0.05), (0.5, 0.1), (0.0, 0.1)):
        p = TASKPGM(r=r, utility=utility).weights(S, np.arange(N) < N - 1)[0]
        lines.append(f"| {r:g} | {utility:g} | " + " | ".join(f"{x:.3f}" for x in row(p, (0, 1), N - 1)) + " |")
    return "\n".join(lines)


def measured(paths: Sequence[Path]) -> tuple[Array, list[int], int]:
    """The mean affinity of records, and where the twins and the noise are in it."""
    logs = [e.data for path in paths for e in read(path).events if e.verb == "log" and e.note == "affinity"]
    names = logs[0]["tasks"]
    S: Array = np.mean([np.array(log["S"]) for log in logs], axis=0)
    return S, [names.index(t) for t in TWINS], names.index(NOISE)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(table(*measured([Path(x) for x in sys.argv[1:]])))
    for kind in () if sys.argv[1:] else ("pmi", "jsd"):
        print(f"Planted {kind.upper()}:\n\n{table(planted(kind), (0, 1), N - 1)}\n")
    if not sys.argv[1:]:
        print(f"Planted PMI with our utility term:\n\n{with_utility(planted('pmi'))}")
