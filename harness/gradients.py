"""Gradients of single examples: of each one's mean token NLL, by the parameters asked for, one document at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from harness.data import Item
from harness.engine import Engine
from harness.errors import RunFailed
from harness.ledger import Cost
from harness.packing import packs

Array = np.ndarray[Any, np.dtype[np.float32]]

MEMORY_BYTES = 2**30  # rows held in memory; more go to a temporary file
GROUP_BYTES = 2**28  # rows projected at a time
BLOCK = 2**22  # elements of the projection that exist at a time


class Gradients:
    """One gradient (P,) an example, computed at the first use and kept; `hardware` grows by what was computed.

    `modules`: "last:n" = the matrices of the last n blocks (under LoRA their adapters), "all" = all that is trained, or
    prefixes of names as in the model. `normalize` scales each row to length 1. The model, its gradients and the
    optimizer stay as they are; the rows are those of the weights at the first use.
    """

    def __init__(
        self, engine: Engine, items: Sequence[Item], modules: str | Sequence[str] = "last:3", normalize: bool = False
    ) -> None:
        self.engine, self.items, self.normalize = engine, list(items), normalize
        self.parameters = select(engine, modules)
        self.size = sum(p.numel() for p in self.parameters.values())
        head = engine.lm.get_output_embeddings().weight
        names = [n for n, p in self.parameters.items() if n != "lm_head.weight"]
        self._part = engine.arch.backward_of(names, any(p is head for p in self.parameters.values()))
        self.hardware = 0
        self._kept: Array | None = None

    def cost(self, project: int | None = None) -> Cost:
        """Model FLOPs of all rows, and of their projection if asked for; the first use of a handle bills them."""
        model = sum(self.engine.arch.gradient(self._part, item.tokens, item.supervised) for item in self.items)
        model += self.projection_cost(project).model if project else 0
        return Cost(model, 0, sum(item.tokens for item in self.items))

    def projection_cost(self, dimensions: int) -> Cost:
        """2 P D an example."""
        flops = 2 * self.size * dimensions * len(self.items)
        return Cost(flops, flops)

    def gram_cost(self, n: int, m: int | None = None) -> Cost:
        """2nmP for n x m products of P numbers each; n (n + 1) P for n with each other."""
        return Cost(n * (n + 1 if m is None else 2 * m) * self.size)

    def rows(self, project: int | None = None, seed: int = 0) -> Array:
        """(n, P), or (n, D) after a random projection that keeps inner products in expectation (Rademacher / sqrt D).

        Rows of different handles are comparable if P, D and seed are the same.
        """
        if project is None:
            return np.array(self._rows())
        if project < 1:
            raise RunFailed(f"gradients: project={project}; expected at least 1 dimension")
        rows = self._rows()
        out = np.zeros((len(rows), project), dtype=np.float32)
        step = max(1, GROUP_BYTES // (4 * self.size))
        for start in range(0, len(rows), step):
            out[start : start + step] = _project(rows[start : start + step], project, seed)
        self.hardware += self.projection_cost(project).model
        return out

    def gram(self, other: Gradients | None = None) -> Array:
        """Inner products (n, m) with the rows of `other`, or with each other."""
        ours = self._rows()
        theirs = ours if other is None else other._rows()
        if ours.shape[1] != theirs.shape[1]:
            raise RunFailed(f"gradients: {ours.shape[1]} and {theirs.shape[1]} parameters; ask for the same modules")
        found = np.zeros((len(ours), len(theirs)))
        width = max(1, GROUP_BYTES // (8 * max(1, len(ours) + len(theirs))))
        for start in range(0, ours.shape[1], width):
            part = slice(start, start + width)
            found += ours[:, part].astype(np.float64) @ theirs[:, part].astype(np.float64).T
        self.hardware += 2 * len(ours) * len(theirs) * self.size
        return found.astype(np.float32)

    def task_gram(self, other: Gradients | None = None) -> Array:
        """Inner products (c, c') of the tasks' mean rows, tasks in order of names."""
        ours = self.mean("task")
        theirs = ours if other is None else other.mean("task")
        found = [[np.dot(a.astype(np.float64), b.astype(np.float64)) for b in theirs.values()] for a in ours.values()]
        self.hardware += 2 * len(ours) * len(theirs) * self.size
        return np.array(found, dtype=np.float32)

    def mean(self, by: Literal["task"] = "task") -> dict[str, Array]:
        """The mean row (P,) of each task's examples."""
        if by != "task":
            raise RunFailed(f"gradients: mean(by={by!r}); known: 'task'")
        sums: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for item, row in zip(self.items, self._rows(), strict=True):
            sums[item.task] = sums.get(item.task, 0.0) + row.astype(np.float64)
            counts[item.task] = counts.get(item.task, 0) + 1
        return {task: (sums[task] / counts[task]).astype(np.float32) for task in sorted(sums)}

    def compute(self) -> None:
        """Compute the rows now, at the weights that stand."""
        self._rows()

    def _rows(self) -> Array:
        if self._kept is None:
            shape = (len(self.items), self.size)
            if 4 * shape[0] * shape[1] <= MEMORY_BYTES:
                kept: Array = np.empty(shape, dtype=np.float32)
            else:
                with tempfile.TemporaryFile() as file:
                    kept = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
            for i, row in enumerate(self._each()):
                kept[i] = row
            self._kept = kept
        return self._kept

    def _each(self) -> Iterator[Array]:
        """Rows one by one, from one forward and backward pass a document."""
        engine, parameters = self.engine, list(self.parameters.values())
        with _only(engine.lm, parameters):
            for item in self.items:
                (pack,) = packs([item], item.tokens, 0)
                pack = pack.to(engine.device)
                with engine.accelerator.autocast():
                    scores = engine.accelerator.unwrap_model(engine.model)(pack)
                loss = nn.functional.cross_entropy(scores.float(), pack.targets)
                found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                row = torch.cat([g.detach().float().flatten() for g in found])
                if not bool(torch.isfinite(row).all()):
                    raise RunFailed(f"gradients: that of example {item.id} is not finite")
                if self.normalize:
                    row = row / row.norm().clamp_min(torch.finfo(torch.float32).tiny)
                self.hardware += engine.arch.padded_gradient(self._part, 1, item.tokens, item.supervised)
                yield row.cpu().numpy()


def select(engine: Engine, modules: str | Sequence[str]) -> dict[str, nn.Parameter]:
    """The trained parameters that `modules` names, in the model's order. Raises RunFailed if it names none."""
    trained: dict[str, nn.Parameter] = {n: p for n, p in engine.lm.named_parameters() if p.requires_grad}
    if modules == "all":
        return trained
    if isinstance(modules, str):
        kind, _, count = modules.partition(":")
        layers = engine.arch.layers
        if kind != "last" or not count.isdecimal() or not int(count):
            raise RunFailed(f"gradients: modules={modules!r}; expected 'last:n', 'all' or a list of prefixes of names")
        wanted = range(max(0, layers - int(count)), layers)
        # Matrices only: norms and biases are vectors.
        return {n: p for n, p in trained.items() if engine.arch.block_of(n) in wanted and p.ndim > 1}
    found = {n: p for n, p in trained.items() if n.startswith(tuple(modules))}
    for prefix in modules:
        if not any(n.startswith(prefix) for n in found):
            raise RunFailed(
                f"gradients: no trained parameter begins with {prefix!r}; names are like {next(iter(trained))!r}"
            )
    if not found:
        raise RunFailed("gradients: an empty list of modules")
    return found


@contextmanager
def _only(lm: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within it, only these parameters need a gradient, so that the backward pass ends at the lowest of them.

    Nothing is recomputed: one document's activations fit, and checkpointing is off outside training mode.
    """
    before, training = [(p, p.requires_grad) for p in lm.parameters()], lm.training
    lm.eval()
    try:
        for p, _ in before:
            p.requires_grad_(False)
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        for p, flag in before:
            p.requires_grad_(flag)
        lm.train(training)


def _project(rows: Array, dimensions: int, seed: int) -> Array:
    """rows (g, P) times a (P, D) matrix of random signs / sqrt(D), drawn in blocks that depend on seed, P and D only."""
    generator = torch.Generator().manual_seed(seed)
    height = max(1, BLOCK // dimensions)
    out = torch.zeros(len(rows), dimensions)
    for start in range(0, rows.shape[1], height):
        part = torch.from_numpy(np.array(rows[:, start : start + height]))
        signs = torch.randint(0, 2, (part.shape[1], dimensions), generator=generator, dtype=torch.int8)
        out += part @ (2.0 * signs - 1.0)
    projected: Array = (out / dimensions**0.5).numpy()
    return projected
