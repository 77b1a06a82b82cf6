"""A field without a default (ours).

Deviations: none.

Caught by: default-constructible.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    tau: float  # temperature

    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=self.tau))
