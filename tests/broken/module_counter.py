"""Counts its runs in a module (ours).

Deviations: none.

Caught by: keeps no state between runs.
"""

from dataclasses import dataclass

from harness.api import Lab

SEEN: list[int] = []


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        SEEN.append(1)
        lab.train(lab.temperature(tau=1.0 / len(SEEN)))
