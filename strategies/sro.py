"""SRO SFT: one roll-out finds each task's peak, a second run from the base drops each task when it gets there.

mSFT's ablation without renewed search (arXiv 2603.21606). Deviations: the search may use half of the budget, looks included
(paper: a run of its own); the answer is the best look of the second run.
"""

from dataclasses import dataclass

from harness.api import Lab, inf


@dataclass(frozen=True)
class SRO:
    search: float = 0.5  # share of the budget for the roll-out that looks for peaks
    grid: float = 0.25  # a look every so many epochs

    def run(self, lab: Lab) -> None:
        c: dict[str, float] = {}  # c_i*, in epochs
        with lab.fork("proxy", budget=f"{self.search} budget") as child:
            h = child.train(child.proportional(), eval_every=f"{self.grid} epoch", keep="none")
            c = {task: h.best(task).epoch for task in lab.tasks}
        lab.log("peaks", c)
        lab.answer(lab.checkpoint())  # the base, in case that nothing is better
        clock, top = 0.0, -inf
        for end in sorted({peak for peak in c.values() if peak > 0}):
            active = [task for task in c if c[task] >= end]
            h = lab.train(
                lab.proportional(active), f"{end - clock} epoch", eval_every=f"{self.grid} epoch", keep="best"
            )
            if h.best().value > top:
                top = h.best().value
                lab.answer(h.best().checkpoint)
            clock = end
