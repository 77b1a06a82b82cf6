"""A lab without a model: it plays given validation curves to a strategy, in milliseconds, and writes down what it did.

For tests of plots: `ScriptedLab(sizes, script)` where each `train` call takes the next entry of `script`, a mapping
from task to its values at the looks of that call (higher is better; the first is the value at the call's start). When
the script is used up, the next billed verb raises BudgetExhausted, as a run's cap would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np

from harness.api import (
    REST,
    BudgetExhausted,
    Checkpoint,
    Example,
    ExampleWeights,
    ForkPhase,
    HarnessError,
    History,
    Keep,
    Lab,
    Length,
    Look,
    Metric,
    Mixture,
    Objective,
    OptimizerState,
    Score,
    Split,
    TaskInfo,
    check_weights,
)
from harness.loop import wanted
from harness.sampler import stream

Curves = Mapping[str, Sequence[float]]


class ScriptedBudget:
    """Counts `train` calls instead of FLOPs."""

    def __init__(self, total: int) -> None:
        self.total, self.spent = total, 0

    @property
    def remaining(self) -> int:
        return self.total - self.spent


class ScriptedLab:
    """Those verbs of a lab that train, look, mix and move, over given curves.

    `calls` lists (verb, detail) in order, of a mixture its tasks; `mixtures` the task weights of each `train`. `answered`
    names the checkpoint that was answered with, `final` what would be scored.
    """

    def __init__(self, sizes: Mapping[str, int], script: Sequence[Curves], seed: int = 0) -> None:
        self.tasks: Mapping[str, TaskInfo] = {
            t: TaskInfo(t, n, 10, 10 * n, 2 * n, "exact_match") for t, n in sorted(sizes.items())
        }
        self.script = list(script)
        self.budget = ScriptedBudget(len(self.script))
        self.rng: np.random.Generator = stream(seed, "strategy")
        self.calls: list[tuple[str, object]] = []
        self.mixtures: list[Mapping[str, float]] = []
        self.answered: str | None = None
        self.state: dict[str, Any] = {}
        first = self.script[0] if self.script else {t: [float("nan")] for t in self.tasks}
        self._standing, self._seen = "base", {"base": {t: float(first[t][0]) for t in self.tasks}}

    def train(
        self,
        mixture: Mixture,
        length: str = REST,
        *,
        metric: Metric | None = None,
        eval_every: str | None = None,
        keep: Keep = "last",
        optimizer: OptimizerState = "keep",
        objective: Objective | None = None,
        example_weights: ExampleWeights | None = None,
        **_: Any,
    ) -> History:
        Length.parse(length)
        if self.budget.spent == len(self.script):
            raise BudgetExhausted(None, "the script is used up")
        call = self.budget.spent
        curves = self.script[call]
        self.budget.spent += 1
        self.calls.append(("train", mixture.tasks))
        self.mixtures.append(dict(mixture.weights))
        every = Length.parse(eval_every).amount if eval_every else 1.0
        looks, start = [], self._standing
        for k in range(len(next(iter(curves.values())))):
            values = {t: float(curves[t][k]) for t in self.tasks}
            pooled = sum(values.values()) / len(values)
            at = f"{call}:{k}" if k else start
            self._seen[at] = values
            looks.append(Look(k, k * every, values, pooled, Checkpoint(at)))
        held = {
            "last": {len(looks) - 1},
            "none": set(),
            "best": wanted(looks, ()),
            "peaks": wanted(looks, mixture.tasks),
        }[keep]
        final = tuple(x if i in held else Look(x.step, x.epoch, x.values, x.value) for i, x in enumerate(looks))
        self._standing = at
        return History(final, len(looks) - 1, looks[-1].epoch, dict.fromkeys(mixture.tasks, 0.0))

    def validate(
        self,
        tasks: Iterable[str] | None = None,
        *,
        metric: Metric | None = None,
        n: int | None = None,
        at: Checkpoint | None = None,
    ) -> dict[str, Score]:
        self.calls.append(("validate", None))
        names = sorted(self.tasks if tasks is None else tasks)
        seen = self._seen[at.weights if at else self._standing]
        return {t: Score("exact_match", 1 - seen[t], seen[t], self.tasks[t].n_validation) for t in names}

    def checkpoint(self, *, pin: bool = True) -> Checkpoint:
        self.calls.append(("checkpoint", self._standing))
        return Checkpoint(self._standing)

    def rollback(self, to: Checkpoint, *, optimizer: Literal["restore", "fresh"] = "restore") -> None:
        self.calls.append(("rollback", to.weights))
        self._standing = to.weights

    def answer(self, checkpoint: Checkpoint | None = None) -> None:
        self.answered = checkpoint.weights if checkpoint else None
        self.calls.append(("answer", self.answered))

    @property
    def final(self) -> str:
        """The weights at the end, `base` or `CALL:LOOK` counted from 0: those answered with, else those that stand there."""
        return self.answered or self._standing

    @contextmanager
    def fork(
        self,
        phase: ForkPhase,
        *,
        start: Literal["base", "now"] | Checkpoint = "base",
        model: str | None = None,
        budget: str | int | None = None,
    ) -> Iterator[Lab]:
        """This lab again, playing the same script on; afterwards it stands where it stood."""
        self.calls.append(("fork", phase))
        here = self._standing
        if start != "now":
            self._standing = start.weights if isinstance(start, Checkpoint) else start
        yield cast(Lab, self)
        self._standing = here
        self.calls.append(("join", phase))

    def draw(self, mixture: Mixture, k: int = 1) -> list[Example]:
        self.calls.append(("draw", mixture.tasks))
        return [Example(f"{task}/{i}", task) for i, task in enumerate(mixture.tasks * k)]

    def uniform(self, tasks: Iterable[str] | None = None) -> Mixture:
        return self.temperature(tasks, 0.0)

    def proportional(self, tasks: Iterable[str] | None = None) -> Mixture:
        return self.temperature(tasks, 1.0)

    def temperature(self, tasks: Iterable[str] | None = None, tau: float = 1.0) -> Mixture:
        return self.mixture({t: self.tasks[t].n_train ** tau for t in (self.tasks if tasks is None else tasks)})

    def only(self, task: str) -> Mixture:
        return self.proportional([task])

    def mixture(self, weights: Mapping[str, float]) -> Mixture:
        checked = check_weights(weights, self.tasks)
        return Mixture(checked, {t: self.tasks[t].n_train for t in checked})

    def just(self, examples: Sequence[Example]) -> Mixture:
        tasks = [e.task for e in examples]
        weights = {t: tasks.count(t) / len(tasks) for t in sorted(set(tasks))}
        return Mixture(weights, {}, sequence=tuple(e.id for e in examples))

    def sample(self, task: str, n: int, split: Split = "train") -> list[Example]:
        return [Example(f"{task}/{i}", task, split) for i in range(n)]

    def counts(self, numbers: Mapping[str, int], *, replacement: bool = False) -> Mixture:
        return self.just([e for task, n in sorted(numbers.items()) for e in self.sample(task, n)])

    def __getattr__(self, name: str) -> Any:
        raise HarnessError(f"a scripted lab has no model to ask: it does not play {name!r}")

    def log(self, name: str, value: object) -> None:
        self.calls.append(("log", (name, value)))
