"""An objective that runs the step's graph backward twice (ours).

Deviations: none.

Caught by: every FLOP is in the ledger.
"""

from dataclasses import dataclass

import torch

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        def objective(tokens):
            (found,) = torch.autograd.grad(tokens.nll.sum(), tokens.logits, retain_graph=True)
            tokens.nll.sum().backward(retain_graph=True)
            return tokens.nll * (1 + found.abs().sum(-1))

        lab.train(lab.proportional(), objective=objective)
