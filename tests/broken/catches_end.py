"""Swallows the end of the budget and carries on (ours).

Deviations: none.

Caught by: lets the budget end it.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        for _ in range(3):
            try:
                lab.train(lab.proportional())
                lab.validate()
            except BaseException:
                continue
