"""The model as the engine calls it: from a micro-batch to logits, or losses, at supervised positions only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from harness import attention
from harness.packing import Pack

LOSS_BYTES = {"cpu": 2**62, "cuda": 2 * 2**30}  # of fp32 logits that a training step holds at one time
RECOMPILATIONS = 8  # of a block, by shapes, before it runs uncompiled


class SupervisedLM(nn.Module):
    """A causal LM that returns logits (S, V) at the gathered positions only."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def hidden(self, pack: Pack) -> torch.Tensor:
        """Hidden states (S, h) at the supervised positions."""
        body: Any = self.lm.base_model
        more = {} if pack.starts is None else {"document_starts": pack.starts, "document_longest": pack.longest}
        out = body(input_ids=pack.ids, position_ids=pack.positions, attention_mask=pack.mask, use_cache=False, **more)
        states: torch.Tensor = out.last_hidden_state
        return states.flatten(0, 1)[pack.gather]

    def forward(self, pack: Pack, rows: int = 0) -> torch.Tensor:
        """Logits (S, V); with `rows`, NLL (S,) in nats from logits of so many positions at a time, computed twice."""
        head: Any = self.lm.get_output_embeddings()  # type: ignore[operator]
        hidden = self.hidden(pack)
        if not rows:
            logits: torch.Tensor = head(hidden)
            return logits

        def nll(states: torch.Tensor, gold: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(head(states).float(), gold, reduction="none")

        ranges = [slice(start, start + rows) for start in range(0, len(hidden), rows)]
        return torch.cat([checkpoint(nll, hidden[r], pack.targets[r], use_reentrant=False) for r in ranges])


def loss_rows(positions: int, vocabulary: int, kind: str) -> int:
    """Positions whose logits may exist at one time in a step on `positions` of them; 0: all, nothing is gained."""
    limit = max(1, LOSS_BYTES[kind] // (4 * vocabulary))
    return limit if positions > limit else 0


def load(folder: Path, device: torch.device) -> Any:
    """The causal LM of a folder, master weights in fp32, attention by the best kernel that this device has."""
    kernel = attention.NAME if attention.usable(device) else "sdpa"
    lm: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel)
    for module in lm.modules():  # no dropout: the suite regularises, not the checkpoint's config
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):  # a number, outside the GPT-2 family
            module.attention_dropout = 0.0
    return lm


def recompute(lm: Any) -> None:
    """Gradient checkpointing from now on."""
    lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lm.disable_input_require_grads()  # frozen embeddings need no gradient when nothing is re-entered


def compile_blocks(lm: Any, device: torch.device, backend: str = "inductor") -> bool:
    """Compile each block for lengths that vary, if HARNESS_COMPILE=1 asks for it on a GPU. See `compiled`."""
    if os.environ.get("HARNESS_COMPILE") != "1" or (device.type != "cuda" and backend == "inductor"):
        return False
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    body = lm.base_model
    for block in body.layers if hasattr(body, "layers") else body.h:
        block.compile(dynamic=True, backend=backend)
    torch.compiler.set_stance("force_eager")
    return True


@contextmanager
def compiled(wanted: bool) -> Iterator[None]:
    """Inside, compiled blocks run as such; elsewhere hooks - per-example gradients - must see every module."""
    if not wanted:
        yield
        return
    with torch.compiler.set_stance("default"):
        yield
