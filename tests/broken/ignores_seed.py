"""The same examples in the same order for every seed (ours).

Deviations: none.

Caught by: another seed, other weights.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.just(lab.examples.where("visits", below=1)))
