"""AdamW with both moments in bf16: 4 bytes a parameter in place of 8. A suite asks for it (`train.bf16_moments`).

The new moments are computed in fp32 and rounded at random, so that the mean of what is kept is right: rounded to the
nearest, a second moment at beta2 = 0.999 would never move (its change of 0.1 % is less than half of bf16's last digit).
The random bits are keyed by seed, step and parameter: a training that goes on is the same as one without a break.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch

KEPT = ("exp_avg", "exp_avg_sq")


class NarrowAdamW(torch.optim.Optimizer):
    """Decoupled weight decay (arXiv 1711.05101), as torch.optim.AdamW but for the width of its state."""

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is not None:
                    self._update(parameter, group, place)

    def _update(self, parameter: torch.Tensor, group: dict[str, Any], place: int) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in KEPT:
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        t, gradient, (one, two) = int(state["step"]), parameter.grad.float(), group["betas"]  # type: ignore[union-attr]
        mean = state["exp_avg"].float().lerp_(gradient, 1 - one)
        square = state["exp_avg_sq"].float().mul_(two).addcmul_(gradient, gradient, value=1 - two)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        below = (square / (1 - two**t)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, below, value=-group["lr"] / (1 - one**t))
        for name, value in zip(KEPT, (mean, square), strict=True):
            state[name].copy_(narrow(value, self._bits(parameter.device, t, place, name)))

    def _bits(self, device: torch.device, *names: Any) -> torch.Generator:
        key = hashlib.sha256("/".join(map(str, (self.seed, *names))).encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(key[:7], "big"))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As saved: the base class would widen the moments to the parameters' type."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in KEPT:
                state[name] = state[name].to(torch.bfloat16)


def narrow(values: torch.Tensor, bits: torch.Generator) -> torch.Tensor:
    """fp32 in bf16, up or down at random with the value as the mean; finite values only."""
    raw = values.float().view(torch.int32)
    noise = torch.randint(0, 2**16, raw.shape, generator=bits, device=raw.device, dtype=torch.int32)
    # Cutting 16 bits off rounds toward zero; the noise below them carries over as often as the value is nearer the next.
    return (raw + noise).bitwise_and_(-(2**16)).view(torch.float32).to(torch.bfloat16)
