"""A callback object with a counter of its own (ours).

Deviations: none.

Caught by: callbacks keep nothing of their own.
"""

from dataclasses import dataclass

from harness.api import Lab


class Warm:
    def __init__(self):
        self.steps = 0

    def __call__(self, tokens):
        self.steps += 1
        return tokens.nll * min(1.0, self.steps / 20)


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional(), objective=Warm())
