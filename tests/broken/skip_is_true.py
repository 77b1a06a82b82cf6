"""Skips without a reason (ours).

Deviations: none.

Caught by: skip is honest.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def skip(self, suite) -> bool:
        return len(suite.tasks) == 1

    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional())
