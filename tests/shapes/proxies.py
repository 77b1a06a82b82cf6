"""Shape: proxies with budgets of their own, whose checkpoints outlive them and decide the mixture."""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Proxies:
    def run(self, lab: Lab) -> None:
        probe, excess = {t: lab.sample(t, 3) for t in lab.tasks}, {}
        for task in lab.tasks:
            with lab.fork("proxy") as child, child.fork("proxy", budget="0.1 budget") as proxy:
                proxy.train(proxy.only(task))
                left = proxy.checkpoint()
                proxy.validate(n=proxy.budget.total % 3 + 1)  # does not fit: the fork ends here
            lab.train(lab.uniform(), "2 step", keep="none")
            there, here = lab.logprobs(probe[task], at=left), lab.logprobs(probe[task])
            excess[task] = float(sum((a - b).sum() for a, b in zip(there, here, strict=True)))
        lab.log("excess", {t: lab.validate([t], metric="loss", at=left)[t].value for t in excess})
        lab.train(lab.mixture({t: 1.0 + max(0.0, e) for t, e in excess.items()}))
