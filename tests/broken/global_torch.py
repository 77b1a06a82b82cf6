"""Draws from torch's global generator in a callback (ours).

Deviations: none.

Caught by: draws from the lab's generators.
"""

from dataclasses import dataclass

import torch

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional(), objective=lambda t: t.nll * torch.rand(len(t)))
