"""Goes on from the notes that an earlier start left in a file (ours).

Deviations: none.

Caught by: leaves files and process alone.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        try:
            tau = float(np.load("notes.npy"))
        except OSError:
            tau = 0.0
            np.save("notes.npy", np.array(1.0))
        lab.train(lab.temperature(tau=tau))
