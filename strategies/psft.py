"""PSFT, proximal SFT: PPO's clipped ratio with advantage 1 on demonstrations (arXiv 2508.17784).

Deviations: the old policy is taken anew every `updates` optimizer steps of the suite's effective batch, counted from the
beginning of each training (released: eight mini-batches of 8 out of a batch of 64); its forward pass is billed; LR,
warm-up and weight decay are the suite's.
"""

from dataclasses import dataclass
from typing import Any, cast

from harness.api import REST, History, Lab, Lens, Mixture


@dataclass(frozen=True)
class PSFT:
    low: float = 0.2  # r is clipped to [1 - low, 1 + high]
    high: float = 0.28  # see low
    updates: int = 8  # optimizer steps under one old policy

    def wrap(self, lab: Lab) -> Lab:
        return cast(Lab, Proximal(lab, self))


class Proximal(Lens):
    """Training in parts of `updates` steps, each with the weights that it begins with as the old policy."""

    def __init__(self, lab: Lab, method: PSFT) -> None:
        super().__init__(lab)
        self._method = method

    def train(self, mixture: Mixture, length: str = REST, **arguments: Any) -> History:
        m = self._method

        def pause(h: History | None) -> str:
            old = h.last.checkpoint if h else self._lab.checkpoint(pin=False)

            def objective(t: Any) -> Any:
                r = (t.logp - t.reference(old)).exp()
                return -r.minimum(r.clamp(1 - m.low, 1 + m.high))

            self._callbacks = {"objective": objective, "references": (old,)}
            return f"{(h.steps if h else 0) + m.updates} step"

        return self.in_parts(mixture, length, arguments, pause)
