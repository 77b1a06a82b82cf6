"""All that a strategy may import: the `Lab` protocol and the values that its verbs take and return.

A strategy is a frozen dataclass with `run(lab)`; it holds the plot, the lab holds the instruments. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from harness.errors import BudgetExhausted, HarnessError

__all__ = [
    "REST",
    "Budget",
    "BudgetExhausted",
    "Checkpoint",
    "Example",
    "ExampleWeights",
    "ForkPhase",
    "HarnessError",
    "History",
    "Keep",
    "Lab",
    "Length",
    "Look",
    "Metric",
    "Mixture",
    "Objective",
    "OptimizerState",
    "Score",
    "Strategy",
    "TaskInfo",
    "inf",
]

REST = "rest"
inf = math.inf

Metric = Literal["loss", "exact_match"]
Keep = Literal["last", "none", "best", "peaks"]
OptimizerState = Literal["keep", "fresh"]
Split = Literal["train", "validation"]
Objective = Callable[[Any], Any]  # Tokens -> (S,) tensor
ExampleWeights = Callable[[Any], Any]  # Batch -> (n,) array
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
            raise HarnessError(f"length {text!r}: expected a positive '<number> step|epoch|budget', or REST")
        if unit == "step" and value != int(value):
            raise HarnessError(f"length {text!r}: steps are whole numbers")
        return cls(value, unit)  # type: ignore[arg-type]


@dataclass(frozen=True, order=True)
class Example:
    """One training or validation item. `id` is `task/index` with the split's letter in front of validation ids."""

    id: str
    task: str
    split: Split = "train"
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
    """A look at one task: mean loss per example token (nats), teacher-forced exact match, and `value` by the metric.

    `value` is higher-is-better whatever the metric: it is `exact_match`, or minus `loss`.
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
    """What a `train` did. Looks are in order of steps; the last one is the end, with values if `eval_every` was given."""

    looks: tuple[Look, ...]
    steps: int
    epochs: float
    train_loss: Mapping[str, float]
    cut: bool = False

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
class Mixture:
    """Task weights (sum 1) over the available examples of each task; one epoch draws `epoch_examples` examples.

    Made by the lab (`proportional`, `uniform`, ...). `sequence` fixes the exact order instead (`just`).
    """

    weights: Mapping[str, float]
    sizes: Mapping[str, int]
    by_size: bool = False
    excluded: frozenset[str] = frozenset()
    sequence: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted(self.weights))

    @property
    def epoch_examples(self) -> int:
        return len(self.sequence) or sum(self.sizes.values())

    def without(self, examples: Iterable[Example]) -> Mixture:
        """The same mixture with these examples left out; weights given by size follow the sizes that remain."""
        if self.sequence:
            raise HarnessError("without() applies to mixtures of tasks, not to just(...)")
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


def check_weights(weights: Mapping[str, float], tasks: Mapping[str, TaskInfo]) -> dict[str, float]:
    """Validated, normalised weights of known tasks; tasks of weight 0 are dropped. Raises HarnessError."""
    from harness.errors import unknown

    for task, weight in weights.items():
        if task not in tasks:
            raise unknown("task in a mixture", str(task), tasks)
        if not math.isfinite(weight) or weight < 0:
            raise HarnessError(f"mixture weight of {task!r} is {weight}; expected a finite number >= 0")
    total = sum(weights.values())
    if not total > 0:
        raise HarnessError("a mixture needs at least one positive weight")
    return {t: weights[t] / total for t in sorted(weights) if weights[t] > 0}


class Budget(Protocol):
    """FLOPs of this lab's cap: `total`, `spent`, `remaining` (integers)."""

    @property
    def total(self) -> int: ...
    @property
    def spent(self) -> int: ...
    @property
    def remaining(self) -> int: ...


class Lab(Protocol):
    """The instruments. Every verb books the FLOPs that it computes; see docs/rules.md for what is billed."""

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """Training tasks by name, in order of names."""
        ...

    @property
    def budget(self) -> Budget: ...

    @property
    def rng(self) -> np.random.Generator:
        """For the strategy's own draws; seeded by the run, never rolled back."""
        ...

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
    ) -> History:
        """Train on whole effective batches of `mixture`; what does not fit under the cap is cut (`history.cut`).

        With `eval_every`, all tasks are validated (billed) at step 0, on that grid and at the end. `keep` says which
        looks hold a checkpoint: the last, none, the best pooled, or `peaks` = best of each task of the mixture and best
        pooled. They stay available until the next `train` of this lab, unless answered; `checkpoint()` is for longer.

        The loss of a step is the sum over tokens of w_example * objective / supervised tokens of the effective batch.
        `objective(tokens)` gives a loss per supervised token, pointwise (default: `tokens.nll`); it may use `tokens.nll`,
        `.logp` (both differentiable), `.p` (detached), `.entropy(top_k)`, `.logits`, `.example`, `.task`, `.lr`, `.progress`.
        `example_weights(batch)` gives a weight >= 0 per example from the whole effective batch: `batch.nll` (mean per
        token), `.tokens`, `.ids`, `.tasks`. Both are pure and are not run again on replay.
        """
        ...

    def validate(
        self,
        tasks: Iterable[str] | None = None,
        *,
        metric: Metric | None = None,
        n: int | None = None,
        at: Checkpoint | None = None,
    ) -> dict[str, Score]:
        """Look at tasks' validation items (billed; the same weights are never paid twice). `n` takes the first n."""
        ...

    def checkpoint(self) -> Checkpoint: ...
    def rollback(self, to: Checkpoint, *, optimizer: Literal["restore", "fresh"] = "restore") -> None: ...
    def answer(self, checkpoint: Checkpoint | None = None) -> None:
        """ "Score this if I end now": free. Without it, the weights as they stand at the end are scored."""
        ...

    def fork(
        self, phase: ForkPhase, *, start: Literal["base", "now"] | Checkpoint = "base", budget: str | int | None = None
    ) -> AbstractContextManager[Lab]:
        """`with lab.fork("proxy", budget="0.1 budget") as child:` - a lab with weights of its own, booked to its phase.

        It starts from the base, from here (`now`, with the optimizer and the place in the data), or from a checkpoint.
        With a budget (FLOPs, or a share of this lab's) it has its own LR clock over it and ends quietly when it is used
        up; without one it trains at this lab's rate of this moment. Afterwards this lab stands where it stood; the
        fork's checkpoints stay.
        """
        ...

    def draw(self, mixture: Mixture, k: int = 1) -> list[Example]:
        """The next k effective batches that training on `mixture` would see; train on them with `just`."""
        ...

    def uniform(self, tasks: Iterable[str] | None = None) -> Mixture: ...
    def proportional(self, tasks: Iterable[str] | None = None) -> Mixture: ...
    def temperature(self, tasks: Iterable[str] | None = None, tau: float = 1.0) -> Mixture: ...
    def only(self, task: str) -> Mixture: ...
    def mixture(self, weights: Mapping[str, float]) -> Mixture: ...
    def just(self, examples: Sequence[Example]) -> Mixture: ...
    def sample(self, task: str, n: int, split: Split = "train") -> list[Example]:
        """`n` different examples of a task, drawn from the stream named (sample, task, split)."""
        ...

    def log(self, name: str, value: object) -> None:
        """Put a small JSON value or array into the record's events (64 kB a name, 1 MB a run)."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """A frozen dataclass whose fields are the method's hyperparameters with the paper's defaults."""

    def run(self, lab: Lab) -> None: ...
