"""Gradients of single examples: of each one's mean token NLL, by the parameters asked for, many documents at a time.

One forward pass over packed documents, which the block-causal mask keeps apart, and one backward pass down to the lowest
module asked for give what entered each matrix and what came back to its output; `factors` makes the rest of it. No
weight's own gradient is computed. Embeddings, norms and the head are left to autograd, one document at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.data import Item
from harness.engine import Engine
from harness.errors import RunFailed
from harness.factors import Factors, Meter, Part, Rows, Spans, Store, cut, outer, products, signs
from harness.ledger import Cost
from harness.packing import Pack
from harness.reading import Reading, select

Array = np.ndarray[Any, np.dtype[np.float32]]

MEMORY_BYTES = 2**30  # held in memory; more goes to temporary files


class Gradients:
    """One gradient (P,) an example, caught at the first use and kept; `hardware` grows by what was computed.

    `modules`: "last:n" = the matrices of the last n blocks (under LoRA their adapters), "sketch:n" = the same, each
    matrix' gradient read as a sketch (see `reading`; under LoRA as it is), "all" = all that is trained, or prefixes of
    names as in the model. `normalize` scales each row to length 1. The model, its gradients and the optimizer stay as
    they are; the rows are those of the weights at the first use. `seed` fixes sketches: rows of different handles are
    comparable if modules and seed are the same.
    """

    def __init__(
        self,
        engine: Engine,
        items: Sequence[Item],
        modules: str | Sequence[str] = "last:3",
        normalize: bool = False,
        seed: int = 0,
    ) -> None:
        self.engine, self.items, self.normalize = engine, list(items), normalize
        self.parameters, width = select(engine, modules)
        self.readings = {n: Reading(n, p, width, seed) for n, p in self.parameters.items()}
        self.size = sum(r.size for r in self.readings.values())
        head = engine.lm.get_output_embeddings().weight
        names = [n for n, p in self.parameters.items() if n != "lm_head.weight"]
        self._part = engine.arch.backward_of(names, any(p is head for p in self.parameters.values()))
        if width is not None:
            self._part = self._part._replace(weights=sum(r.work for r in self.readings.values()))
        self._meter = Meter()
        self._kept: dict[str, Part] = {}
        self._scale: torch.Tensor | None = None

    @property
    def hardware(self) -> int:
        """FLOPs computed so far."""
        return self._meter.flops

    def cost(self, project: int | None = None) -> Cost:
        """Model FLOPs of all rows, and of their projection if asked for; the first use of a handle bills them."""
        model = sum(self.engine.arch.gradient(self._part, item.tokens, item.supervised) for item in self.items)
        model += self.projection_cost(project).model if project else 0
        return Cost(model, 0, sum(item.tokens for item in self.items))

    def projection_cost(self, dimensions: int) -> Cost:
        """2 P D an example."""
        return Cost(2 * self.size * dimensions * len(self.items))

    def gram_cost(self, n: int, m: int | None = None) -> Cost:
        """2nmP for n x m products of P numbers each; n (n + 1) P for n with each other."""
        return Cost(n * (n + 1 if m is None else 2 * m) * self.size)

    def rows(self, project: int | None = None, seed: int = 0) -> Array:
        """(n, P), or (n, D) after a random projection that keeps inner products in expectation.

        Direction k reads a matrix G as r_k' G s_k / sqrt(D), r_k and s_k random signs of parameter and seed; the parameters'
        readings add up. Between rows of length 1 the standard error is at most 3 / sqrt(D), about sqrt(2 / D) for many
        parameters. Rows of different handles are comparable if modules, D and seed are the same.
        """
        if project is not None and project < 1:
            raise RunFailed(f"gradients: project={project}; expected at least 1 dimension")
        self.compute()
        if project is not None:
            total = torch.zeros(len(self.items), project, device=self.engine.device)
            for name, part in self._kept.items():
                r, s = (signs((k, project), seed, side, name) for side, k in (("r", part.p), ("s", part.q)))
                total += part.sketch(r.to(total.device), s.to(total.device), self._meter)
            found: Array = (self._scaled(total) / project**0.5).cpu().numpy()
            return found
        out, at = Store(torch.device("cpu"), MEMORY_BYTES).room(len(self.items), self.size), 0
        for part in self._kept.values():
            for start, stop in cut(part.p, len(self.items) * part.q):
                block = self._scaled(part.block(start, stop, self._meter))
                out[:, at : at + block.shape[1]] = block.cpu()
                at += block.shape[1]
        rows: Array = out.numpy()
        return rows

    def gram(self, other: Gradients | None = None) -> Array:
        """Inner products (n, m) with the rows of `other`, or with each other."""
        theirs = self if other is None else other
        if list(self.parameters) != list(theirs.parameters) or self.size != theirs.size:
            raise RunFailed(f"gradients: {self.size} and {theirs.size} parameters; ask for the same modules")
        self.compute()
        theirs.compute()
        total = torch.zeros(len(self.items), len(theirs.items), dtype=torch.float64, device=self.engine.device)
        for name, part in self._kept.items():
            total += products(part, theirs._kept[name], self._meter)
        found: Array = theirs._scaled(self._scaled(total).T).T.float().cpu().numpy()
        return found

    def task_gram(self, other: Gradients | None = None) -> Array:
        """Inner products (c, c') of the tasks' mean rows, tasks in order of names."""
        ours = torch.from_numpy(np.stack(list(self.mean().values())))
        theirs = ours if other is None else torch.from_numpy(np.stack(list(other.mean().values())))
        self._meter.product(len(ours), len(theirs), self.size)
        found: Array = (ours @ theirs.T).numpy()
        return found

    def mean(self, by: Literal["task"] = "task") -> dict[str, Array]:
        """The mean row (P,) of each task's examples."""
        if by != "task":
            raise RunFailed(f"gradients: mean(by={by!r}); known: 'task'")
        self.compute()
        tasks = np.array([item.task for item in self.items])
        found: dict[str, Array] = {}
        for task in sorted(set(tasks.tolist())):
            mine = torch.from_numpy(np.flatnonzero(tasks == task))
            share = self._scaled(torch.ones(len(tasks), 1, device=self.engine.device))[mine, 0] / len(mine)
            means = [part.mean(mine, share, self._meter).cpu() for part in self._kept.values()]
            found[task] = torch.cat(means).numpy()
        return found

    def compute(self) -> None:
        """Catch them now, at the weights that stand."""
        if self._kept:
            return
        self._kept = self.engine.fitted(self.items, partial(self._caught_all, self._meter.flops))
        if self.normalize:
            squares = sum(part.squares(self._meter) for part in self._kept.values())
            assert isinstance(squares, torch.Tensor)
            self._scale = squares.sqrt().clamp_min(torch.finfo(torch.float32).tiny).reciprocal()

    def _caught_all(self, flops: int) -> dict[str, Part]:
        self._meter.flops = flops  # what did not fit and is done again is counted once, as in a step
        matrices, rest = _linear(self.engine.lm, self.parameters)
        kept = self._rooms(matrices)
        groups = [[i] for i in range(len(self.items))] if rest else [list(range(len(self.items)))]
        with _only(self.engine.lm, list(rest.values())):
            for group in groups:
                for pack in self.engine.packs([self.items[i] for i in group]):
                    self._catch(pack, [group[i] for i in pack.items], matrices, rest, kept)
        return kept

    def _scaled(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self._scale is None else rows * self._scale[:, None]

    def _rooms(self, matrices: dict[str, nn.Module]) -> dict[str, Part]:
        """Where to put each parameter's gradients: the smaller of rows and factors."""
        spans, device, n = Spans([item.tokens for item in self.items]), self.engine.device, len(self.items)
        store, kept = Store(device, MEMORY_BYTES), dict[str, Part]()
        for name, parameter in self.parameters.items():
            p, q = self.readings[name].p, self.readings[name].q
            if name in matrices and parameter.ndim == 2 and spans.tokens * (p + q) < n * p * q:
                kept[name] = Factors(store.room(spans.tokens, p), store.room(spans.tokens, q), spans, device)
            else:
                kept[name] = Rows(store.room(n, p * q), p, q, device)
        return kept

    def _catch(
        self,
        pack: Pack,
        which: list[int],
        matrices: dict[str, nn.Module],
        rest: dict[str, nn.Parameter],
        kept: dict[str, Part],
    ) -> None:
        """One micro-batch, whose documents are the items `which`, forward and backward."""
        engine, items, modules = self.engine, [self.items[i] for i in which], list(dict.fromkeys(matrices.values()))
        with _caught(modules) as (entered, left), engine.accelerator.autocast():
            scores = engine.whole(pack)
        nll = nn.functional.cross_entropy(scores.float(), pack.targets, reduction="none")
        share = torch.tensor([1.0 / item.supervised for item in items], device=nll.device)
        wanted = [*(left[module] for module in modules), *rest.values()]
        loss = (nll * share[pack.owner]).sum()
        found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        (rows, width), part = pack.ids.shape, self._part._replace(weights=0)
        self._meter.flops += engine.arch.padded_gradient(part, rows, width, len(pack.targets), pack.pairs)
        # A document ends with the token before its last target; padding and other documents are left out.
        last = pack.gather.cpu().numpy()[np.cumsum([item.supervised for item in items]) - 1]
        lengths = np.array([item.tokens for item in items])
        spans = Spans(lengths, last + 1 - lengths)
        back = {module: g.flatten(0, 1).float() for module, g in zip(modules, found, strict=False)}
        for gradient in back.values():
            if not torch.isfinite(gradient.sum()):  # one pass; which example, and whether it is more than a large sum
                wrong = spans.owner[~torch.isfinite(gradient[spans.flat.to(gradient.device)]).all(1).cpu()]
                self._refuse([which[int(i)] for i in wrong[:1]])
        for name, module in matrices.items():
            pair = (entered[module], back[module]) if isinstance(module, Conv1D) else (back[module], entered[module])
            read = None if self.parameters[name].ndim == 1 else self.readings[name].read(*pair, self._meter)
            _put(kept[name], which, spans, read, back[module], self._meter)
        for name, gradient in zip(rest, found[len(modules) :], strict=True):
            place = kept[name]
            assert isinstance(place, Rows)
            place.rows[which] = gradient.float().flatten().to(place.rows.device)
            self._refuse(which[: int(not torch.isfinite(gradient).all())])

    def _refuse(self, wrong: list[int]) -> None:
        if wrong:
            raise RunFailed(f"gradients: that of example {self.items[wrong[0]].id} is not finite")


def _put(
    part: Part,
    which: list[int],
    spans: Spans,
    pair: tuple[torch.Tensor, torch.Tensor] | None,
    back: torch.Tensor,
    meter: Meter,
) -> None:
    """A micro-batch's share of one parameter's gradients: those of items `which`, whose tokens lie at `spans`.

    `pair` are the factors of a matrix; a bias has none, its gradient is the sum of what came back.
    """
    flat, owner, numbers = spans.flat.to(back.device), spans.owner.to(back.device), torch.tensor(which)
    if isinstance(part, Factors):
        assert pair is not None
        places = [torch.arange(k) + int(part.spans.starts[i]) for i, k in zip(which, spans.lengths, strict=True)]
        for kept, caught in zip((part.left, part.right), pair, strict=True):
            kept[torch.cat(places).to(kept.device)] = caught[flat].to(kept.device)
    elif pair is None:
        sums = torch.zeros(len(which), part.q, device=back.device).index_add_(0, owner, back[flat])
        part.rows[numbers.to(part.rows.device)] = sums.to(part.rows.device)
    else:
        for ids, rows in outer(*pair, spans, meter, back.device):
            part.rows[numbers[ids].to(part.rows.device)] = rows.to(part.rows.device)


def _linear(lm: Any, parameters: dict[str, nn.Parameter]) -> tuple[dict[str, nn.Module], dict[str, nn.Parameter]]:
    """The linear modules behind these parameters, but for the head, which sees labels only; and the other parameters."""
    head, modules = lm.get_output_embeddings(), dict(lm.named_modules())
    owners = {name: modules[name.rpartition(".")[0]] for name in parameters}
    linear: dict[str, nn.Module] = {
        n: m for n, m in owners.items() if isinstance(m, nn.Linear | Conv1D) and m is not head
    }
    return linear, {n: p for n, p in parameters.items() if n not in linear}


@contextmanager
def _caught(
    modules: Sequence[nn.Module],
) -> Iterator[tuple[dict[nn.Module, torch.Tensor], dict[nn.Module, torch.Tensor]]]:
    """What enters and what leaves these modules in a forward pass within; below the lowest nothing is differentiated."""
    entered: dict[nn.Module, torch.Tensor] = {}
    left: dict[nn.Module, torch.Tensor] = {}

    def catch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        entered[module] = inputs[0].detach().flatten(0, 1).float()
        left[module] = output if output.requires_grad else output.detach().requires_grad_()
        return left[module].view_as(left[module])

    hooks = [module.register_forward_hook(catch) for module in modules]
    try:
        yield entered, left
    finally:
        for hook in hooks:
            hook.remove()


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
