from dataclasses import dataclass  # Caught by: documented.

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional())
