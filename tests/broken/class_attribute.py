"""Counts its runs in its class (ours).

Deviations: none.

Caught by: keeps no state between runs.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    runs = 0  # no field: it has no annotation

    def run(self, lab: Lab) -> None:
        type(self).runs = type(self).runs + 1
        lab.train(lab.temperature(tau=1.0 / type(self).runs))
