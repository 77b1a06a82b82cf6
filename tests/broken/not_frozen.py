"""A dataclass that can be changed (ours).

Deviations: none.

Caught by: one frozen dataclass with run or wrap.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional())
