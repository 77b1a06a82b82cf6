"""The engine: one model, one optimizer, one step. Below the lab; no strategy sees it.

Documents are packed into rows under a block-causal mask, hidden states are gathered at supervised positions *before* the
LM head, and the loss is divided by the supervised tokens of the whole effective batch. Driven by `accelerate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from harness import fitting, ranks, supervised
from harness.checkpoint import Tensors
from harness.data import Item
from harness.errors import RunFailed
from harness.fitting import MICRO_TOKENS
from harness.ledger import Cost
from harness.loaded import LoadedModel
from harness.packing import Pack, by_owner, packs, plan_rows
from harness.ports import Scope
from harness.supervised import SupervisedLM
from harness.tokens import ExampleWeights, Frame, Objective, References, Tokens, token_losses, weights_of

Found = TypeVar("Found")
LOGIT_ROWS = 4096  # positions whose logits exist at one time when nothing is differentiated

__all__ = ["MICRO_TOKENS", "Engine", "Seen", "Step", "SupervisedLM", "packs", "plan_rows"]


@dataclass(frozen=True)
class Step:
    """One optimizer step: `nll` and supervised tokens by item, the norm of the gradient before clipping, and the cost."""

    nll: tuple[float, ...]
    grad_norm: float
    cost: Cost


@dataclass(frozen=True)
class Seen:
    """One evaluated item: its summed NLL (nats), its supervised tokens, and whether each is the argmax."""

    nll: float
    supervised: int
    match: bool


class Engine(LoadedModel):
    """What a loaded model does on the lab's word: steps and looks."""

    def packs(self, items: Sequence[Item]) -> Iterator[Pack]:
        """Micro-batches on the device; each item lies whole in one of them."""
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        for pack in packs(items, fitting.micro_tokens(self), pad, self.flat):
            yield pack.to(self.device)

    def share(self, items: Sequence[Item]) -> Iterator[Pack]:
        """This rank's micro-batches of items; with one process, all."""
        mine = ranks.share([item.tokens for item in items])
        for pack in self.packs([items[i] for i in mine]):
            yield replace(pack, items=tuple(mine[i] for i in pack.items))

    def fitted(self, items: Sequence[Item], work: Callable[[], Found]) -> Found:
        """`work` on these items, again in smaller parts as long as it runs out of memory."""
        longest = max((item.tokens for item in items), default=0)
        # What no rank waits for can be done again by one alone.
        return fitting.refitted(self, longest, work, self.optimizer.zero_grad)

    def step(
        self,
        items: Sequence[Item],
        lr: float,
        objective: Objective | None = None,
        example_weights: ExampleWeights | None = None,
        *,
        scope: Scope | None = None,
        references: References | None = None,
        others: Mapping[Any, Tensors] | None = None,
        weights: Sequence[float] | None = None,
        progress: float = math.nan,
    ) -> Step:
        """One step on one effective batch: sum of w_example * objective / supervised tokens of the whole batch.

        Weights come from statistics of the whole batch: if it falls into several micro-batches, a first pass without
        gradients collects them (hardware FLOPs only); `weights` multiply them. Each of `others` gives its logits to the
        objective by a forward pass of its own. Raises RunFailed when a callback's result cannot be used, or when
        the loss or the gradient is not finite; the weights are then as they were.
        """
        frame = Frame(items, references, lr, scope.progress if scope else progress, scope)
        try:
            work = partial(self._backward, items, frame, objective, example_weights, others or {}, weights)
            nll, hardware = work() if ranks.sharded() else self.fitted(items, work)
            nll, hardware = self.layout.summed(nll, hardware)
            norm = self.layout.clip(self.spec.clip)
            if not math.isfinite(norm) or not bool(torch.isfinite(nll).all()):
                raise RunFailed("the loss is not finite")
        except BaseException:
            self.optimizer.zero_grad()
            raise
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.layout.moved()
        return Step(tuple(nll.tolist()), norm, self.training_cost(items, hardware))

    def _backward(
        self,
        items: Sequence[Item],
        frame: Frame,
        objective: Objective | None,
        weighting: ExampleWeights | None,
        others: Mapping[Any, Tensors] | None = None,
        given: Sequence[float] | None = None,
    ) -> tuple[torch.Tensor, int]:
        """Accumulate the gradient of this rank's share of a batch; summed NLL by item, 0 elsewhere, and hardware FLOPs."""
        total = sum(item.supervised for item in items)
        nll = torch.zeros(len(items), dtype=torch.float64)
        parts = list(self.share(items))
        weights, hardware = frame.weights, frame.hardware
        fixed = None if given is None else torch.tensor(given, dtype=torch.float64)
        if weighting and weights is None and (len(parts) > 1 or ranks.count() > 1):
            seen, hardware = self.evaluate(items)
            hardware = frame.hardware = hardware if ranks.main() else 0
            sums = torch.tensor([s.nll for s in seen], dtype=torch.float64)
            # Every rank asks, for what the callback remembers; rank 0's numbers count.
            weights = frame.weights = ranks.first(weights_of(weighting, frame, sums))
        taken: list[tuple[Pack, torch.Tensor]] = []

        def read() -> None:
            """Into `nll`, what the device has computed so far."""
            for pack, losses in taken:
                nll[list(pack.items)] = by_owner(losses, pack.owner, len(pack.items))
            taken.clear()

        for pack, counts in self.layout.turns(parts, lambda: next(self.packs(items[:1]))):
            seen_by, more = self._logits(pack, others or {})
            rows = 0 if objective else supervised.loss_rows(len(pack.targets), self.vocabulary, self.device.type)
            with self.accelerator.autocast(), supervised.compiled(self.compiled):
                scores = self.model(pack, rows) if rows else self.model(pack)
            tokens = Tokens(scores, pack.targets, pack.owner, pack.items, frame, seen_by, scores if rows else None)
            if counts:  # read when the backward pass is under way: a GPU is not waited for in between
                taken.append((pack, tokens.nll.detach()))
            if weighting and weights is None:
                read()
                weights = frame.weights = weights_of(weighting, frame, nll)
            losses = token_losses(tokens, objective)
            for factor in (weights, fixed):
                losses = losses if factor is None else losses * factor.to(losses)[tokens.example]
            loss = losses.sum() / total
            with supervised.compiled(self.compiled):  # recomputed activations must be what they were
                self.accelerator.backward(loss if counts else 0 * loss)
            hardware += more + self._gradient_cost(pack, again=bool(rows))
        read()
        return nll, hardware

    def _gradient_cost(self, pack: Pack, again: bool) -> int:
        """Hardware FLOPs of a micro-batch forward and backward; `again`: its logits are computed twice."""
        logits = len(pack.targets)
        total = self.arch.padded_gradient(self.arch.trained, *pack.shape, logits, pack.pairs)
        total += self.arch.recomputed(*pack.shape, pack.pairs) if self.checkpointing else 0
        return total + (2 * self.arch.head * logits if again else 0)

    @torch.no_grad()
    def _logits(self, pack: Pack, others: Mapping[Any, Tensors]) -> tuple[dict[Any, torch.Tensor], int]:
        """Logits (S, V) of a micro-batch under other weights, by their name; second: the hardware FLOPs."""
        found = {}
        for name, tensors in others.items():
            with self._wearing(tensors), self.accelerator.autocast():
                found[name] = self.whole(pack)
        return found, len(others) * self.arch.padded_forward(*pack.shape, len(pack.targets), pack.pairs)

    def evaluate(self, items: Sequence[Item]) -> tuple[list[Seen], int]:
        """Loss and teacher-forced match of each item from one forward pass; second: the hardware FLOPs."""
        return ranks.joined(*self.fitted(items, lambda: self._evaluate(items)))

    @torch.no_grad()
    def _evaluate(self, items: Sequence[Item]) -> tuple[list[Seen | None], int]:
        seen: list[Seen | None] = [None] * len(items)
        hardware = 0
        taken = []  # read when all is asked for: the next micro-batch is made while a GPU computes this one
        model = self.whole
        head = model.lm.get_output_embeddings()
        for pack in self.share(items):
            with self.accelerator.autocast():
                hidden = model.hidden(pack)
                parts = []
                for start in range(0, len(hidden), LOGIT_ROWS):
                    logits = head(hidden[start : start + LOGIT_ROWS]).float()
                    gold = pack.targets[start : start + LOGIT_ROWS]
                    nll = nn.functional.cross_entropy(logits, gold, reduction="none")
                    parts.append(torch.stack([nll, (logits.argmax(-1) != gold).float()]))
            taken.append((pack.items, pack.owner, torch.cat(parts, 1)))
            hardware += self.arch.padded_forward(*pack.shape, len(pack.targets), pack.pairs)
        for members, owner, (losses, wrong) in taken:
            sums, misses = by_owner(losses, owner, len(members)), by_owner(wrong, owner, len(members))
            for k, i in enumerate(members):
                seen[i] = Seen(float(sums[k]), items[i].supervised, float(misses[k]) == 0.0)
        return seen, hardware

    def training_cost(self, items: Sequence[Item], hardware: int = 0) -> Cost:
        model = sum(self.arch.train_step(item.tokens, item.supervised) for item in items)
        return Cost(model, hardware, sum(item.tokens for item in items))

    def forward_cost(self, items: Sequence[Item], hardware: int = 0) -> Cost:
        model = sum(self.arch.forward(item.tokens, item.supervised) for item in items)
        return Cost(model, hardware, sum(item.tokens for item in items))

    def generation_cost(self, items: Sequence[Item], new: int) -> int:
        """Model FLOPs of `new` tokens in answer to each item's prompt."""
        return sum(self.arch.generate(len(item.ids) - item.supervised, new) for item in items)
