"""Sets a frozen field (ours).

Deviations: none.

Caught by: keeps no state between runs.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    tau: float = 1.0  # temperature

    def run(self, lab: Lab) -> None:
        object.__setattr__(self, "tau", self.tau / 2)
        lab.train(lab.temperature(tau=self.tau))
