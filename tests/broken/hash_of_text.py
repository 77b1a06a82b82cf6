"""The hash of a name decides (ours).

Deviations: none.

Caught by: same seed, same record.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=sum(abs(hash(task)) % 100 for task in lab.tasks) / 300))
