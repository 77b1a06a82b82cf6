"""SFT with a validation set: one long run on the proportional mixture, the best checkpoint of its looks is the answer.

It is mSFT's first comparator (arXiv 2603.21606, table 2). Deviations: the run lasts as long as the budget (paper: up to 10
epochs, inferred), and the looks are paid for out of it.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class SFT:
    grid: float = 0.25  # a look every so many epochs

    def run(self, lab: Lab) -> None:
        h = lab.train(lab.proportional(), eval_every=f"{self.grid} epoch", keep="best")
        lab.answer(h.best().checkpoint)
