"""Shape: a loop of one-step calls whose weights follow the excess over a reference."""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab


@dataclass(frozen=True)
class GroupDro:
    def run(self, lab: Lab) -> None:
        w, names = np.ones(len(lab.tasks)) / len(lab.tasks), list(lab.tasks)
        with lab.fork("proxy", budget="0.15 budget") as child:
            child.train(child.uniform(), "4 step", keep="none")
            R = child.checkpoint()
        for _ in range(16):
            batch = lab.draw(lab.uniform())
            ours, theirs = lab.logprobs(batch), lab.logprobs(batch, at=R)
            excess = [float(np.maximum(r - o, 0).mean()) for o, r in zip(ours, theirs, strict=True)]
            for e, value in zip(batch, excess, strict=True):
                w[names.index(e.task)] *= np.exp(0.5 * value)
            w /= w.sum()
            lab.state["w"], lab.state["mean"] = w, np.mean(excess)
            scale = {t: float(v) * len(names) for t, v in zip(names, w, strict=True)}
            lab.train(lab.just(batch), "1 step", keep="none", example_weights=lambda b, s=scale: [s[t] for t in b.task])
        lab.train(lab.mixture(dict(zip(names, lab.state["w"], strict=True))))
