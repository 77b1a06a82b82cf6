"""One model with its optimizer on its device: loaded, copied to host memory, put back, worn for a while, saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import attention, ranks, sharding, supervised
from harness.checkpoint import Tensors
from harness.errors import HarnessError
from harness.flops import Arch
from harness.lora import LoraSpec, inject, merged
from harness.moments import NarrowAdamW
from harness.suite import Optimizer
from harness.supervised import SupervisedLM


class LoadedModel:
    """Holds model, optimizer and device.

    With `lora`, only adapters are trained, kept and restored; `checkpointing` recomputes activations (hardware FLOPs) and
    comes on by itself when nothing else makes a step fit into memory; `bf16_moments` halves the optimizer. Unless `placed`,
    it waits in host memory until its turn comes: `back`.
    """

    def __init__(
        self,
        folder: Path,
        arch: Arch,
        optimizer: Optimizer,
        seed: int,
        lora: LoraSpec | None = None,
        checkpointing: bool = False,
        bf16_moments: bool = False,
        placed: bool = True,
    ) -> None:
        if not ranks.gpu():
            torch.set_num_threads(int(os.environ.get("HARNESS_THREADS") or torch.get_num_threads()))
            self.accelerator = Accelerator(cpu=True, mixed_precision="no")
        else:
            self.accelerator = Accelerator(mixed_precision="bf16")
        if self.accelerator.num_processes != ranks.count():
            raise HarnessError(f"{self.accelerator.num_processes} processes: only `harness run` works with several")
        if self.accelerator.gradient_accumulation_steps != 1:
            raise HarnessError("accelerate asks for gradient accumulation; the suite says what an effective batch is")
        if ranks.sharded() and bf16_moments:
            raise HarnessError("train.bf16_moments: not with FSDP2, which cuts the moments over the ranks already")
        set_seed(seed)
        self.folder, self.arch, self.spec = folder, arch.lora(lora.r) if lora else arch, optimizer
        self.lora, self.checkpointing = lora, checkpointing
        self.shrunk: int | None = None  # tokens of a micro-batch, once a larger one did not fit
        self.beside: list[
            LoadedModel
        ] = []  # the run's other models: those that are cut (FSDP2) leave a GPU only with this one
        self.flat = attention.usable(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        lm = supervised.load(folder, self.device)
        if checkpointing:
            supervised.recompute(lm)
        if lora:
            inject(lm, lora, seed)
        self.vocabulary = int(lm.get_output_embeddings().weight.shape[0])
        self.compiled = supervised.compile_blocks(lm, self.device)
        kind = sharding.Shards if ranks.sharded() else sharding.Replicas
        self.layout = kind(self.accelerator, SupervisedLM(lm).train(), placed)
        self.model = self.layout.model
        self._start: Tensors | None = self.weights() if lora else None
        trained = [p for p in self.model.parameters() if p.requires_grad]
        spec = self.spec
        rates: dict[str, Any] = {"lr": 0.0, "betas": spec.betas, "eps": spec.eps, "weight_decay": spec.weight_decay}
        adam = (
            NarrowAdamW(trained, **rates, seed=seed)
            if bf16_moments
            else torch.optim.AdamW(trained, **rates, fused=True)
        )
        self.optimizer = self.accelerator.prepare(adam)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def whole(self) -> Any:
        """The `SupervisedLM` that looks go through: on every rank, at the weights that stand."""
        return self.layout.whole

    @property
    def lm(self) -> Any:
        return self.whole.lm

    def fresh_optimizer(self) -> None:
        """AdamW with empty moments: the same object, for accelerate would keep every one that it has prepared."""
        self.optimizer.state.clear()

    def recompute(self) -> None:
        """Recompute activations from now on."""
        supervised.recompute(self.lm)
        self.checkpointing = True

    def weights(self, wait: bool = True) -> Tensors:
        """A copy of the trainable weights in host memory: on rank 0, which keeps what is kept; others get none.

        Without `wait` it may still be on its way off a GPU: for the store alone, which waits before it reads.
        """
        return sharding.fetch(self.layout.trained(), wait)

    def load_weights(self, tensors: Tensors) -> None:
        """Rank 0's tensors into the model of every rank."""
        sharding.put_all(self.layout.trained(), tensors)
        self.layout.moved()

    @contextmanager
    def wearing(self, tensors: Tensors) -> Iterator[None]:
        """Other weights, which rank 0 has, for a while; ours, gradients and optimizer are not touched, only set aside."""
        if ranks.count() > 1:
            worn = {n: torch.empty_like(p) for n, p in self.lm.named_parameters() if p.requires_grad}
            sharding.put_all(worn, tensors)
            tensors = worn
        with self._wearing(tensors):
            yield

    @contextmanager
    def _wearing(self, tensors: Tensors) -> Iterator[None]:
        lm = self.lm
        mine = {n: p.data for n, p in lm.named_parameters() if p.requires_grad}
        for name, parameter in lm.named_parameters():
            if parameter.requires_grad:
                parameter.data = tensors[name].to(parameter)
        try:
            yield
        finally:
            for name, parameter in lm.named_parameters():
                if name in mine:
                    parameter.data = mine[name]

    def base(self) -> Tensors:
        """The trainable weights as the run began: the model's own folder, or under LoRA the adapters as drawn."""
        if self._start is not None or not ranks.main():
            return self._start or {}
        lm = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        return {n: p.detach() for n, p in lm.named_parameters()}

    def load_base(self) -> None:
        self.load_weights(self.base())

    def moments(self, wait: bool = True) -> Tensors:
        """A copy of the optimizer's state in rank 0's host memory, `index.name` tensors; empty before the first step.

        `wait` as for `weights`.
        """
        state = self.optimizer.state_dict()["state"]
        return sharding.fetch({f"{i}.{k}": v for i, row in state.items() for k, v in row.items()}, wait)

    def load_moments(self, tensors: Tensors) -> None:
        """Rank 0's tensors into the optimizer of every rank."""
        self.fresh_optimizer()
        shapes = ranks.first({key: (value.shape, value.dtype) for key, value in tensors.items()})
        if not shapes:
            return
        state: dict[int, dict[str, torch.Tensor]] = {}
        parameters = list(self.layout.trained().values())
        for key, (shape, dtype) in shapes.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = sharding.like(parameters[int(index)], shape, dtype)
            sharding.put(state[int(index)][name], tensors.get(key))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def save_pretrained(self, folder: Path) -> None:
        """A plain transformers checkpoint, by rank 0; adapters are merged in the file only."""
        lm = self.lm
        if ranks.main():
            (merged(lm, self.folder) if self.lora else lm).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def aside(self) -> None:
        """Leave the device to another model: weights wait in host memory; moments are gone, who comes back loads them."""
        self.fresh_optimizer()
        self.layout.aside()

    def back(self) -> None:
        """On the device again."""
        self.layout.back()

    def release(self) -> None:
        """Leave a GPU to the scoring: weights go to the host, moments are dropped. Nothing can be run afterwards."""
        for other in self.beside:
            other.release()
        if self.device.type == "cuda":
            self.layout.release()
            del self.model, self.optimizer
            self.accelerator.free_memory()
            torch.cuda.empty_cache()
