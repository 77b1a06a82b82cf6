"""Computes in a thread of its own (ours).

Deviations: none.

Caught by: leaves files and process alone.
"""

import threading
from dataclasses import dataclass

import torch

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        worker = threading.Thread(target=lambda: torch.ones(500, 500) @ torch.ones(500, 500))
        worker.start()
        lab.train(lab.proportional())
        worker.join()
