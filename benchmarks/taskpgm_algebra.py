"""What TaskPGM's energy makes of a task that is there twice and of one that is noise: `python benchmarks/taskpgm_algebra.py`.

Without arguments: planted affinities of nine tasks as in the `twin` variant of pocket, in Markdown; docs/studies/taskpgm.md
holds that text. With records (files or run folders; or the file of a matrix, whose records in results/ are read): the weights
that each entry has learned, and what each kind of measured affinity, mean over its runs, makes for other r. Columns are
weights, on the twin variant of one of the twins, of the noise, of one of the other tasks (means), elsewhere of each task; and
the L1 distance to uniform.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.matrix import build
from harness.record import Record, read
from harness.registry import find
from harness.request import Request

TASKPGM: Any = find("taskpgm").cls
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


def markdown(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, its first column to the left; fractions have three digits."""
    cells = [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in line] for line in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, *cells]).replace(
        "\n", "\n|---|" + "---:|" * (len(names) - 1) + "\n", 1
    )


def swept(S: Array, names: Sequence[str], columns: Callable[[Array], Sequence[float]]) -> str:
    """Markdown: a row an r, and the released path."""
    solved = {f"{r:g}": TASKPGM(r=r).weights(S)[0] for r in (0.0, 0.5, 1.0, 2.0, len(S) / 2, 20.0)}
    solved["released"] = TASKPGM(faithful=True).weights(S)[0]
    return markdown(["r", *names], [[r, *columns(p)] for r, p in solved.items()])


def table(S: Array, twins: Sequence[int], noise: int) -> str:
    """The same where two tasks are twins and one is noise."""
    return swept(S, ["a twin", "the noise", "another", "L1 to uniform"], lambda p: row(p, twins, noise))


def with_utility(S: Array) -> str:
    """The same with our utility term: all models gain alike, but the noise's gains nothing."""
    lines = ["| r | utility | a twin | the noise | another | L1 to uniform |", "|---|---|---:|---:|---:|---:|"]
    for r, utility in ((0.5, 0.0), (0.5, 0.05), (0.5, 0.1), (0.0, 0.1)):
        p = TASKPGM(r=r, utility=utility).weights(S, np.arange(N) < N - 1)[0]
        lines.append(f"| {r:g} | {utility:g} | " + " | ".join(f"{x:.3f}" for x in row(p, (0, 1), N - 1)) + " |")
    return "\n".join(lines)


def themselves(paths: Sequence[Path]) -> list[Record]:
    """The records of runs that have not taken a mixture over."""
    found: list[Record] = []
    for path in paths:
        if path.suffix == ".yaml":
            cells = build(path, {}, Request(), Path("results")).cells
            found += [read(c.record) for c in cells if c.record]
        else:
            found.append(read(path))
    return [r for r in found if r.reports.reused is None]


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
        if not (found := means(r)):
            return None
        p, l1 = found
        others = float(np.mean([p[t] for t in p.keys() - {*TWINS, NOISE}]))
        return cls(np.array([p[t] for t in TWINS]), p[NOISE], others, l1, 1 / len(p))


def entry(r: Record) -> str:
    """What a row is of."""
    given = [f"{k}={v}" for k, v in sorted(r.identity.passed.items())]
    return " ".join([r.identity.strategy, *given, f"lr={r.identity.lr:g}"])


def means(r: Record) -> tuple[dict[str, float], float] | None:
    """Weights by task and their L1 distance to uniform, of weights that move the means; None of a run without any."""
    if not (logs := logged(r, "weights")):
        return None
    p = {t: float(np.mean([x["weights"][t] for x in logs])) for t in sorted(logs[0]["weights"])}
    return p, float(np.mean([x["l1"] for x in logs]))


def by_task(found: Sequence[Record]) -> str:
    """Markdown of records of one suite: a row an entry and learning rate, the means of its runs' weights and distances."""
    groups: dict[str, list[list[float]]] = {}
    for r in found:
        if one := means(r):
            groups.setdefault(entry(r), []).append([*one[0].values(), one[1]])
    rows = [[name, len(runs), *map(float, np.mean(runs, axis=0))] for name, runs in sorted(groups.items())]
    return markdown(["entry", "runs", *sorted(found[0].scores), "L1 to uniform"], rows)


def learned(found: Sequence[Record]) -> str:
    """Markdown: a row an entry and learning rate, means over its runs, then in how many runs a prediction came true."""
    groups: dict[str, dict[int, Learned]] = {}
    for r in found:
        if one := Learned.of(r):
            groups.setdefault(entry(r), {})[r.identity.seed] = one
    pmi = next((runs for name, runs in groups.items() if name.startswith("taskpgm affinity=pmi lr=")), {})
    names = ["entry", "runs", "a twin", "the noise", "another", "L1 to uniform", "twins raised", "noise lowered"]
    names += ["all three lowered", "L1 above PMI's"]
    rows: list[list[object]] = []
    for name, runs in sorted(groups.items()):
        mean = np.mean([[x.twins.mean(), x.noise, x.another, x.l1] for x in runs.values()], axis=0)
        counts = [
            sum(bool((x.twins > x.level).all()) for x in runs.values()),
            sum(x.noise < x.level for x in runs.values()),
            sum(max(*x.twins, x.noise) < x.level for x in runs.values()),
            sum(x.l1 > pmi[seed].l1 for seed, x in runs.items() if seed in pmi),
        ]
        rows.append([name, len(runs), *map(float, mean), *counts])
    return markdown(names, rows)


def kinds(found: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by the affinity that they have measured: nats and divergences have no common mean."""
    groups: dict[str, list[Record]] = {}
    for r in found:
        if logged(r, "affinity"):
            h = r.identity.hyperparameters
            more = [k for k in ("faithful", "length_norm") if h.get(k)]
            groups.setdefault(" ".join([str(h.get("affinity", "pmi")).upper(), *more]), []).append(r)
    return groups


def measured(found: Sequence[Record]) -> tuple[Array, list[str]]:
    """The mean affinity of records of one kind, and its tasks."""
    logs = [log for r in found for log in logged(r, "affinity")]
    S: Array = np.mean([np.array(log["S"]) for log in logs], axis=0)
    return S, logs[0]["tasks"]


def solved(S: Array, names: Sequence[str]) -> str:
    """Markdown of what a measured affinity of these tasks makes for other r."""
    if {*TWINS, NOISE} <= {*names}:
        return table(S, [names.index(t) for t in TWINS], names.index(NOISE))
    return swept(S, [*names, "L1 to uniform"], lambda p: [*map(float, p), float(np.abs(p - 1 / len(p)).sum())])


def report(paths: Sequence[Path]) -> str:
    """Markdown of what these records hold, a part a suite: the names of its tasks tell them apart."""
    suites: dict[tuple[str, ...], list[Record]] = {}
    for r in themselves(paths):
        if logged(r, "weights"):
            suites.setdefault(tuple(sorted(r.scores)), []).append(r)
    parts: list[str] = []
    for tasks, found in sorted(suites.items()):
        weights = learned(found) if {*TWINS, NOISE} <= {*tasks} else by_task(found)
        parts.append(f"Learned weights on {found[0].identity.suite}:\n\n{weights}")
        for kind, group in sorted(kinds(found).items()):
            parts.append(f"Measured {kind}, {len(group)} runs:\n\n{solved(*measured(group))}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(report([Path(x) for x in sys.argv[1:]]))
    for kind in () if sys.argv[1:] else ("pmi", "jsd"):
        print(f"Planted {kind.upper()}:\n\n{table(planted(kind), (0, 1), N - 1)}\n")
    if not sys.argv[1:]:
        print(f"Planted PMI with our utility term:\n\n{with_utility(planted('pmi'))}")
