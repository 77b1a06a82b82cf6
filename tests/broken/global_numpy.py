"""Draws from numpy's global generator (ours).

Deviations: none.

Caught by: draws from the lab's generators.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=np.random.rand()))
