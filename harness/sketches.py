"""Made-up views of a model for plans: per-token losses, distributions and gradients of the right shapes.

All are fixed by the names of scenario and example: another scenario makes a selector choose other examples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from harness.data import Item
from harness.gradients import Gradients
from harness.values import Array, Distribution

LATENT = 16  # dimensions in which made-up gradients differ
LARGE = 2**28  # bytes; no array of gradients beyond it is filled
TINY = 1e-30
HELD = 2**18  # items whose losses are remembered


class SketchedGradients(Gradients):
    """Real prices, names and shapes; values differ in a few dimensions only, by task more than by example."""

    def __init__(self, engine: Any, items: Sequence[Item], modules: str | Sequence[str], normalize: bool) -> None:
        super().__init__(engine, items, modules, normalize)
        scene = engine.scenario.name
        rows = np.stack([_direction(scene, item.task) + 0.5 * _direction(scene, item.id) for item in items])
        if normalize:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self._latent: Array = rows

    def compute(self) -> None:
        """Nothing: the rows are known."""

    def rows(self, project: int | None = None, seed: int = 0) -> Array:
        if project is None:
            return _widened(self._latent, self.size)
        to = np.random.default_rng(seed).choice([-1.0, 1.0], (LATENT, project)) / math.sqrt(project)
        return (self._latent @ to).astype(np.float32)

    def gram(self, other: Any = None) -> Array:
        theirs = self._latent if other is None else other._latent
        return (self._latent @ theirs.T).astype(np.float32)

    def mean(self, by: Literal["task"] = "task") -> dict[str, Array]:
        tasks = np.array([item.task for item in self.items])
        return {t: _widened(self._latent[tasks == t].mean(0), self.size) for t in sorted(set(tasks.tolist()))}


def _widened(rows: Array, size: int) -> Array:
    """The rows in `size` dimensions with about the same inner products; zeros without memory where that is too large."""
    shape = (*rows.shape[:-1], size)
    if 4 * math.prod(shape) > LARGE:
        return np.broadcast_to(np.float32(0), shape)
    return (rows[..., np.arange(size) % LATENT] * math.sqrt(LATENT / size)).astype(np.float32)


def _stream(*names: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:8], "big"))


@lru_cache(HELD)
def _direction(scene: str, name: str) -> Array:
    return _stream(scene, name).standard_normal(LATENT)


@lru_cache(HELD)
def spread(scene: str, name: str, tokens: int) -> Array:
    """How a task's loss lies over one item's tokens (S,): positive and about 1 on average."""
    rng = _stream(scene, name)
    found: Array = rng.lognormal(-0.125, 0.5) * rng.gamma(2.0, 0.5, tokens)
    return found


@lru_cache(HELD)
def total(scene: str, name: str, tokens: int) -> float:
    """The sum of `spread`."""
    return float(spread(scene, name, tokens).sum())


def distribution(item: Item, p: Array, top_k: int, vocabulary: int, support: Array | None) -> Distribution:
    """The gold token with probability p (S,); the rest of the mass halved from token to token, or spread evenly."""
    gold = np.array(item.ids[-item.supervised :])[:, None]
    rest = 1.0 - p.astype(np.float64)[:, None]
    if support is not None:
        ids = np.asarray(support)
        found = np.where(ids == gold, p[:, None], rest / vocabulary)
    else:
        k = min(top_k, vocabulary)
        ids = (gold + np.arange(k)) % vocabulary
        found = np.concatenate([p[:, None], rest * 0.5 ** np.arange(1, k)], 1)
        order = np.argsort(-found, axis=1, kind="stable")
        ids, found = np.take_along_axis(ids, order, 1), np.take_along_axis(found, order, 1)
    tail = np.clip(1.0 - found.sum(1), 0.0, 1.0).astype(np.float32)
    return Distribution(ids.astype(np.int64), np.log(np.maximum(found, TINY)).astype(np.float32), tail)
