"""A field that nobody explains (ours).

Deviations: none.

Caught by: documented.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    tau: float = 0.5

    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=self.tau))
