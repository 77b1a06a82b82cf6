"""The counting convention (docs/flops.md) as integer functions of a model's configuration; no torch.

Two numbers a pass: `model` FLOPs rank (logical work: real tokens, causal attention, logits where a label is), `hardware`
FLOPs are what a padded or packed tensor program multiplies. An unknown architecture is an error, never a silent 6ND.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError

GATED = ("qwen2", "qwen3", "llama", "mistral")


@dataclass(frozen=True)
class Arch:
    """The sizes that matter: `block` = W (weights of all blocks' matrices), `head` = H = V h, `attention` = L q d."""

    family: str
    block: int
    head: int
    attention: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Arch:
        """From a transformers `config.json`. Raises HarnessError for an architecture without a proven count."""
        family = str(config.get("model_type"))
        if family in GATED:
            h, layers, ffn = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
            q = config["num_attention_heads"]
            kv = config.get("num_key_value_heads") or q
            d = config.get("head_dim") or h // q
            block = layers * (h * q * d + 2 * h * kv * d + q * d * h + 3 * h * ffn)
            return cls(family, block, config["vocab_size"] * h, layers * q * d)
        if family == "gpt2":
            h, layers = config["n_embd"], config["n_layer"]
            ffn = config.get("n_inner") or 4 * h
            return cls(family, layers * (4 * h * h + 2 * h * ffn), config["vocab_size"] * h, layers * h)
        raise HarnessError(
            f"model architecture {family!r} has no proven FLOPs count; known: {', '.join((*GATED, 'gpt2'))}"
        )

    def forward(self, tokens: int, logits: int) -> int:
        """One document of `tokens` real tokens with logits at `logits` positions: 2WT + 2HS + 4Lqd T(T+1)/2."""
        return 2 * self.block * tokens + 2 * self.head * logits + 2 * self.attention * tokens * (tokens + 1)

    def train_step(self, tokens: int, logits: int) -> int:
        """Full fine-tuning on one document: forward + input gradient + weight gradient = 3 forwards."""
        return 3 * self.forward(tokens, logits)

    def generate(self, prompt: int, new: int) -> int:
        """Greedy or sampled decoding with a KV cache: the prefill gives the first of `new` >= 1 tokens."""
        prefill = 2 * self.block * prompt + 2 * self.head + 2 * self.attention * prompt * (prompt + 1)
        seen = (new - 1) * prompt + new * (new - 1) // 2
        return prefill + (new - 1) * 2 * (self.block + self.head) + 4 * self.attention * seen

    def padded_forward(self, rows: int, width: int, logits: int) -> int:
        """What a (rows, width) tensor program computes: padding and the full square of attention included."""
        return 2 * self.block * rows * width + 2 * self.head * logits + 4 * self.attention * rows * width * width


def total(costs: Iterable[int]) -> int:
    """A sum that stays exact: Python integers, not floats."""
    return sum(int(c) for c in costs)
