"""How an engine's weights lie on the ranks of a run: whole on each of them, or cut by FSDP2.

`Replicas` is also one process. Its gradients are summed over ranks once a step, not in hooks of a wrapper: ranks may then
have different numbers of micro-batches, or none. `Shards` keeps weights, gradients and optimizer state cut; looks, probes
and generation, which ranks do at their own pace, go through a whole copy that is brought up to date when it is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from harness import ranks
from harness.checkpoint import Tensors, host_copy

BUCKET = 2**24  # gradients summed together: 64 MB of fp32


class Replicas:
    """Whole weights on every rank; `model` is trained, `whole` is looked through, and they are one."""

    def __init__(self, accelerator: Any, model: nn.Module, placed: bool = True) -> None:
        self.accelerator = accelerator
        if ranks.count() == 1:
            self.model = accelerator.prepare(model, device_placement=[placed])
        else:  # placed and cast, not wrapped
            self.model = accelerator.prepare_model(model, device_placement=placed, evaluation_mode=True)

    @property
    def whole(self) -> Any:
        """The model that looks go through."""
        return self.accelerator.unwrap_model(self.model)

    def trained(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by their name in the plain model; cut ones as they are."""
        lm = self.accelerator.unwrap_model(self.model).lm
        return {n: p for n, p in lm.named_parameters() if p.requires_grad}

    def turns(self, parts: list[Any], spare: Callable[[], Any]) -> Iterator[tuple[Any, bool]]:
        """The micro-batches of this rank, and of each whether it counts."""
        return ((part, True) for part in parts)

    def summed(self, nll: torch.Tensor, hardware: int) -> tuple[torch.Tensor, int]:
        """A step's gradients, losses and hardware FLOPs, summed over ranks."""
        if ranks.count() > 1:
            self._sum_gradients()
        return ranks.total(nll), sum(ranks.gather(hardware))

    def _sum_gradients(self) -> None:
        parameters = list(self.trained().values())
        without = {i for i, p in enumerate(parameters) if p.grad is None}
        # A rank without examples has no gradient at all; what nobody has stays away, or the optimizer would decay it.
        seen = [mine for mine in ranks.gather(without) if len(mine) < len(parameters)]
        nobody = set.intersection(*seen)
        there = [p for i, p in enumerate(parameters) if i not in nobody]
        for p in there:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        for bucket in _buckets([p.grad for p in there if p.grad is not None]):
            flat = ranks.total(torch.cat([g.flatten() for g in bucket]))
            for g, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))

    def clip(self, norm: float) -> float:
        """Clip the gradient of the effective batch to this norm; returns the norm that it had."""
        return float(self.accelerator.clip_grad_norm_(self.model.parameters(), norm))

    def moved(self) -> None:
        """The trained weights have changed."""

    def aside(self) -> None:
        """Weights go to host memory."""
        self.model.to("cpu")

    def back(self) -> None:
        """They are on the device again, as the parameters that the optimizer knows."""
        self.model.to(self.accelerator.device)

    def release(self) -> None:
        """Nothing of the model stays on the device."""
        self.aside()


class Shards(Replicas):
    """FSDP2: each block, and the rest, is gathered for its turn in a forward or backward pass and cut again."""

    def __init__(self, accelerator: Any, model: nn.Module, placed: bool = True) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        self.accelerator = accelerator
        self._whole = accelerator.prepare_model(copy.deepcopy(model), evaluation_mode=True)
        self._current = True
        self.model = model.to(accelerator.device)
        mesh = init_device_mesh(accelerator.device.type, (ranks.count(),))
        lm: Any = model.lm
        blocks = set(lm._no_split_modules or ())
        for module in [m for m in lm.modules() if type(m).__name__ in blocks]:
            fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):  # a sum, as the loss is divided by all tokens of the batch already
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    @property
    def whole(self) -> Any:
        found = self.accelerator.unwrap_model(self._whole)
        if not self._current:
            copies = dict(found.lm.named_parameters())
            for name, parameter in self.trained().items():
                copies[name].data.copy_(_full(parameter))
            self._current = True
        return found

    def turns(self, parts: list[Any], spare: Callable[[], Any]) -> Iterator[tuple[Any, bool]]:
        """As many for every rank, since each gathers weights from all; those that fill up count nothing."""
        n = max(ranks.gather(len(parts)))
        for k in range(n):
            self.model.set_requires_gradient_sync(k == n - 1)
            yield (parts[k], True) if k < len(parts) else (spare(), False)

    def _sum_gradients(self) -> None:
        """FSDP2 has."""

    def clip(self, norm: float) -> float:
        found: Any = nn.utils.clip_grad_norm_(self.model.parameters(), norm)
        return float(found.full_tensor())

    def moved(self) -> None:
        self._current = False

    def aside(self) -> None:
        """What is cut stays where it is: a share a rank."""

    def back(self) -> None:
        """It never left."""

    def release(self) -> None:
        del self.model, self._whole


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one kind, about `BUCKET` numbers together."""
    bucket: list[torch.Tensor] = []
    for t in tensors:
        if bucket and (t.dtype != bucket[0].dtype or sum(g.numel() for g in bucket) + t.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(t)
    if bucket:
        yield bucket


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be cut, whole."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach()


def fetch(tensors: Mapping[str, torch.Tensor], wait: bool = True) -> Tensors:
    """Copies in host memory, whatever the tensors are cut into: on rank 0, which keeps them. Others get none.

    Without `wait` they may still be on their way off a GPU, see `host_copy`.
    """
    whole = ((name, _full(tensor)) for name, tensor in tensors.items())
    if ranks.main():
        return host_copy(whole, wait)
    for _ in whole:  # getting it together takes all ranks
        pass
    return {}


@torch.no_grad()
def put(target: torch.Tensor, value: torch.Tensor | None) -> None:
    """Rank 0's value, in host memory, into a tensor of the same shape on all ranks, whole or cut."""
    if not hasattr(target, "full_tensor"):
        if value is not None:
            target.copy_(value)
        ranks.spread(target.data)
        return
    from torch.distributed.tensor import distribute_tensor

    cut: Any = target
    local = cut.to_local()
    whole = torch.empty(cut.shape, dtype=local.dtype, device=local.device)
    if value is not None:
        whole.copy_(value)
    local.copy_(distribute_tensor(whole, cut.device_mesh, cut.placements, src_data_rank=0).to_local())


def like(parameter: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Room for an optimizer's tensor of a parameter: cut as it is if it has its shape, else whole in host memory."""
    if shape == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype).detach()
    return torch.zeros(shape, dtype=dtype)


def put_all(targets: Mapping[str, torch.Tensor], values: Tensors) -> None:
    """`put` by name; on rank 0 every name has a value."""
    for name, target in targets.items():
        put(target, values[name] if ranks.main() else None)
