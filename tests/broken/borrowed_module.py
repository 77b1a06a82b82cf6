"""Reaches the system through another module's imports (ours).

Deviations: none.

Caught by: imports only what it may.
"""

import dataclasses
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        dataclasses.sys.modules["os"].environ["TOY"] = "1"
        lab.train(lab.proportional())
