"""Asks for a verb after the end of the budget (ours).

Deviations: none.

Caught by: lets the budget end it.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        try:
            while True:
                lab.train(lab.proportional(), "10 step")
        finally:
            lab.answer()
