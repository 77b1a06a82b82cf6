"""Keeps notes in a file (ours).

Deviations: none.

Caught by: leaves files and process alone.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional())
        np.save("notes.npy", np.zeros(3))
