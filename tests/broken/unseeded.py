"""A generator of its own without a seed (ours).

Deviations: none.

Caught by: same seed, same record.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=np.random.default_rng().random()))
