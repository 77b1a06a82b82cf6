"""Computes while it is imported, before there is a ledger (ours).

Deviations: none.

Caught by: every FLOP is in the ledger.
"""

from dataclasses import dataclass

import torch

from harness.api import Lab

TAU = float((torch.ones(300, 300) @ torch.ones(300, 300)).mean() / 600)


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=TAU))
