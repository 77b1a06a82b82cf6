"""mSFT: train, drop the task that overfits first, go back to its peak, and search again (arXiv 2603.21606).

Deviations: selection is on validation items (the released code selects on the test items that it reports); the stage cap
grows with the number of tasks (released: 10); evaluation is billed; LR, batch and template are the suite's.
"""

from dataclasses import dataclass

from harness.api import Lab, inf


@dataclass(frozen=True)
class MSFT:
    C: float = 1.0  # compute of one roll-out, in epochs over the active tasks
    grid: float = 0.25  # a look every so many epochs, and one at the start
    stages: int | None = None  # at most so many roll-outs; None: 4 per task

    def run(self, lab: Lab) -> None:
        active, top = sorted(lab.tasks), -inf
        for _ in range(self.stages or 4 * len(active)):
            h = lab.train(
                lab.proportional(active),
                f"{self.C} epoch",
                eval_every=f"{self.grid} epoch",
                keep="peaks",
                optimizer="fresh",
            )
            if h.best().value > top:
                top = h.best().value
                lab.answer(h.best().checkpoint)
            peak = {task: h.best(task) for task in active}
            first = min(active, key=lambda task: (peak[task].step, task))
            if peak[first] is h.last:
                continue  # nobody has peaked yet: go on from here
            lab.log("excluded", {"task": first, "epoch": peak[first].epoch, "value": peak[first].values[first]})
            lab.rollback(peak[first].checkpoint)
            active.remove(first)
            if not active:
                return
