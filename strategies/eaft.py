"""EAFT, entropy-adaptive fine-tuning: tokens that the model is sure about, right or wrong, weigh less.

Deviations: written from the option use_eaft_loss of github.com/hiyouga/LLaMA-Factory, not from a paper; the
weight is detached, as there.
"""

from dataclasses import dataclass
from typing import Any

from harness.api import Lab, lens


@dataclass(frozen=True)
class EAFT:
    alpha: float = 1.0  # exponent of the weight
    k: int = 20  # the entropy is that of the k likeliest tokens, renormalised
    scale: float = 3.0  # about ln 20, the most that it can be

    def wrap(self, lab: Lab) -> Lab:
        def objective(t: Any) -> Any:
            return (t.entropy(self.k).detach() / self.scale) ** self.alpha * t.nll

        return lens(lab, objective=objective)
