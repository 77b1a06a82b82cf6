"""Shape: a lens whose losses know a reference and whose weights remember each example."""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab, lens


@dataclass(frozen=True)
class Weighting:
    decay: float = 0.5

    def wrap(self, lab: Lab) -> Lab:
        base = lab.checkpoint()

        def objective(t):
            far = (t.logp - t.reference(base)).exp().clamp(max=2.0)
            kl = (t.logits.softmax(-1) * (t.logits.log_softmax(-1) - t.reference_logits(base).log_softmax(-1))).sum(-1)
            return far.detach() * t.nll + 0.1 * kl + 0.01 * t.nll * t.column("ema").nan_to_num()

        def weights(batch):
            old = np.where(np.isnan(batch.table["ema"]), batch.nll, batch.table["ema"])
            batch.table["ema"] = self.decay * old + (1 - self.decay) * batch.nll
            batch.state["steps"] = batch.state.get("steps", 0) + 1
            return 1 / (1 + batch.table["ema"]) + 0.1 * batch.rng.random(len(batch))

        return lens(lab, objective=objective, example_weights=weights, references=[base], reference_logits=[base])
