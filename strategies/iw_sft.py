"""iw-SFT: each response weighs by how much likelier it has become since the base model (arXiv 2507.12856).

Deviations: LR, batch, epochs and template are the suite's. The reference is the base model, looked at once per example
(billed); the released trainer keeps a frozen copy and runs it in every step.
"""

from dataclasses import dataclass
from typing import Any, Literal

from harness.api import Lab, lens


@dataclass(frozen=True)
class IWSFT:
    tau: float = 1.0  # exponent of the importance weight
    clip: float = 16.0  # weights of sequences lie in [0, clip]
    per: Literal["sequence", "token"] = "sequence"  # "token": the released alternative, clipped to [low, high]
    low: float = 0.2  # least weight of a token
    high: float = 1.8  # largest weight of a token

    def wrap(self, lab: Lab) -> Lab:
        base = lab.checkpoint()  # before any training

        def objective(t: Any) -> Any:
            ratio = t.logp.detach() - t.reference(base)
            if self.per == "token":
                return (self.tau * ratio).exp().clamp(self.low, self.high) * t.nll
            total = ratio.new_zeros(len(t.ids)).index_add(0, t.example, ratio)
            count = ratio.new_zeros(len(t.ids)).index_add(0, t.example, ratio.new_ones(len(ratio)))
            weight = (self.tau * total / count.clamp(min=1)).exp().clamp(0, self.clip)
            return weight[t.example] * t.nll

        return lens(lab, objective=objective, references=[base])
