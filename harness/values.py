"""The values that a lab's verbs take and return: lengths, examples, scores, looks, histories, mixtures. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.errors import HarnessError, unknown

REST = "rest"
inf = math.inf

Metric = Literal["loss", "exact_match", "generate"]
Keep = Literal["last", "none", "best", "peaks"]
OptimizerState = Literal["keep", "fresh"]
Split = Literal["train", "validation"]
Objective = Callable[[Any], Any]  # Tokens -> (S,) tensor
ExampleWeights = Callable[[Any], Any]  # Batch -> (n,) array
Select = Callable[[Any], "Selection"]  # Pool -> Selection
Array = np.ndarray[Any, Any]
ForkPhase = Literal["proxy", "probe", "gradients", "generate"]


class Length(NamedTuple):
    """A duration with its unit: `3 step`, `0.25 epoch` (a pass over the mixture's examples), `0.1 budget`, `rest`."""

    amount: float
    unit: Literal["step", "epoch", "budget", "rest"]

    @classmethod
    def parse(cls, text: str) -> Length:
        """Read a length; plural units are accepted. Raises HarnessError for anything else."""
        if text == REST:
            return cls(inf, "rest")
        amount, _, unit = text.strip().partition(" ")
        unit = unit.strip().removesuffix("s")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if unit not in ("step", "epoch", "budget") or not value > 0 or math.isinf(value):
            raise HarnessError(f"length {text!r}: expected a positive '<number> step|epoch|budget', or 'rest'")
        if unit == "step" and value != int(value):
            raise HarnessError(f"length {text!r}: steps are whole numbers")
        return cls(value, unit)  # type: ignore[arg-type]


@dataclass(frozen=True, order=True)
class Example:
    """One training or validation item. `id` is `task/index` with `v:` in front of validation ids.

    `version` is empty, or names the response that `Lab.rewrite` gave it.
    """

    id: str
    task: str
    split: Split = "train"
    version: str = ""
    prompt: str = field(default="", compare=False, repr=False)
    response: str = field(default="", compare=False, repr=False)
    tokens: int = field(default=0, compare=False)


@dataclass(frozen=True)
class TaskInfo:
    """What a strategy may know of a task before any look: sizes, tokens of one pass, and the task's own signal."""

    name: str
    n_train: int
    n_validation: int
    tokens: int
    supervised_tokens: int
    signal: Metric


@dataclass(frozen=True)
class Checkpoint:
    """A handle to saved weights. `weights` names the state (`base`, or `verb:step` of the training that made it)."""

    weights: str


@dataclass(frozen=True)
class Score:
    """A look at one task: mean loss per example token (nats), share of exact matches, and `value` by the metric.

    `value` is higher-is-better whatever the metric: it is `exact_match`, or minus `loss`. Matches are teacher-forced;
    under `generate` they are of greedy answers, graded as the scorer would, and `loss` is NaN: it was not looked at.
    """

    metric: Metric
    loss: float
    exact_match: float
    n: int

    @property
    def value(self) -> float:
        return -self.loss if self.metric == "loss" else self.exact_match


@dataclass(frozen=True)
class Look:
    """All tasks at one moment of a training: `values` per task, `value` pooled over their items; higher is better."""

    step: int
    epoch: float
    values: Mapping[str, float] = field(default_factory=dict)
    value: float = math.nan
    kept: Checkpoint | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The weights at this look. Raises HarnessError if `keep` did not ask for them."""
        if self.kept is None:
            raise HarnessError(f"the look at step {self.step} holds no checkpoint; ask for it with train(keep=...)")
        return self.kept


@dataclass(frozen=True)
class History:
    """What a `train` did. Looks are in order of steps; the last one is the end, with values if `eval_every` was given
    (and what ran in a pause has left room for it).

    `paused`, plain data, is set where `train(pause=)` stopped short of the end, for `train(after=)`. The last look is then
    the place of the pause and holds a checkpoint.
    """

    looks: tuple[Look, ...]
    steps: int
    epochs: float
    train_loss: Mapping[str, float]
    cut: bool = False
    paused: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def last(self) -> Look:
        return self.looks[-1]

    def best(self, task: str | None = None) -> Look:
        """The earliest look with the highest value of `task`, or pooled; NaN never wins. At least one look is needed."""
        seen = [look for look in self.looks if look.values]
        if not seen:
            raise HarnessError("History.best() needs looks: pass eval_every to train")
        values = [_finite(look.values[task] if task is not None else look.value) for look in seen]
        return seen[values.index(max(values))]


def _finite(value: float) -> float:
    return -inf if math.isnan(value) else value


@dataclass(frozen=True)
class Distribution:
    """At each of an example's S supervised tokens: k token `ids` (S, k), their `logp`, and the mass of all others `tail`.

    By descending probability, or in the order of the support that was asked for.
    """

    ids: Array
    logp: Array
    tail: Array


class Generation(NamedTuple):
    """A sampled response: its text without end token or stop string, and whether one of them came in time."""

    text: str
    finished: bool


@dataclass(frozen=True)
class Selection:
    """What a selector chose of a pool: `indices` into it, k effective batches of them, for k updates in this order.

    `weights` (one >= 0 an index) multiply the losses of their examples; the normaliser does not change.
    """

    indices: Sequence[int]
    weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Mixture:
    """Task weights (sum 1) over the available examples of each task; one epoch draws `epoch_examples` examples.

    Made by the lab (`proportional`, `uniform`, ...). `sequence` names the examples themselves instead: in exactly this
    order (`just`), or in an order of its own each epoch (`counts`: `shuffled`).
    """

    weights: Mapping[str, float]
    sizes: Mapping[str, int]
    by_size: bool = False
    excluded: frozenset[str] = frozenset()
    sequence: tuple[str, ...] = ()
    shuffled: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted(self.weights))

    @property
    def epoch_examples(self) -> int:
        return len(self.sequence) or sum(self.sizes.values())

    def without(self, examples: Iterable[Example]) -> Mixture:
        """The same mixture with these examples left out; weights given by size follow the sizes that remain.

        Raises HarnessError for validation examples, which no mixture holds.
        """
        examples = list(examples)
        if held := next((e for e in examples if e.split != "train"), None):
            raise HarnessError(f"without(): {held.id} is a validation example; expected training examples")
        if self.sequence:
            return self._sequence_without({e.id for e in examples})
        gone = {e.id: e.task for e in examples if e.id not in self.excluded and e.task in self.sizes}
        sizes = dict(self.sizes)
        for task in gone.values():
            sizes[task] -= 1
        kept = {t: n for t, n in sizes.items() if n > 0}
        if not kept:
            raise HarnessError("without(): no example is left in the mixture")
        raw = kept if self.by_size else {t: self.weights[t] for t in kept}
        total = sum(raw.values())
        weights = {t: w / total for t, w in raw.items()}
        return replace(self, weights=weights, sizes=kept, excluded=self.excluded | set(gone))

    def _sequence_without(self, gone: set[str]) -> Mixture:
        ids = tuple(i for i in self.sequence if i not in gone)
        if not ids:
            raise HarnessError("without(): no example is left in the mixture")
        tasks = [i.rpartition("/")[0] for i in ids]
        return replace(self, weights={t: tasks.count(t) / len(ids) for t in sorted(set(tasks))}, sequence=ids)


@dataclass(frozen=True)
class LearnedMixture:
    """Task weights (sum 1) that the run named `run` has learned.

    A strategy's field of type `LearnedMixture | None` takes them: `-o FIELD=RUN_DIR` (docs/adr/0008-learned-mixtures.md).
    """

    run: str
    weights: Mapping[str, float]


def check_weights(weights: Mapping[str, float], tasks: Mapping[str, TaskInfo]) -> dict[str, float]:
    """Validated, normalised weights of known tasks; tasks of weight 0 are dropped. Raises HarnessError."""
    for task, weight in weights.items():
        if task not in tasks:
            raise unknown("task in a mixture", str(task), tasks)
        if not math.isfinite(weight) or weight < 0:
            raise HarnessError(f"mixture weight of {task!r} is {weight}; expected a finite number >= 0")
    total = sum(weights.values())
    if not total > 0:
        raise HarnessError("a mixture needs at least one positive weight")
    return {t: weights[t] / total for t in sorted(weights) if weights[t] > 0}
