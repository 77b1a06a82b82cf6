"""Stops when validation stops improving, and answers (ours).

Deviations: none.
"""

from dataclasses import dataclass

from harness.api import Lab, inf


@dataclass(frozen=True)
class Plot:
    tau: float = 0.5  # temperature
    steps: int = 6  # of a stage
    # epsilon of the stopping rule, sec. 2
    least: float = 10.0

    def run(self, lab: Lab) -> None:
        best = -inf
        for _ in range(4):
            h = lab.train(
                lab.temperature(tau=self.tau), f"{self.steps} step", eval_every=f"{self.steps} step", metric="loss"
            )
            lab.answer(h.last.checkpoint)
            if h.last.value < best + self.least:
                return
            best = h.last.value
