"""A lens that keeps the model near the base, and weighs down what it already knows (ours).

Deviations: none.
"""

from dataclasses import dataclass
from typing import Any

from harness.api import Lab, lens


@dataclass(frozen=True)
class Softened:
    beta: float = 0.1  # strength of the pull

    def skip(self, suite: Any) -> str | None:
        return "it compares tasks" if len(suite.tasks) < 2 else None

    def wrap(self, lab: Lab) -> Lab:
        base = lab.checkpoint()

        def objective(tokens: Any) -> Any:
            return tokens.nll + self.beta * (tokens.logp - tokens.reference(base)) ** 2

        return lens(lab, objective=objective, example_weights=lambda batch: 1 + batch.nll, references=[base])
