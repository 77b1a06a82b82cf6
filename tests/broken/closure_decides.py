"""What a callback remembered decides the next training (ours).

Deviations: none.

Caught by: killed anywhere, the same record.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        losses = {}

        def weights(batch):
            for task, nll in zip(batch.task, batch.nll, strict=True):
                losses[task] = float(nll)
            return batch.nll * 0 + 1

        lab.train(lab.proportional(), "8 step", example_weights=weights)
        while True:
            lab.train(lab.mixture(losses or {"copy": 1.0}), "8 step")
