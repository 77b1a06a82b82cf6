"""An objective that leaves its own gradients in the parameters (ours).

Deviations: none.

Caught by: the lab changes by its verbs alone.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        def objective(tokens):
            tokens.nll.mean().backward(retain_graph=True)
            return tokens.nll

        lab.train(lab.proportional(), objective=objective)
