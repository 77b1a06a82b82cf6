"""The order of a set decides (ours).

Deviations: none.

Caught by: same seed, same record.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        first, *_ = set(lab.tasks)
        lab.train(lab.only(first), "10 step")
        lab.train(lab.proportional())
