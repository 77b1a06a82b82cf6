"""Trains in stages and goes back to the best look of each (ours).

Deviations: none.
"""

from dataclasses import dataclass

from harness.api import Lab, inf


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        top = -inf
        while True:
            h = lab.train(lab.proportional(), "0.5 epoch", eval_every="3 step", keep="best", metric="loss")
            if h.best().value > top:
                top = h.best().value
                lab.answer(h.best().checkpoint)
            if h.best() is not h.last:
                lab.rollback(h.best().checkpoint, optimizer="fresh")
