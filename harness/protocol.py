"""The protocols of the strategy's world: `Lab` and what it hands out, and `Strategy`. Strategies import them from `api`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from harness.values import (
    REST,
    Array,
    Checkpoint,
    Distribution,
    Example,
    ExampleWeights,
    ForkPhase,
    Generation,
    History,
    Keep,
    Metric,
    Mixture,
    Objective,
    OptimizerState,
    Score,
    Select,
    Split,
    TaskInfo,
    inf,
)


class Budget(Protocol):
    """FLOPs of this lab's cap: `total`, `spent`, `remaining` (integers)."""

    @property
    def total(self) -> int: ...
    @property
    def spent(self) -> int: ...
    @property
    def remaining(self) -> int: ...


class Table(Protocol):
    """Per-example columns, float32, NaN where nobody wrote; checkpointed and rolled back with the weights.

    The lab keeps `nll` (mean token NLL at the last training visit) and `visits`. Callbacks see the rows of their batch.
    """

    def get(self, column: str, examples: Sequence[Example]) -> Array:
        """Values (n,)."""
        ...

    def set(self, column: str, examples: Sequence[Example], values: Any) -> None: ...
    def top(self, column: str, k: int, *, tasks: Iterable[str] | None = None, smallest: bool = False) -> list[Example]:
        """The k examples with the largest values, largest first; ties in the order of tasks and rows; NaN never."""
        ...

    def where(
        self, column: str, *, above: float = -inf, below: float = inf, tasks: Iterable[str] | None = None
    ) -> list[Example]:
        """The examples with above < value < below, in the order of tasks and rows; NaN never."""
        ...


class Gradients(Protocol):
    """Per-example gradients at the weights of their moment: billed at the first use, the rows once.

    Use them before the weights move on, or ask for them `at` a checkpoint.
    """

    def gram(self, other: Any = None, by: Literal["task"] | None = None) -> Array:
        """Inner products (n, m) with the rows of `other`, or with each other; by="task": of the tasks' mean rows."""
        ...

    def rows(self, project: int | None = None) -> Array:
        """(n, P), or (n, D) after a random projection that keeps inner products in expectation (billed)."""
        ...

    def mean(self, by: Literal["task"] = "task", project: int | None = None) -> dict[str, Array]:
        """The mean row of each task's examples."""
        ...


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

    @property
    def examples(self) -> Table:
        """What is known of each training example. Reads are journalled."""
        ...

    @property
    def state(self) -> MutableMapping[str, Array]:
        """Named arrays that callbacks (`batch.state`, `pool.state`) and `run` share; rolled back with the weights."""
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
        pool: int = 1,
        select: Select | None = None,
        references: Sequence[Checkpoint] = (),
        reference_logits: Sequence[Checkpoint] = (),
        pause: str | None = None,
        after: History | None = None,
    ) -> History:
        """Train on whole effective batches of `mixture`; what does not fit under the cap is cut (`history.cut`).

        With `eval_every`, all tasks are validated (billed) at step 0, on that grid and at the end. `keep` says which
        looks hold a checkpoint: the last, none, the best pooled, or `peaks` = best of each task of the mixture and best
        pooled. They stay available until the next `train` of this lab, unless answered; `checkpoint()` is for longer.

        The loss of a step is the sum over tokens of w_example * objective / supervised tokens of the effective batch.
        `objective(tokens)` gives a loss per supervised token, pointwise (default: `tokens.nll`); it may use `tokens.nll`,
        `.logp` (both differentiable), `.p` (detached), `.entropy(top_k)`, `.logits`, `.targets`, `.example`, `.task`,
        `.column(name)` of the table, `.lr`, `.progress`; `.reference(at)`, log-probabilities of the gold tokens under a
        checkpoint of `references` (a forward pass billed once per example version), and `.reference_logits(at)`, the
        logits under one of `reference_logits` (a forward pass billed in every step).
        `example_weights(batch)` gives a weight >= 0 per example from the whole effective batch: `batch.nll` (mean per
        token), `.tokens`, `.ids`, `.task`, `.table`, `.state`, `.rng`, `.lr`, `.progress`.
        `select(pool)` is given `pool` effective batches of candidates before an update and returns a `Selection` of k
        effective batches for k updates; `pool.nll` and its looks `.logprobs`, `.distributions`, `.gradients` are billed
        when used. Callbacks keep nothing of their own, since they are not run again on replay: `.table` and `.state` do.

        `pause`, in steps or epochs from the training's beginning, stops it early without a look: `history.paused`. The
        same call with `after=history` goes on as if nothing had happened: length, grid, looks and `keep` count from the
        beginning, and its history is of the whole. For methods that do something between steps at times of their own.
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
        """Look at tasks' validation items, billed; the same look at the same weights is paid once. `n` takes the first n,
        which is another look than at all.

        `metric`: "loss" and "exact_match" come from one forward pass over the reference; "generate" grades greedy answers
        as the final scoring would; None is each task's own signal. Room is asked for answers of full length.
        """
        ...

    def logprobs(self, examples: Sequence[Example], *, at: Checkpoint | None = None) -> list[Array]:
        """Log-probabilities of each example's supervised tokens (S,), in nats; paid once per weights and version.

        `at` looks through another checkpoint - a reference, a proxy, an earlier self - without moving.
        """
        ...

    def distributions(
        self,
        examples: Sequence[Example],
        *,
        top_k: int = 64,
        support: Sequence[Array] | Sequence[Distribution] | None = None,
        at: Checkpoint | None = None,
    ) -> list[Distribution]:
        """Next-token distributions at each example's supervised tokens: the `top_k` likeliest, or those of `support`."""
        ...

    def gradients(
        self,
        examples: Sequence[Example],
        *,
        modules: str | Sequence[str] = "last:3",
        normalize: bool = False,
        at: Checkpoint | None = None,
    ) -> Gradients:
        """Gradients of each example's mean token NLL by the parameters of `modules`.

        "last:n" = the matrices of the last n blocks (under LoRA their adapters), "sketch:n" = the same matrices, the
        gradient of each read through random signs as 16 x 16 numbers at most (under LoRA as it is): inner products are
        those of "last:n" in expectation and cost far less; "all"; or a list of prefixes of names.
        """
        ...

    def generate(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        n: int = 1,
    ) -> list[Generation]:
        """`n` sampled responses to each example's prompt, example by example; temperature 0 is greedy."""
        ...

    def grade(self, example: Example, text: str) -> bool:
        """Whether the suite's scorer would take `text` as this example's answer; free."""
        ...

    def checkpoint(self, *, pin: bool = True) -> Checkpoint:
        """These weights, for the rest of the run; with pin=False as long as a `train` keeps its own."""
        ...

    def rollback(self, to: Checkpoint, *, optimizer: Literal["restore", "fresh"] = "restore") -> None: ...
    def answer(self, checkpoint: Checkpoint | None = None) -> None:
        """ "Score this if I end now": free. Without it, the weights as they stand at the end are scored."""
        ...

    def fork(
        self,
        phase: ForkPhase,
        *,
        start: Literal["base", "now"] | Checkpoint = "base",
        model: str | None = None,
        budget: str | int | None = None,
    ) -> AbstractContextManager[Lab]:
        """`with lab.fork("proxy", budget="0.1 budget") as child:` - a lab with weights of its own, booked to its phase.

        It starts from the base, from here (`now`, with the optimizer and the place in the data), or from a checkpoint.
        With a budget (FLOPs, or a share of this lab's) it has its own LR clock over it and ends quietly when it is used
        up; without one it trains at this lab's rate of this moment (at its peak, if this lab has not trained yet).
        Afterwards this lab stands where it stood; the fork's checkpoints stay. With `model`, a name as `--model` takes
        it, it is a lab of that model on the same examples in that model's tokens: only a fork of it can look through its
        checkpoints.
        """
        ...

    def draw(self, mixture: Mixture, k: int = 1) -> list[Example]:
        """The next k effective batches that training on `mixture` would see; train on them with `just`."""
        ...

    def rewrite(self, example: Example, response: str) -> Example | None:
        """Train on another response from now on; undone by a rollback to before. None if it is empty or does not fit."""
        ...

    def uniform(self, tasks: Iterable[str] | None = None) -> Mixture: ...
    def proportional(self, tasks: Iterable[str] | None = None) -> Mixture: ...
    def temperature(self, tasks: Iterable[str] | None = None, tau: float = 1.0) -> Mixture: ...
    def only(self, task: str) -> Mixture: ...
    def mixture(self, weights: Mapping[str, float]) -> Mixture: ...
    def just(self, examples: Sequence[Example]) -> Mixture:
        """Exactly these examples in this order, each with its current response."""
        ...

    def counts(self, numbers: Mapping[str, int], *, replacement: bool = False) -> Mixture:
        """A random subset with so many examples of each task, fixed from now on; an epoch is one shuffled pass."""
        ...

    def sample(self, task: str, n: int, split: Split = "train") -> list[Example]:
        """`n` different examples of a task, drawn from the stream named (sample, task, split); the test split is not here."""
        ...

    def log(self, name: str, value: object) -> None:
        """Put a small JSON value or array into the record's events (64 kB a name, 1 MB a run)."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """A frozen dataclass whose fields are the method's hyperparameters with the paper's defaults."""

    def run(self, lab: Lab) -> None: ...
