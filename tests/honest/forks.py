"""Proxies by task, then virtual steps that move the mixture (ours).

Deviations: none.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        gain = dict.fromkeys(sorted(lab.tasks), 0.0)
        for task in sorted(lab.tasks):
            with lab.fork("proxy", budget="0.08 budget") as child:
                h = child.train(child.only(task), eval_every="2 step", metric="loss")
                gain[task] = max(0.0, h.last.value - h.looks[0].value)
        lab.log("gain", gain)
        mixture = lab.mixture({t: 0.1 + g for t, g in gain.items()})
        while True:
            lab.train(mixture, "6 step", keep="none")
            batch = lab.draw(mixture)
            with lab.fork("probe", start="now") as child:
                child.train(child.just(batch), "1 step", keep="none")
                after = child.validate(metric="loss", n=2)
            mixture = lab.mixture({t: 1.0 + after[t].loss for t in lab.tasks})
