"""An engine and a store without weights, for plans: real costs on real tokens, made-up losses.

The model is a skeleton of names and shapes. What stands for its weights is how often each task was passed over, so that
checkpoints, rollbacks and forks go back to what they should; their sizes are those of the real tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.checkpoint import LIMIT, Store, Tensors, n_bytes
from harness.curves import Scenario
from harness.data import Item
from harness.engine import MICRO_TOKENS, Step
from harness.errors import RunFailed
from harness.flops import Arch
from harness.ledger import Cost
from harness.lora import LoraSpec, inject
from harness.ports import Scope
from harness.sampler import stream
from harness.sketches import SketchedGradients, distribution, spread, total
from harness.tokens import Frame, weights_of
from harness.values import Array, Distribution, ExampleWeights, Objective


def skeleton(folder: Path, lora: LoraSpec | None) -> Any:
    """The model of a folder's config as the engine would train it, all tensors on the meta device."""
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        lm = auto.from_config(AutoConfig.from_pretrained(folder))
        if lora:
            inject(lm, lora, 0)
    return lm


@dataclass(frozen=True)
class Shown:
    """One evaluated item: summed NLL (nats), supervised tokens, and its share of an exact match."""

    nll: float
    supervised: int
    match: float


class Weightless:
    """Implements `ports.Engine`. `horizon`: the passes over the data that the budget pays for."""

    def __init__(
        self,
        lm: Any,
        arch: Arch,
        tokenizer: Any,
        train: Mapping[str, list[Item]],
        validation: Mapping[str, list[Item]],
        scenario: Scenario,
        horizon: float,
    ) -> None:
        self.lm, self.arch, self.tokenizer = lm, arch, tokenizer
        self.scenario, self.horizon = scenario, horizon
        self.tasks = sorted(train)
        self.sizes = {task: len(train[task]) for task in self.tasks}
        self.rank = {task: (i + 0.5) / len(self.tasks) for i, task in enumerate(self.tasks)}
        self.passes = dict.fromkeys(self.tasks, 0.0)
        self.moved = 0  # optimizer steps behind the moments
        self.steps, self.looks = 0, 0
        self._every = [item for group in (train, validation) for items in group.values() for item in items]
        self._train, self._forward = cache(arch.train_step), cache(arch.forward)
        self.trained = sum(p.numel() for p in lm.parameters() if p.requires_grad)

    @cached_property
    def _gold(self) -> dict[tuple[int, ...], Item]:
        """Items by their prompts; of a large suite it takes a while, and only what generates asks for it."""
        return {item.ids[: -item.supervised]: item for item in self._every}

    # --- what things cost

    def training_cost(self, items: list[Item], hardware: int = 0) -> Cost:
        return Cost(sum(self._train(i.tokens, i.supervised) for i in items), hardware, sum(i.tokens for i in items))

    def forward_cost(self, items: list[Item], hardware: int = 0) -> Cost:
        return Cost(sum(self._forward(i.tokens, i.supervised) for i in items), hardware, sum(i.tokens for i in items))

    def generation_cost(self, items: list[Item], new: int) -> int:
        return sum(self.arch.generate(len(item.ids) - item.supervised, new) for item in items)

    # --- what is seen

    def _loss(self, task: str) -> float:
        return self.scenario.loss(self.passes[task], self.horizon, self.rank[task])

    def _match(self, task: str) -> float:
        return self.scenario.match(self.passes[task], self.horizon, self.rank[task])

    def _nll(self, item: Item) -> float:
        return self._loss(item.task) * total(self.scenario.name, item.id, item.supervised)

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
    ) -> Step:
        """An objective is not called: there are no tensors. Example weights are asked for; they may keep statistics."""
        nll = [self._nll(item) for item in items]
        if example_weights:
            frame = Frame(items, references, lr, scope.progress if scope else math.nan, scope)
            weights_of(example_weights, frame, torch.tensor(nll, dtype=torch.float64))
        for item in items:
            self.passes[item.task] += 1 / self.sizes[item.task]
        self.steps += 1
        self.moved += 1
        return Step(tuple(nll), 1.0, self.training_cost(items))

    def evaluate(self, items: list[Item]) -> tuple[list[Shown], int]:
        """A match is the task's share, not yes or no: a mean over few items would be flat where the curve is not."""
        self.looks += 1
        match = {task: self._match(task) for task in self.tasks}
        return [Shown(self._nll(item), item.supervised, match[item.task]) for item in items], 0

    def logprobs(self, items: list[Item]) -> tuple[list[Array], int]:
        scene = self.scenario.name
        found = [-self._loss(i.task) * spread(scene, i.id, i.supervised) for i in items]
        return [row.astype(np.float32) for row in found], 0

    def distributions(
        self, items: list[Item], top_k: int, support: Sequence[Array] | None
    ) -> tuple[list[Distribution], int]:
        vocabulary = int(self.lm.get_output_embeddings().weight.shape[0])
        logp, _ = self.logprobs(items)
        wanted: Sequence[Array | None] = [None] * len(items) if support is None else support
        rows = zip(items, logp, wanted, strict=True)
        return [distribution(item, np.exp(p), top_k, vocabulary, w) for item, p, w in rows], 0

    def gradients(
        self, items: list[Item], modules: str | Sequence[str], normalize: bool, seed: int
    ) -> SketchedGradients:
        return SketchedGradients(self, items, modules, normalize)

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
    ) -> list[list[list[int]]]:
        """The reference, its first token wrong where the scenario has the item wrong; or one token up to the limit."""
        rng = stream(seed, "plan", "generate")
        found = [[self._response(tuple(p), max_new_tokens, stop, rng) for _ in range(n)] for p in prompts]
        rows = [(len(p), len(new)) for p, group in zip(prompts, found, strict=True) for new in group]
        for length in sorted({p for p, _ in rows}):
            same = [new for p, new in rows if p == length]
            size = max(1, MICRO_TOKENS["cpu"] // (length + max_new_tokens))
            for start in range(0, len(same), size):
                self._decode(length, same[start : start + size], meter)
        return found

    def _response(
        self, prompt: tuple[int, ...], limit: int, stop: Callable[[list[int]], bool] | None, rng: np.random.Generator
    ) -> list[int]:
        item = self._gold[prompt]
        gold = list(item.ids[-item.supervised :])
        wrong = (gold[0] + 1) % int(self.lm.get_output_embeddings().weight.shape[0])
        if self.scenario.rambles:
            return [wrong] * limit
        if rng.random() >= self._match(item.task):
            gold[0] = wrong
        new: list[int] = []
        for token in gold[:limit]:
            new.append(token)
            if stop is not None and stop(new):
                break
        return new

    def _decode(self, prompt: int, lengths: Sequence[int], meter: Callable[[Cost], None]) -> None:
        for t in range(max(lengths)):
            live = sum(length > t for length in lengths)
            once = self.arch.decode(prompt + t) if t else self.arch.prefill(prompt)
            meter(Cost(once * live, 0, (1 if t else prompt) * live))

    # --- what stands for weights and optimizer; the nameless meta tensors give them their size

    def weights(self, wait: bool = True) -> Tensors:
        passes = torch.tensor([self.passes[t] for t in self.tasks], dtype=torch.float64)
        return {"passes": passes, "weights": torch.empty(self.trained, device="meta")}

    def base(self) -> Tensors:
        return {"passes": torch.zeros(len(self.tasks), dtype=torch.float64)}

    def load_weights(self, tensors: Tensors) -> None:
        self.passes = dict(zip(self.tasks, tensors["passes"].tolist(), strict=True))

    def load_base(self) -> None:
        self.load_weights(self.base())

    @contextmanager
    def wearing(self, tensors: Tensors) -> Iterator[None]:
        mine = self.passes
        self.load_weights(tensors)
        try:
            yield
        finally:
            self.passes = mine

    def moments(self, wait: bool = True) -> Tensors:
        held = 2 * self.trained if self.moved else 0
        return {"moved": torch.tensor(self.moved), "moments": torch.empty(held, device="meta")}

    def load_moments(self, tensors: Tensors) -> None:
        self.moved = int(tensors["moved"])

    def aside(self) -> None:
        """There is no device to leave."""

    def back(self) -> None:
        """Nor one to come back to."""

    def fresh_optimizer(self) -> None:
        self.moved = 0


class WeightlessStore(Store):
    """Checkpoints in memory; `peak_bytes` is what they would take on disk."""

    def __init__(self) -> None:
        self.peak = self.peak_bytes = 0
        self._held: dict[str, tuple[dict[str, Tensors], dict[str, Any]]] = {}

    def names(self) -> list[str]:
        return sorted(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def save(self, name: str, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
        if len(self._held) >= LIMIT:
            raise RunFailed(f"the run would hold {LIMIT} checkpoints already; a strategy keeps fewer")
        self._held[name] = (groups, state)
        self.peak = max(self.peak, len(self._held))
        self.peak_bytes = max(self.peak_bytes, sum(size(held) for held, _ in self._held.values()))

    def load(self, name: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
        return self._held[name]

    def drop(self, name: str) -> None:
        self._held.pop(name, None)


def size(groups: Mapping[str, Tensors]) -> int:
    """Bytes of groups of tensors."""
    return sum(n_bytes(tensors) for tensors in groups.values())
