"""Example weights that are not numbers (ours).

Deviations: none.

Caught by: runs to its budget.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional(), example_weights=lambda batch: batch.nll * np.nan)
