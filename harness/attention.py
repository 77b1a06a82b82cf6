"""Attention of documents that lie one after the other in one row, without a mask and without padding.

On a GPU it is used where FlashAttention's kernel for variable lengths runs (torch has it built in, in half precision); what
that cannot do - fp32, odd head sizes, generation with a cache - is done by `sdpa` and means the same. On a CPU, if asked for,
each document attends alone, which is faster than a mask over rows of several where rows are long (`benchmarks/layouts.py`).
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "documents"
HALF = (torch.float16, torch.bfloat16)
TOLERANCE = 0.02  # of bf16 against itself by another kernel


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    document_starts: torch.Tensor | None = None,
    document_longest: int = 0,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each block: (1, heads, N, d) in, (1, N, heads, d) out.

    `document_starts`: (D + 1,) int32, where each document begins, and N. Without it this is `sdpa` under the mask.
    """
    if document_starts is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return found
    # Rotary positions are fp32, which leaves queries and keys wider than the values under autocast.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    fits = value.dtype in HALF and value.is_cuda and v.shape[-1] % 8 == 0 and v.shape[-1] <= 256
    out = (flash if fits else one_by_one)(q, k, v, document_starts, document_longest, scaling)
    return out[None], None


def flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    """(N, heads, d) by one kernel; heads of keys and values may be fewer."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, starts, starts, longest, longest, 0.0, True, False, scale=scale
    )[0]
    return out


def one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    """The same, a document at a time."""
    parts = []
    for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        one, two, three = (x[a:b].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(
            nn.functional.scaled_dot_product_attention(
                one, two, three, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            )[0].transpose(0, 1)
        )
    return torch.cat(parts)


@lru_cache
def usable(device: torch.device) -> bool:
    """Whether rows are flat: where the kernel is here and right, outputs and gradients (tried once).

    HARNESS_ATTENTION=masked says no; flat says yes on a CPU, whose committed results have the order of sums of masked rows.
    """
    asked = os.environ.get("HARNESS_ATTENTION")
    if asked == "masked" or device.type != "cuda":
        return asked == "flat"
    draw = torch.Generator(device).manual_seed(0)
    starts = torch.tensor([0, 5, 70, 133], device=device, dtype=torch.int32)
    shapes = ((133, 4, 64), (133, 2, 64), (133, 2, 64))
    inputs = [torch.randn(s, generator=draw, device=device, dtype=torch.bfloat16).requires_grad_() for s in shapes]
    try:
        results = []
        for function in (flash, one_by_one):
            out = function(inputs[0], inputs[1], inputs[2], starts, 65, None)
            results.append((out, *torch.autograd.grad(out.float().square().sum(), inputs)))
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    pairs = zip(*results, strict=True)
    return all(bool((a - b).float().abs().max() <= TOLERANCE * b.float().abs().max()) for a, b in pairs)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
