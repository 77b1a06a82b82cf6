"""Size-proportional SFT: every epoch is one exact pass over the union of all tasks' examples.

The baseline of the board (docs/rules.md): its FLOPs define the budget. Deviations: none.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Proportional:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional())
