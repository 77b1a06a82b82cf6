"""Callbacks that keep a moving average per example in the table and one per task in the state (ours).

Deviations: none.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        def weights(batch):
            old = batch.table["ema"]
            batch.table["ema"] = np.where(np.isnan(old), batch.nll, 0.9 * old + 0.1 * batch.nll)
            seen = batch.state["mean"] if "mean" in batch.state else np.zeros(1)
            batch.state["mean"] = 0.9 * seen + 0.1 * batch.nll.mean()
            return 0.5 + batch.rng.random(len(batch)) / (1 + batch.state["mean"][0])

        lab.train(lab.proportional(), "0.5 budget", example_weights=weights, objective=lambda t: t.p * t.nll)
        hard = lab.examples.top("ema", 12)
        lab.log("mean", lab.state["mean"])
        lab.train(lab.just(hard), "3 step")
        lab.train(lab.proportional().without(hard[:3]), objective=lambda t: t.nll + 0.1 * t.entropy(5))
