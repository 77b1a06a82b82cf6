"""Leaves a message in the environment (ours).

Deviations: none.

Caught by: leaves files and process alone.
"""

import os
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        os.environ["TOY"] = "1"
        lab.train(lab.proportional())
