"""Shape: a step taken for a look only, and gradients that are used again after other verbs."""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class VirtualStep:
    def run(self, lab: Lab) -> None:
        weights, held = dict.fromkeys(lab.tasks, 1.0), [e for t in lab.tasks for e in lab.sample(t, 2, "validation")]
        for _ in range(5):
            batch, start = lab.draw(lab.mixture(weights)), lab.checkpoint()
            ours, theirs = lab.gradients(batch, modules="last:1"), lab.gradients(held, modules="last:1", at=start)
            before, pull = lab.logprobs(held), ours.gram(theirs).mean(1) + ours.rows(project=8).sum(1)
            with lab.fork("probe", start="now") as child:
                child.train(child.just(batch), "1 step", keep="none")
                after = child.logprobs(held)
            gain = [float((a - b).mean()) for a, b in zip(after, before, strict=True)]
            similar = np.corrcoef(ours.rows(project=8)).mean() + theirs.rows(project=4).sum()
            lab.log("seen", {"gain": gain, "similar": float(similar), "norms": ours.gram().diagonal()})
            weights = {t: 1.0 + float(np.abs(pull).mean()) + abs(gain[k]) for k, t in enumerate(lab.tasks)}
            lab.train(lab.just(batch), "1 step", keep="none")
            lab.train(lab.mixture(weights), "3 step", keep="none")
