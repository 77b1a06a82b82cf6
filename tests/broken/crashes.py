"""Divides by zero (ours).

Deviations: none.

Caught by: runs to its budget.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional(), f"{1 / (len(lab.tasks) - 3)} epoch")
