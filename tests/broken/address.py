"""An object's address decides (ours).

Deviations: none.

Caught by: same seed, same record.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=float(int(str(object()).split("0x")[1][:-1], 16) // 16 % 1009) / 1009))
