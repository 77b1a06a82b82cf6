"""A selector that goes on where its looks no longer fit (ours).

Deviations: none.

Caught by: lets the budget end it.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab, Selection


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        def select(pool):
            try:
                worst = np.argsort(-pool.nll)
            except BaseException:
                worst = np.arange(len(pool))
            return Selection(worst[: pool.batch])

        lab.train(lab.proportional(), pool=4, select=select)
