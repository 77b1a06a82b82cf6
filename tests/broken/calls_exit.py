"""Ends its process (ours).

Deviations: none.

Caught by: runs to its budget.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional(), "3 step")
        raise SystemExit(0)
