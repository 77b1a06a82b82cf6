"""Makes every forward pass cost nothing (ours).

Deviations: none.

Caught by: the lab changes by its verbs alone.
"""

from dataclasses import dataclass

import harness.flops as flops
from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        flops.Arch.forward = lambda self, tokens, supervised: 1
        lab.validate()
        lab.train(lab.proportional())
