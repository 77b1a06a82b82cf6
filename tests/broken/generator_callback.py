"""A callback that counts with an iterator (ours).

Deviations: none.

Caught by: callbacks keep nothing of their own.
"""

import itertools
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        steps = itertools.count(1)
        lab.train(lab.proportional(), objective=lambda tokens: tokens.nll / next(steps))
