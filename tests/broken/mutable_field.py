"""Remembers runs in a field's list (ours).

Deviations: none.

Caught by: keeps no state between runs.
"""

from dataclasses import dataclass, field

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    seen: list[int] = field(default_factory=list)  # what earlier runs did

    def run(self, lab: Lab) -> None:
        self.seen.append(len(self.seen))
        lab.train(lab.temperature(tau=1.0 / len(self.seen)))
