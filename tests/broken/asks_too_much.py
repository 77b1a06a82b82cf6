"""Asks for more than the whole budget before anything is trained (ours).

Deviations: none.

Caught by: runs to its budget.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        for _ in range(100):
            lab.gradients(lab.draw(lab.proportional(), 12), modules="all").gram()
        lab.train(lab.proportional())
