"""A mixture made by hand, with a negative weight (ours).

Deviations: none.

Caught by: mixtures are proper.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        made = lab.proportional()
        made.weights["copy"] = -made.weights["copy"]
        lab.train(made)
