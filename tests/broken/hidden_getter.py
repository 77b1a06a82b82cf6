"""The same, through operator.attrgetter (ours).

Deviations: none.

Caught by: asks only for what harness.api offers.
"""

from dataclasses import dataclass
from operator import attrgetter

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        engine = attrgetter("_" + "core.engine")(lab)
        weights = engine.weights()
        lab.train(lab.temperature(tau=min(1.0, float(sum(w.abs().sum() for w in weights.values()) % 1))))
