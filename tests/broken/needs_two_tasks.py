"""Fails where there is only one task (ours).

Deviations: none.

Caught by: runs on one task, or says why not.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.only(sorted(lab.tasks)[1]), "5 step")
        lab.train(lab.proportional())
