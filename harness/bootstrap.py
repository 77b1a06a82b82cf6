"""The nested bootstrap: seeds are drawn, then items within each task, the same draws for all strategies.

Its replicates are also studentised, each by its own variance, which says how far the Student-t quantile can be trusted on
these data: noise of single answers enters a replicate three times (seeds, items, both; Owen 2007), and its variance too.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from harness.panel import POOL, Array, Components, alone, paired_with, shrink, spread

REPLICATES = 2000
SEED = 20260101  # a constant: the same records give the same page
FEW = 5  # seeds: three give ten different draws, five give 126


def draws(task: Array, seeds: int, replicates: int = REPLICATES) -> tuple[Array, Array]:
    """How often each seed [B, R] and each item [B, N] is drawn; items within their task."""
    counts, by_task = _draws(tuple(np.bincount(task).tolist()), seeds, replicates)
    items = np.empty_like(by_task)
    items[:, np.argsort(task, kind="stable")] = by_task
    return counts, items


@lru_cache(maxsize=2)  # boards of one suite ask for the same draws
def _draws(sizes: tuple[int, ...], seeds: int, replicates: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(SEED)
    items = [rng.multinomial(n, np.full(n, 1 / n), replicates).astype(np.float32) for n in sizes]
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), replicates), np.concatenate(items, axis=1)


def means(correct: Array, weight: Array, items: Array) -> Array:
    """Macro means [B, S, R] of every run on the drawn items."""
    n_strategies, n_seeds, n = correct.shape
    flat = correct.reshape(-1, n).astype(np.float32) * weight.astype(np.float32)
    return np.asarray((flat @ items.T).T.reshape(-1, n_strategies, n_seeds).astype(np.float64))


def nested(correct: Array, task: Array, weight: Array, replicates: int = REPLICATES) -> Array:
    """Macro means [B, S] of the strategies' means over drawn seeds and items."""
    counts, items = draws(task, correct.shape[1], replicates)
    drawn = means(correct, weight, items)
    return np.asarray(np.einsum("br,bsr->bs", counts / correct.shape[1], drawn))


def pivots(
    correct: Array, task: Array, weight: Array, found: Components, anchor: int, replicates: int = REPLICATES
) -> Array:
    """Studentised differences [B', S] to the strategy `anchor`; replicates of one seed alone have no variance: left out."""
    n_seeds = correct.shape[1]
    counts, items = draws(task, n_seeds, replicates)
    many = (counts > 0).sum(1) > 1
    counts, drawn = counts[many], means(correct, weight, items[many])
    mean = np.einsum("br,bsr->bs", counts / n_seeds, drawn)
    moved = mean - mean[:, [anchor]] - (found.macro.mean(1) - found.macro[anchor].mean())
    if alone(*correct.shape[:2]):
        seed = paired_with(drawn, counts.astype(np.float64), anchor)
    else:
        own = shrink(spread(drawn, counts.astype(np.float64)), n_seeds - 1, found.prior) / n_seeds
        seed = own + own[:, [anchor]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(moved / np.sqrt(seed + (found.item + found.noise)[anchor]))


def widening(
    correct: Array,
    task: Array,
    weight: Array,
    found: Components,
    anchor: int,
    quantiles: Array,
    replicates: int = REPLICATES,
) -> float:
    """By what factor intervals of `quantiles` [S] standard errors must grow to hold 95 % of the replicates; at least 1.

    One factor for all strategies: pivots are pooled over them, since one strategy's few seeds make a coarse lattice.
    """
    if correct.shape[1] < FEW or correct.shape[0] < POOL:
        return 1.0
    others = np.arange(correct.shape[0]) != anchor
    ratio = np.abs(pivots(correct, task, weight, found, anchor, replicates))[:, others] / quantiles[others]
    ratio = ratio[np.isfinite(ratio)]
    return max(1.0, float(np.quantile(ratio, 0.95))) if ratio.size else 1.0
