"""The time of day decides (ours).

Deviations: none.

Caught by: imports only what it may.
"""

import time
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=time.time() % 1))
