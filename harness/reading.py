"""Which parameters `gradients(modules=...)` names, and how the gradient of each is read: as it is, or as a sketch.

A sketch of width d reads the gradient G (p, q) of a matrix as R' G S, with R (p, d) and S (q, d) random signs over sqrt(d);
a side of at most d is left as it is. It is made of the factors of G before G exists, as the gradient of a low-rank
adapter is: T tokens take 2T (d p + d q + d^2) FLOPs in place of 2T pq, and d^2 numbers in place of pq (arXiv 2405.13954).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from harness.errors import RunFailed
from harness.factors import Meter, signs

WIDTH = 16  # d

Parameters = dict[str, nn.Parameter]


def select(engine: Any, modules: str | Sequence[str]) -> tuple[Parameters, int | None]:
    """The trained parameters that `modules` names, in the model's order, and the width of their sketch, or None.

    Raises RunFailed if it names none.
    """
    trained: Parameters = {n: p for n, p in engine.lm.named_parameters() if p.requires_grad}
    if modules == "all":
        return trained, None
    if isinstance(modules, str):
        kind, _, count = modules.partition(":")
        layers = engine.arch.layers
        if kind not in ("last", "sketch") or not count.isdecimal() or not int(count):
            raise RunFailed(
                f"gradients: modules={modules!r}; expected 'last:n', 'sketch:n', 'all' or a list of prefixes of names"
            )
        wanted = range(max(0, layers - int(count)), layers)
        # Matrices only: norms and biases are vectors. Adapters are narrow already.
        found = {n: p for n, p in trained.items() if engine.arch.block_of(n) in wanted and p.ndim > 1}
        return found, WIDTH if kind == "sketch" and not engine.arch.rank else None
    found = {n: p for n, p in trained.items() if n.startswith(tuple(modules))}
    for prefix in modules:
        if not any(n.startswith(prefix) for n in found):
            raise RunFailed(
                f"gradients: no trained parameter begins with {prefix!r}; names are like {next(iter(trained))!r}"
            )
    if not found:
        raise RunFailed("gradients: an empty list of modules")
    return found, None


class Reading:
    """How one parameter's gradients are read. Those of one name, seed and width can be compared."""

    def __init__(self, name: str, parameter: nn.Parameter, width: int | None, seed: int) -> None:
        self.p, self.q = parameter.shape if parameter.ndim == 2 else (1, parameter.numel())
        self._name, self._seed, self._width = name, seed, width
        self._lengths = self.p, self.q
        through = 0
        if width is not None:
            through = sum(side * width for side in self._lengths if side > width)
            self.p, self.q = min(self.p, width), min(self.q, width)
        self.size = self.p * self.q
        self.work = through + self.size  # elements that a token is multiplied with to give the gradient

    def read(self, left: torch.Tensor, right: torch.Tensor, meter: Meter) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors (T, p) and (T, q) as they are to be multiplied."""
        found = []
        for factor, k, side in zip((left, right), self._lengths, ("left", "right"), strict=True):
            if self._width is not None and k > self._width:
                meter.product(len(factor), k, self._width)
                factor = factor @ _signs(k, self._width, self._seed, side, self._name, factor.device)
            found.append(factor)
        return found[0], found[1]


@lru_cache(2048)
def _signs(k: int, d: int, seed: int, side: str, name: str, device: torch.device) -> torch.Tensor:
    """(k, d); the same at every selection of a run."""
    found: torch.Tensor = signs((k, d), seed, side, name) / d**0.5
    return found.to(device)
