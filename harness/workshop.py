"""The engine with all that it can be asked: training and looks from `Engine`, probes, gradients and generation beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness import generate, gradients, probe, ranks
from harness.data import Item
from harness.engine import Engine
from harness.ledger import Cost
from harness.values import Array, Distribution


class Workshop(Engine):
    """Implements `ports.Engine`."""

    def logprobs(self, items: list[Item]) -> tuple[list[Array], int]:
        return ranks.joined(*self.fitted(items, lambda: probe.logprobs(self, items)))

    def distributions(
        self, items: list[Item], top_k: int, support: Sequence[Array] | None
    ) -> tuple[list[Distribution], int]:
        return ranks.joined(*self.fitted(items, lambda: probe.distributions(self, items, top_k, support)))

    def gradients(
        self, items: list[Item], modules: str | Sequence[str], normalize: bool, seed: int
    ) -> gradients.Gradients:
        return gradients.Gradients(self, items, modules, normalize, seed)

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
        found, _ = generate.generate(self, prompts, max_new_tokens, temperature, top_p, n, seed, stop=stop, meter=meter)
        return found
