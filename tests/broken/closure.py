"""A callback that remembers in a variable of run (ours).

Deviations: none.

Caught by: callbacks keep nothing of their own.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        losses = []

        def weights(batch):
            losses.append(float(batch.nll.mean()))
            return batch.nll * 0 + min(losses) / losses[-1]

        lab.train(lab.proportional(), example_weights=weights)
