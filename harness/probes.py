"""What one lab can ask of its engine beside training: log-probabilities, distributions, gradients, generation.

Each is computed and booked here, for the lab's verbs (which journal it) and for selectors (which do not).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness import ranks
from harness.core import Core
from harness.data import Item
from harness.errors import HarnessError, NoRoom
from harness.ledger import Cost
from harness.paths import digest
from harness.ports import Rows
from harness.responses import continuations
from harness.values import Array, Checkpoint, Distribution, Example, Generation

RESULT_BYTES = 64_000_000  # of one gradient result; more is asked for projected


class Probes:
    """Probes of one lab. `reserve` is what has to stay free under the cap; None outside a training."""

    def __init__(self, core: Core, step: int = 0, reserve: int | None = None) -> None:
        self.core, self.step, self.reserve = core, step, reserve

    def require(self, flops: int) -> None:
        """Raise BudgetExhausted, or inside a training NoRoom, if this does not fit."""
        if self.reserve is None:
            self.core.ledger.require(flops)
        elif not self.core.ledger.fits(flops + self.reserve):
            raise NoRoom(flops)

    def book(self, phase: str, cost: Cost, started: float) -> None:
        self.core.ledger.book(phase, cost, time.perf_counter() - started, self.core.verb, self.step)

    def name(self, at: Checkpoint | None) -> str:
        weights = self.core.standing if at is None else at.weights
        if not self.core.available(weights):
            raise HarnessError(f"checkpoint {weights} was released; see Lab.train about `keep`")
        return weights

    def logprobs(self, examples: Sequence[Example], at: Checkpoint | None) -> list[Array]:
        """Of each example's supervised tokens (S,); free where these weights looked at it before."""
        core, started, weights = self.core, time.perf_counter(), self.name(at)
        keys = [(e.id, e.version) for e in examples]
        by_key = dict(zip(keys, core.data.items(examples), strict=True))
        unseen = [by_key[key] for key in core.trail.gold.missing(weights, keys)]
        if unseen:
            self.require(core.engine.forward_cost(unseen).model)
            hardware = core.look_at_gold(weights, keys, unseen)
            self.book("probe", core.engine.forward_cost(unseen, hardware), started)
        return [array.copy() for array in core.trail.gold.get(weights, keys)] if keys else []

    def distributions(
        self, examples: Sequence[Example], top_k: int, support: Sequence[Array] | None, at: Checkpoint | None
    ) -> list[Distribution]:
        core, started, weights = self.core, time.perf_counter(), self.name(at)
        items = core.data.items(examples)
        if support is None and top_k < 1:
            raise HarnessError(f"distributions: top_k is {top_k}; expected at least 1")
        if not items:
            return []
        self.require(core.engine.forward_cost(items).model)
        found: tuple[list[Distribution], int] = core.look_through(
            weights, lambda: core.engine.distributions(items, top_k, support)
        )
        self.book("probe", core.engine.forward_cost(items, found[1]), started)
        return found[0]

    def gradients(
        self, examples: Sequence[Example], modules: str | Sequence[str], normalize: bool, at: Checkpoint | None
    ) -> Handle:
        if not examples:
            raise HarnessError("gradients: at least one example is needed")
        return Handle(self, self.core.data.items(examples), modules, normalize, self.name(at))

    def generate(
        self, items: Sequence[Item], max_new_tokens: int, temperature: float, top_p: float, n: int, seed: int
    ) -> list[Generation]:
        """`n` continuations of each item's prompt, item by item, cut at the suite's stop strings and the end token."""
        core, started = self.core, time.perf_counter()
        spent = Cost()

        def meter(cost: Cost) -> None:
            nonlocal spent
            self.require(spent.model + cost.model)
            spent += cost

        try:
            return continuations(core.engine, core.suite, items, max_new_tokens, meter, (temperature, top_p, n, seed))
        finally:
            self.book("generate", spent, started)


class Handle:
    """Per-example gradients at named weights: computed and billed at the first use, a projection at its first use.

    Inner products are billed at every call, as 2nmP whatever computes them: otherwise comparing many examples, which can
    cost more than their gradients, would be free. It is used while one can still look through its weights; afterwards
    HarnessError.
    """

    def __init__(
        self, probes: Probes, items: list[Item], modules: str | Sequence[str], normalize: bool, weights: str
    ) -> None:
        self.probes, self.items, self.weights = probes, items, weights
        self.modules: str | list[str] = modules if isinstance(modules, str) else list(modules)
        self.normalize = normalize
        self._rows: Rows | None = None
        self._projected: dict[int, Array] = {}
        self.paid: set[int] = set()  # 0: the rows; D: their projection
        self.key = digest([[i.id, list(i.ids)] for i in items] + [self.modules, normalize, weights])[:16]

    def gram(self, other: Handle | None = None, by: str | None = None) -> Array:
        """Inner products (n, m) with the rows of `other` or with each other; by="task": of the tasks' mean rows."""
        _known_by(by)

        def compute() -> Array:
            made, theirs = self._made(), other and other._made()
            return made.gram(theirs) if by is None else made.task_gram(theirs)

        if other is not None and not isinstance(other, Handle):
            raise HarnessError(
                "gradients: gram compares with gradients of the same lab or pool; ask for them here, at=..."
            )
        if other is not None and other is not self:
            other._use(None, other._made().compute)
        n, m = (len(h.items) if by is None else len({i.task for i in h.items}) for h in (self, other or self))
        cost = self._made().gram_cost(n, None if other in (None, self) else m)
        # The means of another handle's tasks are computed, and metered, there.
        found: Array = self._use(None, compute, cost, other._made() if other not in (None, self) else None)
        return found

    def rows(self, project: int | None = None) -> Array:
        """(n, P) float32, or (n, D) after the run's random projection, the same for every handle of P parameters."""
        seed = self.probes.core.sampler.seed

        def compute() -> Array:
            if project is None:
                return self._made().rows()
            if project not in self._projected:
                self._projected[project] = self._made().rows(project, seed)
            return self._projected[project].copy()

        found: Array = self._use(project, compute)
        return found

    def mean(self, by: str = "task", project: int | None = None) -> dict[str, Array]:
        """The mean row of each task's examples, projected if asked for."""
        _known_by(by)
        if project is None:
            found: dict[str, Array] = self._use(None, lambda: self._made().mean("task"))
            return found
        rows = self.rows(project)
        tasks = [item.task for item in self.items]
        return {t: rows[[i for i, task in enumerate(tasks) if task == t]].mean(0) for t in sorted(set(tasks))}

    def _made(self) -> Rows:
        if self._rows is None:
            core = self.probes.core
            self._rows = core.engine.gradients(self.items, self.modules, self.normalize, core.sampler.seed)
        return self._rows

    def _use(
        self, project: int | None, compute: Callable[[], Any], products: Cost | None = None, other: Rows | None = None
    ) -> Any:
        core, made, started = self.probes.core, self._made(), time.perf_counter()

        def hardware() -> int:
            return made.hardware + (other.hardware if other else 0)

        if not core.available(self.weights):
            raise HarnessError("gradients: use them before the weights move on, or give at=checkpoint")
        cost = products or Cost()
        if 0 not in self.paid:
            cost += made.cost()
        if project is not None and project not in self.paid:
            cost += made.projection_cost(project)
        if cost.model:
            self.probes.require(cost.model)
        before = 0

        def computed() -> Any:
            nonlocal before
            # After a crash: again, but billed before it.
            if 0 in self.paid:
                made.compute()
            if project is not None and project in self.paid:
                compute()
            before = hardware()
            return ranks.first(compute())  # each rank computes all of it

        result = core.look_through(self.weights, computed)
        if _size(result) > RESULT_BYTES:
            raise HarnessError(f"gradients: a result of {_size(result):,} bytes; ask for rows(project=D) or gram()")
        if cost.model or hardware() > before:
            self.probes.book("gradients", Cost(cost.model, hardware() - before, cost.tokens), started)
        self.paid |= {0} if project is None else {0, project}
        return result


def _known_by(by: str | None) -> None:
    if by not in (None, "task"):
        raise HarnessError(f"gradients: by={by!r}; known: 'task'")


def _size(result: Any) -> int:
    arrays = result.values() if isinstance(result, dict) else [result] if isinstance(result, np.ndarray) else []
    return sum(a.nbytes for a in arrays)
