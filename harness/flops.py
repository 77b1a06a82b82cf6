"""The counting convention (docs/flops.md) as integer functions of a model's configuration; no torch.

Two numbers a pass: `model` FLOPs rank (logical work: real tokens, causal attention, logits where a label is), `hardware`
FLOPs are what a padded or packed tensor program multiplies. An unknown architecture is an error, never a silent 6ND.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from harness.errors import HarnessError

GATED = ("qwen2", "qwen3", "llama", "mistral")

# Where a block's parameters stand in its data flow; a gradient at one place flows through all that is above it.
PLACES = {
    "input_layernorm": -0.5,
    "ln_1": -0.5,
    "q_norm": 0.5,
    "k_norm": 0.5,
    "post_attention_layernorm": 1.5,
    "ln_2": 1.5,
}
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.(.+)$")
INSIDE = 0.1  # a bias or an adapter's second matrix: above its matrix, whose input gradient it does not need
ATTENTION = 0.9  # below this place, the attention between q, k, v and o is differentiated


class Matrix(NamedTuple):
    """A weight matrix of a block: its name, its place in the block's data flow (q, k, v = 0 ... down = 3), in and out."""

    name: str
    place: int
    rows: int
    cols: int


class Backward(NamedTuple):
    """What a backward pass multiplies: elements of matrices by weight and by input gradient, blocks of attention, and
    products with the head (1 for its input gradient, 2 with its weight gradient)."""

    weights: int
    inputs: int
    blocks: int
    head: int


@dataclass(frozen=True)
class Arch:
    """The sizes that matter: `block` = W (weights of all blocks' matrices), `head` = H = V h, `attention` = L q d.

    `matrices` are those of one of the `layers` blocks; with `rank` > 0 each carries a LoRA adapter.
    """

    family: str
    block: int
    head: int
    attention: int
    layers: int = 1
    matrices: tuple[Matrix, ...] = ()
    rank: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Arch:
        """From a transformers `config.json`. Raises HarnessError for an architecture without a proven count."""
        family = str(config.get("model_type"))
        matrices: tuple[Matrix, ...]
        if family in GATED:
            h, layers, ffn = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
            q = config["num_attention_heads"]
            kv = config.get("num_key_value_heads") or q
            d = config.get("head_dim") or h // q
            matrices = (
                Matrix("q_proj", 0, h, q * d),
                Matrix("k_proj", 0, h, kv * d),
                Matrix("v_proj", 0, h, kv * d),
                Matrix("o_proj", 1, q * d, h),
                Matrix("gate_proj", 2, h, ffn),
                Matrix("up_proj", 2, h, ffn),
                Matrix("down_proj", 3, ffn, h),
            )
            return cls._of(family, matrices, layers, config["vocab_size"] * h, q * d)
        if family == "gpt2":
            h, ffn = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
            matrices = (
                Matrix("attn.c_attn", 0, h, 3 * h),
                Matrix("attn.c_proj", 1, h, h),
                Matrix("mlp.c_fc", 2, h, ffn),
                Matrix("mlp.c_proj", 3, ffn, h),
            )
            return cls._of(family, matrices, config["n_layer"], config["vocab_size"] * h, h)
        raise HarnessError(
            f"model architecture {family!r} has no proven FLOPs count; known: {', '.join((*GATED, 'gpt2'))}"
        )

    @classmethod
    def _of(cls, family: str, matrices: tuple[Matrix, ...], layers: int, head: int, width: int) -> Arch:
        block = layers * sum(m.rows * m.cols for m in matrices)
        return cls(family, block, head, layers * width, layers, matrices)

    def lora(self, rank: int) -> Arch:
        """The same model with an adapter of this rank on every matrix of its blocks, all else frozen."""
        return replace(self, rank=rank)

    @cached_property
    def adapters(self) -> int:
        """P_a: the weights of all adapters."""
        return self.layers * sum(self.rank * (m.rows + m.cols) for m in self.matrices)

    # --- what a pass is made of: `pairs` are the (query, key) pairs of attention

    def _forward(self, positions: int, pairs: int, logits: int) -> int:
        return 2 * (self.block + self.adapters) * positions + 2 * self.head * logits + 4 * self.attention * pairs

    def _backward(self, part: Backward, positions: int, pairs: int, logits: int) -> int:
        attention = 8 * (self.attention // self.layers) * part.blocks * pairs
        return 2 * (part.weights + part.inputs) * positions + 2 * part.head * self.head * logits + attention

    @cached_property
    def trained(self) -> Backward:
        """The backward pass of a training step: of everything, or of the adapters."""
        if not self.rank:
            return Backward(self.block, self.block, self.layers, 2)
        # The input of the first block needs no gradient: nothing below it is trained.
        bottom = sum(m.rows * (m.cols + self.rank) for m in self.matrices if m.place == 0)
        return Backward(self.adapters, self.block + self.adapters - bottom, self.layers, 1)

    def backward_of(self, parameters: Iterable[str], head: bool) -> Backward:
        """The backward pass of these parameters (names as in the model) and, if `head`, of the head's weight."""
        found = [self._place(name) for name in parameters]
        weights = sum(size for _, _, size, _ in found)
        if not found:
            return Backward(0, 0, 0, int(head))
        block, place = min((b, p) for b, p, _, _ in found)
        above = range(max(block + 1, 0), self.layers)
        inputs = len(above) * (self.block + self.adapters) // self.layers
        if 0 <= block < self.layers:
            for m in self.matrices:
                inputs += m.rows * m.cols + self.rank * (m.rows + m.cols) if m.place > place else 0
            inputs += sum(through for b, p, _, through in found if (b, p) == (block, place))
        attended = len(above) + int(0 <= block < self.layers and place < ATTENTION)
        return Backward(weights, inputs, attended, 1 + int(head))

    def block_of(self, name: str) -> int | None:
        """The block that a parameter of this name lies in."""
        match = _BLOCK.search(name)
        return int(match[1]) if match else None

    def _place(self, name: str) -> tuple[int, float, int, int]:
        """(block, place in it, elements, elements of what its gradient passes within the place) of a parameter."""
        match = _BLOCK.search(name)
        if not match:
            above = name.split(".")[-2] in ("norm", "ln_f")
            return (self.layers if above else -1), 0.0, 0, 0
        block, rest = int(match[1]), match[2]
        for m in self.matrices:
            if f"{m.name}." in rest:
                if "lora_A" in rest:
                    return block, float(m.place), self.rank * m.rows, self.rank * m.cols
                if "lora_B" in rest:
                    return block, m.place + INSIDE, self.rank * m.cols, 0
                bias = rest.endswith("bias")
                return block, m.place + (INSIDE if bias else 0.0), 0 if bias else m.rows * m.cols, 0
        for norm, place in PLACES.items():
            if norm in rest:
                return block, place, 0, 0
        raise HarnessError(f"parameter {name!r} has no known place in a {self.family} block")

    # --- model FLOPs, by document

    def forward(self, tokens: int, logits: int) -> int:
        """One document of `tokens` real tokens with logits at `logits` positions: 2WT + 2HS + 4Lqd T(T+1)/2."""
        return self._forward(tokens, tokens * (tokens + 1) // 2, logits)

    def train_step(self, tokens: int, logits: int) -> int:
        """One document: forward, input gradients and the weight gradients of what is trained; 3 forwards if all is."""
        return self.gradient(self.trained, tokens, logits)

    def gradient(self, part: Backward, tokens: int, logits: int) -> int:
        """Forward of the whole model, and this backward pass, on one document."""
        pairs = tokens * (tokens + 1) // 2
        return self._forward(tokens, pairs, logits) + self._backward(part, tokens, pairs, logits)

    def prefill(self, prompt: int) -> int:
        """The pass over a prompt that gives the first new token."""
        return self._forward(prompt, prompt * (prompt + 1) // 2, 1)

    def decode(self, seen: int) -> int:
        """One more token by the KV cache, attending to `seen` tokens, itself included."""
        return self._forward(1, seen, 1)

    def generate(self, prompt: int, new: int) -> int:
        """Greedy or sampled decoding with a KV cache: the prefill gives the first of `new` >= 1 tokens."""
        seen = (new - 1) * prompt + new * (new - 1) // 2
        return self.prefill(prompt) + self._forward(new - 1, seen, new - 1)

    # --- hardware FLOPs: padding and the full square of attention included

    # `pairs`: of attention, where it is not the whole square of each row

    def padded_forward(self, rows: int, width: int, logits: int, pairs: int | None = None) -> int:
        """What a (rows, width) tensor program computes."""
        return self._forward(rows * width, rows * width * width if pairs is None else pairs, logits)

    def padded_gradient(self, part: Backward, rows: int, width: int, logits: int, pairs: int | None = None) -> int:
        """Forward and this backward pass as a (rows, width) tensor program."""
        square = rows * width**2 if pairs is None else pairs
        return self._forward(rows * width, square, logits) + self._backward(part, rows * width, square, logits)

    def recomputed(self, rows: int, width: int, pairs: int | None = None) -> int:
        """What gradient checkpointing computes again: each block's forward but its last product, which nobody needs."""
        last = self.matrices[-1]
        spared = self.layers * (self.rank * last.cols or last.rows * last.cols)
        return self.padded_forward(rows, width, 0, pairs) - 2 * spared * rows * width


def total(costs: Iterable[int]) -> int:
    """A sum that stays exact: Python integers, not floats."""
    return sum(int(c) for c in costs)
