"""Rows of a board against each other: differences with intervals, what they could have shown, ties and ranks.

A difference is mean ± q x standard error. The variance has a part of the seeds, pooled over strategies as far as they
agree (panel.py), and one of the items; q is Student's t, widened where the nested bootstrap (bootstrap.py) asks for it.
docs/statistics.md states the coverage that simulation finds (benchmarks/coverage.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.bootstrap import REPLICATES, widening
from harness.panel import Array, Components, Panel, components, macro
from harness.stats import CONFIDENCE, Estimate, detectable, holm, t_quantile, t_tail

ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True)
class Difference:
    """Of two rows' means over their shared seeds. With one seed there is a value and nothing else.

    `p`: two-sided, alone. `detectable`: the smallest true difference that would be found in four cases of five, alone and
    (`detectable_holm`) as the first step of Holm's procedure over all rows of the board.
    """

    estimate: Estimate
    error: float | None = None
    df: float | None = None
    p: float | None = None
    detectable: float | None = None
    detectable_holm: float | None = None


@dataclass(frozen=True)
class Comparison:
    """`differences` to the reference by row, and what all pairs together say.

    `ties`: number of the row's group, from 1; a group is a row that no better group holds, with the rows that are not
    told apart from it. `ranks`: the places that a row can have: behind those shown to be better, before those shown to be
    worse. Both rest on all pairs under Holm: with 95 % confidence no statement of order is wrong.
    """

    reference: str | None
    means: dict[str, float]
    differences: dict[str, Difference]
    ties: dict[str, int]
    ranks: dict[str, tuple[int, int]]
    better: frozenset[tuple[str, str]] = frozenset()


@dataclass
class _Blocks:
    """Variance components by set of shared seeds, each worked out once."""

    panel: Panel
    anchor: int | None
    replicates: int
    known: dict[tuple[int, ...], tuple[list[int], Components, float]] = field(default_factory=dict)

    def of(self, seeds: tuple[int, ...]) -> tuple[list[int], Components, float]:
        if seeds not in self.known:
            rows, correct = self.panel.block(seeds)
            found = components(correct, self.panel.task)
            k = rows.index(self.anchor) if self.anchor in rows else 0
            quantiles = t_quantile(found.freedom[k], ALPHA)
            widen = widening(correct, self.panel.task, self.panel.weight, found, k, quantiles, self.replicates)
            self.known[seeds] = rows, found, widen
        return self.known[seeds]

    def test(self, a: int, b: int, seeds: tuple[int, ...]) -> tuple[float, float, float, float]:
        """a - b over these seeds, its standard error, degrees of freedom, and the two-sided p."""
        rows, found, widen = self.of(seeds)
        i, j = rows.index(a), rows.index(b)
        value = float(found.means[i] - found.means[j])
        error, df = widen * float(np.sqrt(found.variance[i, j])), float(found.freedom[i, j])
        return value, error, df, float(t_tail(abs(value) / error, df)) if error else float(value == 0)

    def difference(self, a: int, b: int) -> Difference | None:
        """a - b over their shared seeds; None without any."""
        seeds = self.panel.shared(a, b)
        if len(seeds) < 2:
            pair = self.panel.correct[np.ix_([a, b], seeds)]
            one = macro(pair, self.panel.weight)
            return Difference(Estimate(float(one[0, 0] - one[1, 0]), None, None, 1)) if seeds else None
        value, error, df, p = self.test(a, b, seeds)
        half = float(t_quantile(df, ALPHA)) * error
        m = max(1, len(self.panel.names) - 1)
        return Difference(
            Estimate(value, value - half, value + half, len(seeds)),
            error,
            df,
            p,
            detectable(error, df, ALPHA),
            detectable(error, df, ALPHA / m),
        )


def compare(panel: Panel, reference: str | None, replicates: int = REPLICATES) -> Comparison:
    """All rows of a panel against the reference and against each other. `replicates`: of the bootstrap."""
    names = panel.names
    anchor = names.index(reference) if reference in names else None
    blocks = _Blocks(panel, anchor, replicates)
    differences = {}
    if anchor is not None:
        found = {name: blocks.difference(k, anchor) for k, name in enumerate(names) if k != anchor}
        differences = {name: d for name, d in found.items() if d is not None}
    runs = macro(panel.correct, panel.weight)
    means = {name: float(runs[k][panel.present[k]].mean()) for k, name in enumerate(names)}
    better = _better(blocks)
    return Comparison(reference, means, differences, ties(means, better), ranks(names, better), better)


def _better(blocks: _Blocks) -> frozenset[tuple[str, str]]:
    """Ordered pairs (better, worse) that stand under Holm over all pairs with two shared seeds."""
    names = blocks.panel.names
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for a, b in itertools.combinations(range(len(names)), 2):
        seeds = blocks.panel.shared(a, b)
        if len(seeds) > 1:
            value, _, _, p = blocks.test(a, b, seeds)
            found[a, b] = value, p
    adjusted = holm([p for _, p in found.values()])
    told = [(pair, value) for (pair, (value, _)), p in zip(found.items(), adjusted, strict=True) if p < ALPHA]
    return frozenset((names[a], names[b]) if value > 0 else (names[b], names[a]) for (a, b), value in told)


def ties(means: Mapping[str, float], better: frozenset[tuple[str, str]]) -> dict[str, int]:
    """Groups from the best mean down: the first row without a group opens one, and takes all that it is not better than."""
    left = sorted(means, key=lambda name: (-means[name], name))
    groups: dict[str, int] = {}
    number = 0
    while left:
        number += 1
        head = left[0]
        groups |= {name: number for name in left if (head, name) not in better}
        left = [name for name in left if name not in groups]
    return {name: groups[name] for name in means}


def ranks(names: Sequence[str], better: frozenset[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """(best, worst) place of each row."""
    above, below = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for winner, loser in better:
        above[loser] += 1
        below[winner] += 1
    return {name: (1 + above[name], len(names) - below[name]) for name in names}


def score(correct: Array, task: Array, weight: Array) -> Estimate:
    """A row's mean over seeds [R, N] and items, with an interval for both: the difference to a row of zeros."""
    n_seeds = correct.shape[0]
    value = float(macro(correct, weight).mean())
    if n_seeds < 2:
        return Estimate(value, None, None, n_seeds)
    found = components(np.stack([correct, np.zeros_like(correct)]), task)
    half = float(t_quantile(found.freedom[0, 1], ALPHA) * np.sqrt(found.variance[0, 1]))
    return Estimate(value, value - half, value + half, n_seeds)
