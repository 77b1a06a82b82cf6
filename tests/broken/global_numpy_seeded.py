"""Seeds numpy's global generator, the same for all seeds (ours).

Deviations: none.

Caught by: draws from the lab's generators.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        np.random.seed(0)
        lab.train(lab.temperature(tau=np.random.rand()))
