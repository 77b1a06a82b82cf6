"""Looking at validation items: the strategy's billed looks, paid once per weights, and the harness's own free ones."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

from harness.api import Metric, Score, TaskInfo
from harness.data import Item
from harness.ledger import Account, Cost
from harness.suite import LookSpec
from harness.trail import Trail

LOOK = -1  # in `Trail.seen`, in place of n: the first `look.items` items of a task


def _means(seen: list[Any]) -> tuple[float, float]:
    """(mean loss per supervised token, share of exact matches)."""
    loss = sum(s.nll for s in seen) / sum(s.supervised for s in seen)
    return loss, sum(s.match for s in seen) / len(seen)


class Evaluator(Protocol):
    """What looking needs of an engine."""

    def evaluate(self, items: list[Item]) -> tuple[list[Any], int]: ...
    def forward_cost(self, items: list[Item], hardware: int = 0) -> Cost: ...


class Looks:
    """Looks of one lab through its engine at named weights."""

    def __init__(
        self,
        engine: Evaluator,
        validation: Mapping[str, list[Item]],
        info: Mapping[str, TaskInfo],
        account: Account,
        trail: Trail,
        spec: LookSpec | None,
    ) -> None:
        self.engine, self.validation, self.info = engine, validation, info
        self.account, self.trail, self.spec = account, trail, spec

    def cost(self) -> int:
        """FLOPs of one look at all validation items."""
        return sum(self.engine.forward_cost(items).model for items in self.validation.values())

    def scores(
        self, weights: str, tasks: list[str], metric: Metric | None, n: int | None, verb: int, step: int
    ) -> dict[str, Score]:
        """Billed looks; what was seen at these weights before is free. Raises BudgetExhausted."""
        need = {t: self.validation[t][:n] for t in tasks if (weights, t, n or 0) not in self.trail.seen}
        if need:
            self.account.require(sum(self.engine.forward_cost(items).model for items in need.values()))
            for task, seen in self._evaluate(need, "validate", verb, step).items():
                self.trail.seen[weights, task, n or 0] = _means(seen)
                if self.spec is not None and len(seen) >= self._look_size(task):
                    self.trail.seen[weights, task, LOOK] = _means(seen[: self._look_size(task)])
        return {t: self._score(weights, t, metric, n) for t in tasks}

    def _score(self, weights: str, task: str, metric: Metric | None, n: int | None) -> Score:
        loss, match = self.trail.seen[weights, task, n or 0]
        return Score(metric or self.info[task].signal, loss, match, len(self.validation[task][:n]))

    def _evaluate(self, need: Mapping[str, list[Item]], phase: str, verb: int, step: int) -> dict[str, list[Any]]:
        """What was seen of each item, by task; booked to `phase`."""
        started = time.perf_counter()
        items = [item for task in sorted(need) for item in need[task]]
        seen, hardware = self.engine.evaluate(items)
        cost = self.engine.forward_cost(items, hardware)
        self.account.book(phase, cost, time.perf_counter() - started, verb, step)
        found, at = {}, 0
        for task in sorted(need):
            found[task] = seen[at : at + len(need[task])]
            at += len(need[task])
        return found

    def _look_size(self, task: str) -> int:
        assert self.spec is not None
        return min(self.spec.items, len(self.validation[task]))

    def observe(self, weights: str, verb: int, last: bool = False) -> None:
        """The harness's own look when the billed share has passed the next grid point: not billed, root lab only.

        `last`: at the answer, so that every curve ends in it. Items that the strategy has just paid to see at these
        weights are not run again.
        """
        if self.spec is None:
            return
        spent, cap, trail = self.account.spent, self.account.cap, self.trail
        here = f"{weights}@{spent}"
        if here == trail.looked or (not last and spent * self.spec.points < trail.next_point * cap):
            return
        trail.looked = here
        trail.next_point = spent * self.spec.points // cap + 1
        need = {t: v[: self.spec.items] for t, v in self.validation.items() if (weights, t, LOOK) not in trail.seen}
        for task, seen in (self._evaluate(need, "look", verb, 0) if need else {}).items():
            trail.seen[weights, task, LOOK] = _means(seen)
        for task in sorted(self.validation):
            loss, match = trail.seen[weights, task, LOOK]
            finite = loss if math.isfinite(loss) else None
            trail.curves.append({"billed_flops": spent, "task": task, "loss": finite, "exact_match": match})


def pooled(scores: Mapping[str, Score]) -> float:
    """Mean value over all items of all tasks; if the tasks' metrics differ, of exact match, which the board ranks."""
    n = sum(s.n for s in scores.values())
    if len({s.metric for s in scores.values()}) > 1:
        return sum(s.exact_match * s.n for s in scores.values()) / n
    return sum(s.value * s.n for s in scores.values()) / n
