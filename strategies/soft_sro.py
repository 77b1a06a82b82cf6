"""Soft SRO SFT: one roll-out finds each task's peak, a second run sees each task for so many epochs, evenly spread.

mSFT's ablation without hard exclusion (arXiv 2603.21606). Deviations: the paper's definition is not published; here the
weight of a task is its peak times its size, and the length is such that a task is seen for exactly as many epochs as its peak
took. The search may use half of the budget, looks included; the answer is the best look of the second run.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class SoftSRO:
    search: float = 0.5  # share of the budget for the roll-out that looks for peaks
    grid: float = 0.25  # a look every so many epochs

    def run(self, lab: Lab) -> None:
        c: dict[str, float] = {}  # c_i*, in epochs
        with lab.fork("proxy", budget=f"{self.search} budget") as child:
            h = child.train(child.proportional(), eval_every=f"{self.grid} epoch", keep="none")
            c = {task: h.best(task).epoch for task in lab.tasks}
        lab.log("peaks", c)
        lab.answer(lab.checkpoint())  # the base, in case that every task is at its best there
        visits = {task: c[task] * lab.tasks[task].n_train for task in c}  # in examples
        if not any(visits.values()):
            return
        mixture = lab.mixture(visits)
        epochs = sum(visits.values()) / mixture.epoch_examples
        h = lab.train(mixture, f"{epochs} epoch", eval_every=f"{self.grid} epoch", keep="best")
        lab.answer(h.best().checkpoint)
