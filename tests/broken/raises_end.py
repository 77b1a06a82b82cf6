"""Pretends that the budget has ended (ours).

Deviations: none.

Caught by: lets the budget end it.
"""

from dataclasses import dataclass

from harness.api import BudgetExhausted, Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional(), "3 step")
        raise BudgetExhausted
