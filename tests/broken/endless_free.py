"""Loops without asking for anything that spends (ours).

Deviations: none.

Caught by: runs to its budget.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        while True:
            lab.uniform()
