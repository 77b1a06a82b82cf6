"""All that a strategy may import: the `Lab` protocol, the values that its verbs take and return, and lenses.

A strategy is a frozen dataclass with `run(lab)`; it holds the plot, the lab holds the instruments. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np

from harness.errors import BudgetExhausted, HarnessError
from harness.values import (
    REST,
    Checkpoint,
    Example,
    ExampleWeights,
    ForkPhase,
    History,
    Keep,
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
    inf,
)

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
    "Lens",
    "Look",
    "Metric",
    "Mixture",
    "Objective",
    "OptimizerState",
    "Score",
    "Split",
    "Strategy",
    "TaskInfo",
    "check_weights",
    "inf",
    "lens",
]


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


class Lens:
    """A lab seen through callbacks: every `train` gets them, everything else goes on to the lab within.

    A method that weighs tokens or examples is a lens: `wrap(self, lab)` returns `lens(lab, objective=...)`. Two lenses
    that set the same callback are refused. Forks are not seen through it.
    """

    def __init__(self, lab: Lab, **callbacks: Any) -> None:
        self._lab, self._callbacks = lab, {k: f for k, f in callbacks.items() if f is not None}

    def train(self, mixture: Mixture, length: str = REST, **arguments: Any) -> History:
        for name in self._callbacks:
            if arguments.get(name) is not None:
                raise HarnessError(f"two parts of this strategy set {name!r}: they cannot be combined")
        return self._lab.train(mixture, length, **(arguments | self._callbacks))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lab, name)


def lens(lab: Lab, *, objective: Objective | None = None, example_weights: ExampleWeights | None = None) -> Lab:
    """`lab` with these callbacks in every `train`."""
    return cast(Lab, Lens(lab, objective=objective, example_weights=example_weights))
