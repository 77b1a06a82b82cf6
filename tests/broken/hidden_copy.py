"""Trains on a copy of the whole lab, which cannot be copied (ours).

Deviations: none.

Caught by: runs to its budget.
"""

import copy
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        other = copy.deepcopy(lab)
        loss = other.train(other.uniform(), "5 step").train_loss
        lab.train(lab.temperature(tau=min(1.0, loss["copy"])))
