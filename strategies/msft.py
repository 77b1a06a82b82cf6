"""mSFT: train, drop the task that overfits first, go back to its peak, and search again (arXiv 2603.21606).

Deviations: selection is on validation items (the released code selects on the test items that it reports); evaluation is
billed; LR, batch and template are the suite's. Unless `faithful`, looks are at each task's own signal (released: accuracy),
a curve that never moves has no peak before its end (released: at its start), and the stage cap grows with the number of
tasks (released: 10; here, in either case, at least one stage a task).
"""

import math
from dataclasses import dataclass

from harness.api import History, Lab, inf


@dataclass(frozen=True)
class MSFT:
    C: float = 1.0  # compute of one roll-out, in epochs over the active tasks
    grid: float = 0.25  # a look every so many epochs, and one at the start
    stages: int | None = None  # at most so many roll-outs, one per task at least; None: 4 per task
    faithful: bool = False  # as released: 10 stages, quarter-epoch looks at accuracy, flat curves peak at once

    def run(self, lab: Lab) -> None:
        active, top = sorted(lab.tasks), -inf
        stages = 10 if self.faithful else self.stages or 4 * len(active)
        for _ in range(max(stages, len(active))):
            h = lab.train(
                lab.proportional(active),
                f"{self.C} epoch",
                metric="exact_match" if self.faithful else None,
                eval_every=f"{0.25 if self.faithful else self.grid} epoch",
                keep="peaks",
                optimizer="fresh",
            )
            if h.best().value > top:
                top = h.best().value
                lab.answer(h.best().checkpoint)
            peak = {task: h.best(task) if self.faithful or moves(h, task) else h.last for task in active}
            first = min(active, key=lambda task: (peak[task].step, task))
            if h.cut or peak[first] is h.last:
                continue  # nobody has peaked before the end: go on from there
            at = {"epoch": peak[first].epoch, "value": peak[first].values[first]}
            lab.log("excluded", {"task": first, "back_to": peak[first].checkpoint.weights} | at)
            lab.rollback(peak[first].checkpoint)
            active.remove(first)
            if not active:
                return


def moves(h: History, task: str) -> bool:
    """Whether a task's curve has a peak at all: one value is a number, and another is not as good."""
    best = h.best(task).values[task]
    return not math.isnan(best) and any(not look.values[task] >= best for look in h.looks)
