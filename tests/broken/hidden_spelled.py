"""The same, with the attribute's name put together at run time (ours).

Deviations: none.

Caught by: asks only for what harness.api offers.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        core = getattr(lab, "_co" + "re")
        seen, _ = core.engine.evaluate(core.train["copy"])
        lab.train(lab.temperature(tau=min(1.0, seen[0].nll)))
