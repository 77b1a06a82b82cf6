"""The time of day, asked of numpy (ours).

Deviations: none.

Caught by: same seed, same record.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        seconds = np.datetime64("now").astype(int)
        lab.train(lab.temperature(tau=float(seconds % 97) / 97))
