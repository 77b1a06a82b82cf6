"""Remembers runs in a default argument (ours).

Deviations: none.

Caught by: keeps no state between runs.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab, seen: dict = {}) -> None:  # noqa: B006
        seen[len(seen)] = 1
        lab.train(lab.temperature(tau=1.0 / len(seen)))
