"""DFT, dynamic fine-tuning: each token's loss times its own probability, which undoes SFT's 1/p (arXiv 2508.05629).

The gradient is that of minus the probability. Deviations: the sum is divided by the supervised tokens of the effective
batch (released: by those of each micro-batch, then averaged); LR, batch and template are the suite's.
"""

from dataclasses import dataclass

from harness.api import Lab, lens


@dataclass(frozen=True)
class DFT:
    def wrap(self, lab: Lab) -> Lab:
        return lens(lab, objective=lambda t: t.p * t.nll)  # Eq. 9: sg(p) * -log p
