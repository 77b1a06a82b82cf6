"""Draws from the standard library's generator (ours).

Deviations: none.

Caught by: draws from the lab's generators.
"""

import random
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=random.random()))
