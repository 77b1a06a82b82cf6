"""LoRA: seeded adapters on every matrix of the blocks, put into the model in place, and merged only in a copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

ADAPTER = "default"


@dataclass(frozen=True)
class LoraSpec:
    """Rank r and scale alpha / r; no dropout."""

    r: int = 16
    alpha: float = 32.0


def inject(lm: Any, spec: LoraSpec, seed: int) -> None:
    """Adapters whose first matrix is drawn from `seed` and whose second is 0; all other weights are frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    head = lm.get_output_embeddings()
    linear = {n: m for n, m in lm.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}
    transposed = any(isinstance(m, Conv1D) for m in linear.values())
    config = LoraConfig(
        r=spec.r, lora_alpha=spec.alpha, lora_dropout=0.0, target_modules=list(linear), fan_in_fan_out=transposed
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, lm, adapter_name=ADAPTER)
    for name, parameter in lm.named_parameters():
        parameter.requires_grad_("lora_" in name)


@torch.no_grad()
def merged(lm: nn.Module, folder: Path) -> Any:
    """A plain model from its own folder with the adapters of `lm` added to its matrices; `lm` stays as it is."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, module in lm.named_modules():
        if hasattr(module, "get_delta_weight"):
            layer: Any = module
            weight: Any = plain.get_submodule(name).weight
            weight += layer.get_delta_weight(ADAPTER).to(weight)
    return plain
