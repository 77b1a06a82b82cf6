"""Hides an import in a text (ours).

Deviations: none.

Caught by: asks only for what harness.api offers.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        exec("import os; os.getpid()")
        lab.train(lab.proportional())
