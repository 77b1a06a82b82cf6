"""A callback that draws from the lab's generator (ours).

Deviations: none.

Caught by: draws from the lab's generators.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        rng = lab.rng
        lab.train(lab.proportional(), example_weights=lambda batch: rng.random(len(batch)) + 0.5)
