"""SFT+KL: SFT held near the base model by lambda KL(base || model), the comparison of ASFT's paper (arXiv 2509.23753).

Deviations: the reference's forward pass is billed in every step; LR, batch and template are the suite's.
"""

from dataclasses import dataclass
from typing import Any

from harness.api import Lab, lens


@dataclass(frozen=True)
class SFTKL:
    lam: float = 0.05  # lambda; the released script's default is 0.1

    def wrap(self, lab: Lab) -> Lab:
        base = lab.checkpoint()  # before any training

        def objective(t: Any) -> Any:
            q_SV = t.reference_logits(base).log_softmax(-1)
            return t.nll + self.lam * (q_SV.exp() * (q_SV - t.logits.log_softmax(-1))).sum(-1)

        return lens(lab, objective=objective, reference_logits=[base])
