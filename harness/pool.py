"""What a selector is shown before each update: a candidate pool, its statistics, and looks that are billed when used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from harness import ranks
from harness.core import Core
from harness.errors import HarnessError, RunFailed
from harness.loop import Update
from harness.probes import Handle, Probes
from harness.table import Rows
from harness.values import Array, Checkpoint, Distribution, Example, Mixture, Select, Selection


class Pool:
    """n candidates drawn as training would draw them. Its looks are billed, and not journalled on their own.

    `batch` examples make one update; `quota` says how many of each task an effective batch of this mixture holds on
    average (rounded by largest remainder), `share` what part of the mixture each task is. `table`, `state` and `rng` are
    those of every callback.
    """

    def __init__(self, core: Core, ids: Sequence[str], mixture: Mixture, batch: int, step: int, reserve: int) -> None:
        self._core, self._probes = core, Probes(core, step, reserve)
        self._mixture = mixture
        self.examples = tuple(core.data.example(i, core.revised.get(i, "")) for i in ids)
        self.ids, self.task = tuple(ids), tuple(e.task for e in self.examples)
        self.batch = batch
        self.table, self.state, self.rng = Rows(core.table, ids), core.memory, core.rng("select", step + 1)
        self.progress = core.clock.progress
        self.lr = core.clock.rate(self.progress)  # as it stands before the update

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def tokens(self) -> Array:
        """Supervised tokens of each candidate (n,)."""
        return np.array([item.supervised for item in self._core.data.items(self.examples)])

    @cached_property
    def nll(self) -> Array:
        """Mean token NLL of each candidate (n,); one forward pass, billed at the first use."""
        return np.array([-float(row.mean()) for row in self.logprobs()])

    @property
    def share(self) -> dict[str, float]:
        """The mixture's weight of each task, summing to 1."""
        return dict(self._mixture.weights)

    @cached_property
    def quota(self) -> dict[str, int]:
        """Examples of each task in one effective batch, summing to `batch`."""
        share = {t: self._mixture.weights[t] * self.batch for t in self._mixture.tasks}
        counts = {t: int(s) for t, s in share.items()}
        for t in sorted(share, key=lambda t: (counts[t] - share[t], t))[: self.batch - sum(counts.values())]:
            counts[t] += 1
        return counts

    def logprobs(self, examples: Sequence[Example] | None = None, *, at: Checkpoint | None = None) -> list[Array]:
        """As `Lab.logprobs`, of the candidates or of other examples."""
        return self._probes.logprobs(self.examples if examples is None else examples, at)

    def distributions(
        self,
        examples: Sequence[Example] | None = None,
        *,
        top_k: int = 64,
        support: Sequence[Array] | None = None,
        at: Checkpoint | None = None,
    ) -> list[Distribution]:
        """As `Lab.distributions`."""
        return self._probes.distributions(self.examples if examples is None else examples, top_k, support, at)

    def gradients(
        self,
        examples: Sequence[Example] | None = None,
        *,
        modules: str | Sequence[str] = "last:3",
        normalize: bool = False,
        at: Checkpoint | None = None,
    ) -> Handle:
        """As `Lab.gradients`."""
        return self._probes.gradients(self.examples if examples is None else examples, modules, normalize, at)

    def log(self, name: str, value: object, *, points: int | None = None) -> bool:
        """Put a small value into the record's events, and say whether it was put there; the same bounds as `Lab.log`.

        With `points`, only at the first call in each 1/points of this lab's progress, which no rollback turns back, and
        not at all where the log is full: a run of any length goes on, and what was left out can wait for the next.
        """
        if points is None:
            self._core.log(name, value)
            return True
        return self._core.log_at(name, value, int(self.progress * points))


def gatherer(core: Core, mixture: Mixture, factor: int, select: Select) -> Callable[[int, int], list[Update]]:
    """`Spec.gather` for a selector: draw a pool of `factor` effective batches, ask, check, cut into updates."""
    batch = core.suite.train.effective_batch

    def gather(step: int, reserve: int) -> list[Update]:
        pool = Pool(core, core.sampler.draw(mixture, factor * batch), mixture, batch, step, reserve)
        return ranks.first(_updates(select(pool), pool))

    return gather


def _updates(chosen: Any, pool: Pool) -> list[Update]:
    """Effective batches in the order of the selection. Raises RunFailed for one that cannot be trained on."""
    if not isinstance(chosen, Selection):
        raise RunFailed(f"select returned {type(chosen).__name__}; expected a Selection(indices, weights=None)")
    indices = np.asarray(chosen.indices)
    if indices.ndim != 1 or not len(indices) or len(indices) % pool.batch or indices.dtype.kind not in "iu":
        raise RunFailed(f"select chose {indices.shape} indices; expected a whole number of batches of {pool.batch}")
    if indices.min() < 0 or indices.max() >= len(pool):
        raise RunFailed(f"select chose index {int(indices.min())}..{int(indices.max())} of a pool of {len(pool)}")
    weights = None
    if chosen.weights is not None:
        weights = np.asarray(chosen.weights, dtype=np.float64)
        if weights.shape != indices.shape or not np.isfinite(weights).all() or (weights < 0).any():
            raise RunFailed("select gave weights that are not one finite number >= 0 for each index")
    updates: list[Update] = []
    for start in range(0, len(indices), pool.batch):
        part = slice(start, start + pool.batch)
        ids = [pool.ids[int(i)] for i in indices[part]]
        updates.append((ids, None if weights is None else weights[part].tolist()))
    return updates


def check_pool(pool: int, select: Select | None) -> None:
    if select is None and pool != 1:
        raise HarnessError(f"train: pool={pool} without a select; a pool is chosen from")
    if not isinstance(pool, int) or pool < 1:
        raise HarnessError(f"train: pool is {pool!r}; expected a whole number of effective batches, at least 1")
