"""Changes torch's settings for everybody (ours).

Deviations: none.

Caught by: leaves files and process alone.
"""

from dataclasses import dataclass

import torch

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        torch.use_deterministic_algorithms(True)
        lab.train(lab.proportional())
