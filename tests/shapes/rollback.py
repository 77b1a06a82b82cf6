"""Shape: go back to where the first task was best, and leave that task out."""

from dataclasses import dataclass

from harness.api import Lab, inf


@dataclass(frozen=True)
class Rollback:
    def run(self, lab: Lab) -> None:
        active, top = sorted(lab.tasks), -inf
        while active:
            mixture = lab.proportional(active).without(lab.examples.where("nll", below=1.0))
            h = lab.train(mixture, "0.5 epoch", metric="loss", eval_every="2 step", keep="peaks", optimizer="fresh")
            if h.best().value > top:
                top = h.best().value
                lab.answer(h.best().checkpoint)
            first = min(active, key=lambda t: (h.best(t).step, t))
            lab.rollback(h.best(first).checkpoint)
            if h.best(first) is not h.last:
                active.remove(first)
