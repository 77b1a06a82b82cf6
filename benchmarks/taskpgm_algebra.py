"""What TaskPGM's energy makes of a task that is there twice and of one that is noise: `python benchmarks/taskpgm_algebra.py`.

Without arguments: planted affinities of nine tasks as in the `twin` variant of pocket, in Markdown; docs/studies/taskpgm.md
holds that text. With records (files or run folders): the weights that each entry on the twin variant has
learned, and what each kind of measured affinity, mean over its runs, makes for other r. Columns are weights: of one of the
twins, of the noise, of one of the other tasks (means), and the L1 distance to uniform.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.record import Record, read
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


def of_twins(paths: Sequence[Path]) -> list[Record]:
    """The records on the twin variant, of runs that have learned a mixture themselves; others are passed over."""
    found = [read(path) for path in paths]
    return [r for r in found if {*TWINS, NOISE} <= r.scores.keys() and r.reports.reused is None]


def logged(r: Record, note: str) -> list[Any]:
    """What a run has logged under this name."""
    return [e.data for e in r.events if e.verb == "log" and e.note == note]


@dataclass(frozen=True)
class Learned:
    """Of one run: the weights of twins, noise and others, and the L1 distance to uniform; of weights that move, the means."""

    twins: Array
    noise: float
    another: float
    l1: float
    level: float  # uniform's

    @classmethod
    def of(cls, r: Record) -> Learned | None:
        """None of a run that has learned nothing."""
        if not (logs := logged(r, "weights")):
            return None
        p = {t: float(np.mean([x["weights"][t] for x in logs])) for t in logs[0]["weights"]}
        others = float(np.mean([p[t] for t in p.keys() - {*TWINS, NOISE}]))
        l1 = float(np.mean([x["l1"] for x in logs]))
        return cls(np.array([p[t] for t in TWINS]), p[NOISE], others, l1, 1 / len(p))


def learned(found: Sequence[Record]) -> str:
    """Markdown: a row an entry and learning rate, means over its runs, then in how many runs a prediction came true."""
    groups: dict[str, dict[int, Learned]] = {}
    for r in found:
        given = [f"{k}={v}" for k, v in sorted(r.identity.passed.items())]
        if one := Learned.of(r):
            groups.setdefault(" ".join([r.identity.strategy, *given, f"lr={r.identity.lr:g}"]), {})[r.identity.seed] = (
                one
            )
    pmi = next((runs for name, runs in groups.items() if name.startswith("taskpgm affinity=pmi lr=")), {})
    names = ["entry", "runs", "a twin", "the noise", "another", "L1 to uniform", "twins raised", "noise lowered"]
    names += ["all three lowered", "L1 above PMI's"]
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    for name, runs in sorted(groups.items()):
        means = np.mean([[x.twins.mean(), x.noise, x.another, x.l1] for x in runs.values()], axis=0)
        counts = [
            sum(bool((x.twins > x.level).all()) for x in runs.values()),
            sum(x.noise < x.level for x in runs.values()),
            sum(max(*x.twins, x.noise) < x.level for x in runs.values()),
            sum(x.l1 > pmi[seed].l1 for seed, x in runs.items() if seed in pmi),
        ]
        cells = [name, len(runs), *(f"{x:.3f}" for x in means), *counts]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def kinds(found: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by the affinity that they have measured: nats and divergences have no common mean."""
    groups: dict[str, list[Record]] = {}
    for r in found:
        if logged(r, "affinity"):
            h = r.identity.hyperparameters
            more = [k for k in ("faithful", "length_norm") if h.get(k)]
            groups.setdefault(" ".join([str(h.get("affinity", "pmi")).upper(), *more]), []).append(r)
    return groups


def measured(found: Sequence[Record]) -> tuple[Array, list[int], int]:
    """The mean affinity of records of one kind, and where the twins and the noise are in it."""
    logs = [log for r in found for log in logged(r, "affinity")]
    names = logs[0]["tasks"]
    S: Array = np.mean([np.array(log["S"]) for log in logs], axis=0)
    return S, [names.index(t) for t in TWINS], names.index(NOISE)


def report(paths: Sequence[Path]) -> str:
    """Markdown of what these records hold."""
    found = of_twins(paths)
    parts = [f"Learned weights:\n\n{learned(found)}"]
    parts += [
        f"Measured {kind}, {len(group)} runs:\n\n{table(*measured(group))}"
        for kind, group in sorted(kinds(found).items())
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(report([Path(x) for x in sys.argv[1:]]))
    for kind in () if sys.argv[1:] else ("pmi", "jsd"):
        print(f"Planted {kind.upper()}:\n\n{table(planted(kind), (0, 1), N - 1)}\n")
    if not sys.argv[1:]:
        print(f"Planted PMI with our utility term:\n\n{with_utility(planted('pmi'))}")
