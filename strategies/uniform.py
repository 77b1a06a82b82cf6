"""Uniform mixture, a baseline: every task gives the same number of examples, small ones by repetition. Deviations: none."""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Uniform:
    def run(self, lab: Lab) -> None:
        lab.train(lab.uniform())
