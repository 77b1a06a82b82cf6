"""Looking at validation items: the strategy's billed looks, paid once per weights, and the harness's own free ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from harness.api import Metric, Score, TaskInfo
from harness.data import Item
from harness.ledger import Account, Cost
from harness.suite import LookSpec
from harness.trail import Trail

LOOK = -1  # in `Trail.seen`, in place of n: the first `look.items` items of a task
ANSWERED = -2  # and, less n: greedy answers to them were graded


def _means(seen: list[Any]) -> tuple[float, float]:
    """(mean loss per supervised token, share of exact matches)."""
    loss = sum(s.nll for s in seen) / sum(s.supervised for s in seen)
    return loss, sum(s.match for s in seen) / len(seen)


class Evaluator(Protocol):
    """What looking needs of an engine."""

    def evaluate(self, items: list[Item]) -> tuple[list[Any], int]: ...
    def forward_cost(self, items: list[Item], hardware: int = 0) -> Cost: ...


class Examiner(Protocol):
    """Greedy answers to items of one task, graded as the scorer would."""

    def bound(self, items: list[Item]) -> int: ...
    def grade(self, items: list[Item], meter: Callable[[Cost], None]) -> list[bool]: ...


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
        examiner: Examiner,
    ) -> None:
        self.engine, self.validation, self.info, self.examiner = engine, validation, info, examiner
        self.account, self.trail, self.spec = account, trail, spec

    def cost(self, metric: Metric | None = None) -> int:
        """FLOPs of one look at all validation items, answers at their longest."""
        return sum(self._cost(task, items, metric) for task, items in self.validation.items())

    def _cost(self, task: str, items: list[Item], metric: Metric | None) -> int:
        if self._answers(task, metric):
            return self.examiner.bound(items)
        return self.engine.forward_cost(items).model

    def _answers(self, task: str, metric: Metric | None) -> bool:
        return (metric or self.info[task].signal) == "generate"

    def scores(
        self, weights: str, tasks: list[str], metric: Metric | None, n: int | None, verb: int, step: int
    ) -> dict[str, Score]:
        """Billed looks; the same look at these weights is paid once. Raises BudgetExhausted before anything is billed."""
        weights = self.trail.trained(weights)
        first = {t: 0 if n is None or n >= len(self.validation[t]) else n for t in tasks}
        keys = {t: (weights, t, ANSWERED - first[t] if self._answers(t, metric) else first[t]) for t in tasks}
        need = {t: self.validation[t][:n] for t in tasks if keys[t] not in self.trail.seen}
        if need:
            self.account.require(sum(self._cost(t, items, metric) for t, items in need.items()))
        for task in [t for t in need if self._answers(t, metric)]:
            self.trail.seen[keys[task]] = (math.nan, self._examine(need.pop(task), verb, step))
        for task, seen in (self._evaluate(need, "validate", verb, step) if need else {}).items():
            self.trail.seen[keys[task]] = _means(seen)
            if self.spec is not None and len(seen) >= self._look_size(task):
                self.trail.seen[weights, task, LOOK] = _means(seen[: self._look_size(task)])
        return {t: self._score(keys[t], metric, n) for t in tasks}

    def _score(self, key: tuple[str, str, int], metric: Metric | None, n: int | None) -> Score:
        (_, task, _), (loss, match) = key, self.trail.seen[key]
        return Score(metric or self.info[task].signal, loss, match, len(self.validation[task][:n]))

    def _examine(self, items: list[Item], verb: int, step: int) -> float:
        """The share of these items, of one task, that are answered rightly; booked as `validate`."""
        started, spent = time.perf_counter(), Cost()

        def meter(cost: Cost) -> None:
            nonlocal spent
            spent += cost

        try:
            right = self.examiner.grade(items, meter)
        finally:
            self.account.book("validate", spent, time.perf_counter() - started, verb, step)
        return sum(right) / len(right)

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
        weights = trail.trained(weights)
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
