"""What the core needs of an engine. `setup` gives it the real one; plans and tests give it one without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from harness.checkpoint import Tensors
from harness.data import Item
from harness.ledger import Cost
from harness.values import Array, Distribution, ExampleWeights, Objective


@dataclass(frozen=True)
class Scope:
    """What the callbacks of one training step may read and write beside the batch; `rng` is keyed by seed, verb and step."""

    table: Any  # of Columns
    state: Any
    rng: Any
    progress: float = 0.0


class Rows(Protocol):
    """Gradients of single examples, computed at the first use and kept. See harness.gradients."""

    @property
    def hardware(self) -> int: ...

    def cost(self, project: int | None = None) -> Cost: ...
    def projection_cost(self, dimensions: int) -> Cost: ...
    def gram_cost(self, n: int, m: int | None = None) -> Cost: ...
    def compute(self) -> None: ...
    def rows(self, project: int | None = None, seed: int = 0) -> Array: ...
    def gram(self, other: Any = None) -> Array: ...
    def task_gram(self, other: Any = None) -> Array: ...
    def mean(self, by: Literal["task"] = "task") -> dict[str, Array]: ...


class Engine(Protocol):
    """One model and one optimizer. `references` are gold log-probabilities by name, one array an item; `others` weights."""

    tokenizer: Any

    def step(
        self,
        items: list[Item],
        lr: float,
        objective: Objective | None = None,
        example_weights: ExampleWeights | None = None,
        *,
        scope: Scope | None = None,
        references: Mapping[Any, Sequence[Array]] | None = None,
        others: Mapping[Any, Tensors] | None = None,
        weights: Sequence[float] | None = None,
    ) -> Any: ...
    def evaluate(self, items: list[Item]) -> tuple[list[Any], int]: ...
    def logprobs(self, items: list[Item]) -> tuple[list[Array], int]: ...
    def distributions(
        self, items: list[Item], top_k: int, support: Sequence[Array] | None
    ) -> tuple[list[Distribution], int]: ...
    def gradients(self, items: list[Item], modules: str | Sequence[str], normalize: bool) -> Rows: ...
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        n: int,
        seed: int,
        meter: Callable[[Cost], None],
        stop: Callable[[list[int]], bool] | None,
    ) -> list[list[list[int]]]: ...
    def training_cost(self, items: list[Item], hardware: int = 0) -> Cost: ...
    def forward_cost(self, items: list[Item], hardware: int = 0) -> Cost: ...
    def weights(self) -> Tensors: ...
    def wearing(self, tensors: Tensors) -> AbstractContextManager[None]: ...
    def load_weights(self, tensors: Tensors) -> None: ...
    def load_base(self) -> None: ...
    def base(self) -> Tensors: ...
    def moments(self) -> Tensors: ...
    def load_moments(self, tensors: Tensors) -> None: ...
    def fresh_optimizer(self) -> None: ...
