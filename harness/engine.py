"""The engine: one model, one optimizer, one step. Below the lab; no strategy sees it.

Documents are packed into rows under a block-causal mask, hidden states are gathered at supervised positions *before* the
LM head, and the loss is divided by the supervised tokens of the whole effective batch. Driven by `accelerate`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.checkpoint import Tensors
from harness.data import Item
from harness.errors import HarnessError, RunFailed
from harness.flops import Arch
from harness.ledger import Cost
from harness.suite import Optimizer

ROW = 128  # tokens of a packed row, unless a document is longer
MICRO_TOKENS = {"cpu": 4096, "cuda": 32768}  # tokens of one micro-batch
LOGIT_ROWS = 4096  # positions whose logits exist at one time when nothing is differentiated


@dataclass(frozen=True)
class Pack:
    """One micro-batch. ids, positions: (R, C); mask: (R, 1, C, C) bool; gather: (S,) flat positions that predict
    `targets` (S,); owner: (S,) index of the item within the micro-batch's `items`."""

    items: tuple[int, ...]
    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    gather: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor


def plan_rows(lengths: Sequence[int], width: int = ROW) -> list[list[int]]:
    """Rows of item indices whose lengths sum to at most max(width, longest), as evenly filled as first-fit finds.

    As many rows as the widest would need at least; among their widths the narrowest of a few that suffices.
    """
    widest = max(width, *lengths)
    rows = math.ceil(sum(lengths) / widest)
    even = max(math.ceil(sum(lengths) / rows), *lengths)
    for slack in (0, 1, 2, 4, 8, 16):
        if even + slack < widest and len(fitted := _first_fit(lengths, even + slack)) <= rows:
            return fitted
    return _first_fit(lengths, widest)


def _first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """First-fit decreasing into rows of `width`."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for r, free in enumerate(room):
            if lengths[i] <= free:
                rows[r].append(i)
                room[r] -= lengths[i]
                break
        else:
            rows.append([i])
            room.append(width - lengths[i])
    return rows


def packs(items: Sequence[Item], micro_tokens: int, pad: int) -> Iterator[Pack]:
    """Micro-batches of packed rows; a row never splits a document, padding sits at the end of rows."""
    rows = plan_rows([item.tokens for item in items])
    fills = [sum(items[i].tokens for i in row) for row in rows]
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop + 1 - start) * max(fills[start : stop + 1]) <= micro_tokens:
            stop += 1
        yield _pack(items, rows[start:stop], max(fills[start:stop]), pad)
        start = stop


def _pack(items: Sequence[Item], rows: list[list[int]], width: int, pad: int) -> Pack:
    shape = (len(rows), width)
    ids, positions = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    document = torch.full(shape, -1)
    gather, targets, owner = [], [], []
    members: list[int] = []
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            item, n = items[i], items[i].tokens
            ids[r, at : at + n] = torch.tensor(item.ids[:-1])
            positions[r, at : at + n] = torch.arange(n)
            document[r, at : at + n] = len(members)
            first = r * width + at + n - item.supervised
            gather.append(torch.arange(first, first + item.supervised))
            targets.append(torch.tensor(item.ids[-item.supervised :]))
            owner.append(torch.full((item.supervised,), len(members)))
            members.append(i)
            at += n
    same = document[:, :, None] == document[:, None, :]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    # Padding attends to earlier padding and itself (document -1), so that no row of the softmax is empty.
    mask = (same & causal)[:, None]
    return Pack(tuple(members), ids, positions, mask, torch.cat(gather), torch.cat(targets), torch.cat(owner))


class SupervisedLM(nn.Module):
    """A causal LM that returns logits (S, V) at the gathered positions only."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def hidden(self, pack: Pack) -> torch.Tensor:
        """Hidden states (S, h) at the supervised positions."""
        body: Any = self.lm.base_model
        out = body(input_ids=pack.ids, position_ids=pack.positions, attention_mask=pack.mask, use_cache=False)
        states: torch.Tensor = out.last_hidden_state
        return states.flatten(0, 1)[pack.gather]

    def forward(self, pack: Pack) -> torch.Tensor:
        lm: Any = self.lm
        logits: torch.Tensor = lm.get_output_embeddings()(self.hidden(pack))
        return logits


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


class Engine:
    """Holds model, optimizer and device; the lab tells it what to run."""

    def __init__(self, folder: Path, arch: Arch, optimizer: Optimizer, seed: int) -> None:
        if not torch.cuda.is_available() or os.environ.get("HARNESS_DEVICE") == "cpu":
            torch.set_num_threads(int(os.environ.get("HARNESS_THREADS") or torch.get_num_threads()))
            self.accelerator = Accelerator(cpu=True, mixed_precision="no")
        else:
            self.accelerator = Accelerator(mixed_precision="bf16")
        if self.accelerator.num_processes > 1:
            raise HarnessError("several processes: not supported by this version; start one process")
        set_seed(seed)
        self.folder, self.arch, self.spec = folder, arch, optimizer
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        for module in lm.modules():  # dropout of the GPT-2 family: the suite regularises, not the checkpoint's config
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.model = self.accelerator.prepare(SupervisedLM(lm).train())
        self.fresh_optimizer()

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def lm(self) -> Any:
        return self.accelerator.unwrap_model(self.model).lm

    def fresh_optimizer(self) -> None:
        """AdamW with empty moments."""
        groups = [p for p in self.model.parameters() if p.requires_grad]
        spec = self.spec
        self.optimizer = self.accelerator.prepare(
            torch.optim.AdamW(
                groups, lr=0.0, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=True
            )
        )

    def _packs(self, items: Sequence[Item]) -> Iterator[Pack]:
        pad = self.tokenizer.pad_token_id
        for pack in packs(items, MICRO_TOKENS[self.device.type], self.tokenizer.eos_token_id if pad is None else pad):
            tensors = (pack.ids, pack.positions, pack.mask, pack.gather, pack.targets, pack.owner)
            yield Pack(pack.items, *(t.to(self.device) for t in tensors))

    def step(self, items: Sequence[Item], lr: float) -> Step:
        """One step on one effective batch: loss = sum of token NLL / supervised tokens of the whole batch.

        Raises RunFailed when the loss or the gradient is not finite; the weights are then as they were.
        """
        total = sum(item.supervised for item in items)
        nll = torch.zeros(len(items), dtype=torch.float64)
        hardware = 0
        for pack in self._packs(items):
            with self.accelerator.autocast():
                logits = self.model(pack)
            losses = nn.functional.cross_entropy(logits.float(), pack.targets, reduction="none")
            self.accelerator.backward(losses.sum() / total)
            nll[list(pack.items)] = _by_owner(losses.detach(), pack)
            hardware += 3 * self.arch.padded_forward(pack.ids.shape[0], pack.ids.shape[1], len(pack.targets))
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.spec.clip))
        if not math.isfinite(norm) or not bool(torch.isfinite(nll).all()):
            self.optimizer.zero_grad()
            raise RunFailed("the loss is not finite")
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Step(tuple(nll.tolist()), norm, self.training_cost(items, hardware))

    @torch.no_grad()
    def evaluate(self, items: Sequence[Item]) -> tuple[list[Seen], int]:
        """Loss and teacher-forced match of each item from one forward pass; second: the hardware FLOPs."""
        seen: list[Seen | None] = [None] * len(items)
        hardware = 0
        model = self.accelerator.unwrap_model(self.model)
        head = self.lm.get_output_embeddings()
        for pack in self._packs(items):
            with self.accelerator.autocast():
                hidden = model.hidden(pack)
                parts = []
                for start in range(0, len(hidden), LOGIT_ROWS):
                    logits = head(hidden[start : start + LOGIT_ROWS]).float()
                    gold = pack.targets[start : start + LOGIT_ROWS]
                    nll = nn.functional.cross_entropy(logits, gold, reduction="none")
                    parts.append(torch.stack([nll, (logits.argmax(-1) != gold).float()]))
            losses, wrong = torch.cat(parts, 1)
            sums, misses = _by_owner(losses, pack), _by_owner(wrong, pack)
            for k, i in enumerate(pack.items):
                seen[i] = Seen(float(sums[k]), items[i].supervised, float(misses[k]) == 0.0)
            hardware += self.arch.padded_forward(pack.ids.shape[0], pack.ids.shape[1], len(pack.targets))
        return [s for s in seen if s is not None], hardware

    def training_cost(self, items: Sequence[Item], hardware: int = 0) -> Cost:
        model = sum(self.arch.train_step(item.tokens, item.supervised) for item in items)
        return Cost(model, hardware, sum(item.tokens for item in items))

    def forward_cost(self, items: Sequence[Item], hardware: int = 0) -> Cost:
        model = sum(self.arch.forward(item.tokens, item.supervised) for item in items)
        return Cost(model, hardware, sum(item.tokens for item in items))

    def weights(self) -> Tensors:
        """A copy of the trainable weights in host memory."""
        return {n: p.detach().to("cpu", copy=True) for n, p in self.lm.named_parameters()}

    @torch.no_grad()
    def load_weights(self, tensors: Tensors) -> None:
        for name, parameter in self.lm.named_parameters():
            parameter.copy_(tensors[name])

    def load_base(self) -> None:
        """The weights of the model's own folder again."""
        lm = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        self.load_weights(dict(lm.named_parameters()))

    def moments(self) -> Tensors:
        """A copy of the optimizer's state in host memory, as `index.name` tensors; empty before the first step."""
        state = self.optimizer.state_dict()["state"]
        return {f"{i}.{k}": v.detach().to("cpu", copy=True) for i, row in state.items() for k, v in row.items()}

    def load_moments(self, tensors: Tensors) -> None:
        self.fresh_optimizer()
        if tensors:
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in tensors.items():
                index, _, name = key.partition(".")
                state.setdefault(int(index), {})[name] = value.clone()
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def save_pretrained(self, folder: Path) -> None:
        self.lm.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _by_owner(values: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Sums of per-token values (S,) by item of the micro-batch, in float64 on the host."""
    sums = torch.zeros(len(pack.items), dtype=torch.float64)
    return sums.index_add_(0, pack.owner.cpu(), values.double().cpu())
