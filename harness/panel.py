"""Correctness of items by strategy and seed, and how much of a mean's variance seeds, items and their noise make.

Shapes: S strategies, R seeds, N items of T tasks. The estimand is the mean over both populations, seeds and items, of the
macro mean over tasks; strategies meet the same seeds and the same items, so that differences are paired in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, fdtri, gammainc, polygamma

Array = NDArray[Any]
POOL = 5  # strategies: of fewer, each pair has its own variance, since nobody could tell a noisy one from the others
ENOUGH = 10  # seeds: from here on a pair's own variance costs 3 % of an interval's length, and is right for noisy rows
APART, APART_FEW = 0.1, 0.2  # level of the F test by which a noisy strategy keeps its own variance; below five seeds


@dataclass(frozen=True)
class Panel:
    """`correct` [S, R, N] holds scores of items in [0, 1]; `present` [S, R] says which runs exist; `task` [N] numbers tasks."""

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    task: Array
    correct: Array
    present: Array

    @classmethod
    def of(cls, rows: Mapping[str, Mapping[int, Sequence[Array]]]) -> Self:
        """From strategy -> seed -> one array of item scores a task. Raises ValueError where runs differ in their items."""
        names = tuple(rows)
        seeds = tuple(sorted({seed for runs in rows.values() for seed in runs}))
        runs = [run for found in rows.values() for run in found.values()]
        if not runs or not all(len(items) for run in runs for items in run):
            raise ValueError("expected at least one run, and items of every task")
        sizes = [len(items) for items in runs[0]]
        if any([len(items) for items in run] != sizes for run in runs):
            raise ValueError("runs differ in their number of tasks or items")
        correct = np.zeros((len(names), len(seeds), sum(sizes)), np.float32)
        present = np.zeros((len(names), len(seeds)), bool)
        for s, name in enumerate(names):
            for seed, run in rows[name].items():
                correct[s, seeds.index(seed)] = np.concatenate([np.asarray(x, np.float32) for x in run])
                present[s, seeds.index(seed)] = True
        if not np.isfinite(correct).all():
            raise ValueError("expected finite scores of items")
        return cls(names, seeds, np.repeat(np.arange(len(sizes)), sizes), correct, present)

    @property
    def weight(self) -> Array:
        """[N] of an item in the macro mean: 1 / (T x items of its task)."""
        sizes = np.bincount(self.task)
        return 1 / (len(sizes) * sizes[self.task])

    def shared(self, a: int, b: int) -> tuple[int, ...]:
        """Positions of the seeds that two strategies have in common."""
        return tuple(np.flatnonzero(self.present[a] & self.present[b]).tolist())

    def block(self, seeds: Sequence[int]) -> tuple[list[int], Array]:
        """The strategies that have all of these seeds (positions), and their scores [S', R', N]."""
        rows = np.flatnonzero(self.present[:, list(seeds)].all(1)).tolist()
        return rows, self.correct[np.ix_(rows, list(seeds))]


@dataclass(frozen=True)
class Components:
    """Of S strategies that share R >= 2 seeds: variances of the difference of two means, all [S, S] but `macro` [S, R].

    `seed` with `df` degrees of freedom, which holds the noise of single answers too; `item`: of items alone, without
    that noise; `noise`: the noise alone. A difference has variance seed + item.
    """

    macro: Array
    seed: Array
    df: Array
    item: Array
    noise: Array
    prior: Prior

    @cached_property
    def means(self) -> Array:
        """[S] over seeds."""
        return np.asarray(self.macro.mean(1))

    @cached_property
    def variance(self) -> Array:
        return self.seed + self.item

    @cached_property
    def freedom(self) -> Array:
        """Degrees of freedom of `variance` (Satterthwaite): items are many, so theirs are not counted."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.seed > 0, self.df * (self.variance / self.seed) ** 2, np.inf)


@dataclass(frozen=True)
class Prior:
    """Where the seeds' variances of strategies are drawn to: `ratio` x the mean of those pooled, with the weight of `df` seeds.

    df [S] is infinite where variances differ no more than chance makes them, and 0 for a strategy that stands alone.
    """

    ratio: float
    df: Array


def macro(correct: Array, weight: Array) -> Array:
    """[..., N] -> [...]: mean over tasks of the mean over items."""
    return np.asarray(correct.astype(np.float64) @ weight)


def components(correct: Array, task: Array) -> Components:
    """Variance components of S strategies [S, R, N] by the method of moments (two-way random effects within tasks)."""
    n_strategies, n_seeds, _ = correct.shape
    if n_seeds < 2:
        raise ValueError("expected at least two shared seeds")
    tasks = int(task.max()) + 1
    means = np.zeros((n_strategies, n_seeds))
    items = noise = np.zeros((n_strategies, n_strategies))
    floor = 0.0
    sizes = np.bincount(task)
    ends = np.cumsum(sizes)
    sorted_by_task = correct if (np.diff(task) >= 0).all() else correct[:, :, np.argsort(task, kind="stable")]
    for n, end in zip(sizes.tolist(), ends.tolist(), strict=True):
        y = sorted_by_task[:, :, end - n : end].astype(np.float64)
        by_item, by_seed = y.mean(1), y.mean(2)
        means += by_seed / tasks
        centre = by_item.mean(1, keepdims=True)
        g = by_item - centre
        # Products of y less the means of item and seed, by expansion: the residuals themselves are as large as the data.
        flat = y.reshape(n_strategies, -1)
        products = flat @ flat.T - n_seeds * (by_item @ by_item.T) - n * (by_seed @ by_seed.T)
        products += n_seeds * n * (centre @ centre.T)
        share = 1 / (tasks**2 * n * max(1, n - 1))
        items = items + share * (g @ g.T)
        noise = noise + share / (n_seeds * (n_seeds - 1)) * products
        floor += 1 / (tasks**2 * n)
    noise = _pairs(noise)
    # Where no two answers differ, N items still cannot show a difference below one of them.
    item = np.maximum(_pairs(items) - noise, 0)
    prior, seed, df = _seed(means)
    item = np.where(seed + item < floor**2, floor**2 - seed, item)
    return Components(means, seed, df, item, noise, prior)


def _pairs(covariance: Array) -> Array:
    """Variances of differences [S, S] from a covariance [S, S]."""
    own = np.diag(covariance)
    return np.asarray(np.maximum(own[:, None] + own[None] - 2 * covariance, 0))


def alone(strategies: int, seeds: int) -> bool:
    """Whether every difference has its own variance, not one pooled over strategies."""
    return strategies < POOL or seeds >= ENOUGH


def _seed(means: Array) -> tuple[Prior, Array, Array]:
    """The prior, the variances [S, S] of differences of means over seeds, and their degrees of freedom."""
    n_strategies, f = means.shape[0], means.shape[1] - 1
    if alone(*means.shape):
        return Prior(1, np.zeros(n_strategies)), paired(means), np.full((n_strategies, n_strategies), float(f))
    own = spread(means)
    prior = moderate(own, f)
    variance = shrink(own, f, prior) / means.shape[1]
    # A pooled variance knows no more than all residuals together.
    df = np.minimum(f + prior.df, f * max(1, int((prior.df > 0).sum()) - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        known = variance**2 / df
        both = variance[:, None] + variance[None]
        return prior, both, np.asarray(np.where(both > 0, both**2 / (known[:, None] + known[None]), np.inf))


def paired(means: Array) -> Array:
    """Variances [S, S] of differences of means over seeds, each from its own R differences: [S, R] in."""
    n = means.shape[1]
    centred = means - means.mean(1, keepdims=True)
    return _pairs(centred @ centred.T / (n * (n - 1)))


def paired_with(means: Array, counts: Array, anchor: int) -> Array:
    """Such variances of one strategy with all [..., S], of means [..., S, R] whose seeds were drawn `counts` [..., R] times."""
    n = means.shape[-1]
    c = counts[..., None, :]
    apart = means - means[..., [anchor], :]
    apart = apart - (c * apart).sum(-1, keepdims=True) / n
    return np.asarray((c * apart**2).sum(-1) / (n * (n - 1)))


def spread(means: Array, counts: Array | None = None) -> Array:
    """Each strategy's variance over seeds [..., S], without what a seed gives to all: residuals of an additive model.

    means [..., S, R]; counts [..., R]: how often a seed was drawn (once each by default).
    """
    n_strategies, n = means.shape[-2:]
    c = np.ones(n) if counts is None else counts[..., None, :]
    residual = means - means.mean(-2, keepdims=True)
    residual = residual - (c * residual).sum(-1, keepdims=True) / n
    return np.asarray((c * residual**2).sum(-1) / ((n - 1) * (1 - 1 / n_strategies)))


def moderate(own: Array, df: int) -> Prior:
    """How far S variances with df degrees of freedom each may be pooled.

    A strategy whose variance stands out stays alone; the others are pooled by the moments of their logarithms (Smyth
    2004, 6.2). Pooling unequal variances as if they were equal would print too short an interval for the noisy rows.
    """
    n = len(own)
    others = (own.sum() - own) / (n - 1)
    limit = float(fdtri(df, df * (n - 2), 1 - (APART_FEW if df < 4 else APART)))
    kept = own <= others * limit
    few = np.zeros(n)
    if kept.sum() < 2 or not (own[kept] > 0).all():
        return Prior(1, np.full(n, np.inf) if not own.any() else few)
    e = np.log(own[kept]) - digamma(df / 2) + math.log(df / 2)
    excess = float(e.var(ddof=1)) - float(polygamma(1, df / 2))
    # Of equal variances too, the largest are set apart: what is left has a mean of `cut` times theirs.
    cut = float(gammainc(df / 2 + 1, df * limit / 2) / gammainc(df / 2, df * limit / 2))
    raised = float(min(own.mean() / own[kept].mean(), 1 / cut))
    if excess <= 0:
        return Prior(raised, np.where(kept, np.inf, 0))
    weight = 2 * _trigamma_inverse(excess)
    centre = float(np.exp(e.mean() + float(digamma(weight / 2)) - math.log(weight / 2)) / own[kept].mean())
    return Prior(raised * centre, np.where(kept, weight, 0))


def shrink(own: Array, df: int, prior: Prior) -> Array:
    """Variances [..., S] drawn to the prior."""
    kept = prior.df > 0
    if not kept.any():
        return own
    centre = prior.ratio * own[..., kept].mean(-1, keepdims=True)
    share = 1 / (1 + df / np.maximum(prior.df, 1e-300))
    return np.asarray(share * centre + (1 - share) * own)


def _trigamma_inverse(y: float) -> float:
    """x > 0 with trigamma(x) = y: Newton's steps on 1 / trigamma, which is convex and nearly linear."""
    x = 0.5 + 1 / y
    for _ in range(50):
        now = float(polygamma(1, x))
        step = now * (1 - now / y) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
