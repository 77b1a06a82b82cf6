"""All that a strategy may import: the `Lab` protocol, the values that its verbs take and return, and lenses.

A strategy is a frozen dataclass with `run(lab)`; it holds the plot, the lab holds the instruments. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from harness.errors import BudgetExhausted, HarnessError
from harness.protocol import Budget, Gradients, Lab, Strategy, Table
from harness.values import (
    REST,
    Array,
    Checkpoint,
    Distribution,
    Example,
    ExampleWeights,
    ForkPhase,
    Generation,
    History,
    Keep,
    LearnedMixture,
    Length,
    Look,
    Metric,
    Mixture,
    Objective,
    OptimizerState,
    Score,
    Select,
    Selection,
    Split,
    TaskInfo,
    check_weights,
    inf,
)

__all__ = [
    "REST",
    "Array",
    "Budget",
    "BudgetExhausted",
    "Checkpoint",
    "Distribution",
    "Example",
    "ExampleWeights",
    "ForkPhase",
    "Generation",
    "Gradients",
    "HarnessError",
    "History",
    "Keep",
    "Lab",
    "LearnedMixture",
    "Length",
    "Lens",
    "Look",
    "Metric",
    "Mixture",
    "Objective",
    "OptimizerState",
    "Score",
    "Select",
    "Selection",
    "Split",
    "Strategy",
    "Table",
    "TaskInfo",
    "check_weights",
    "inf",
    "lens",
]


class Lens:
    """A lab seen through callbacks: every `train` gets them, everything else goes on to the lab within.

    A method that weighs tokens or examples or chooses them is a lens: `wrap(self, lab)` returns `lens(lab, ...)`. Two
    lenses that set the same callback are refused; their references add up. Forks are not seen through it.
    """

    def __init__(self, lab: Lab, **callbacks: Any) -> None:
        self._lab, self._callbacks = lab, {k: f for k, f in callbacks.items() if f is not None}

    def train(self, mixture: Mixture, length: str = REST, **arguments: Any) -> History:
        mine = dict(self._callbacks)
        for name in REFERENCES:
            both = (*arguments.pop(name, ()), *mine.pop(name, ()))
            mine[name] = tuple(dict.fromkeys(both))
        for name in mine.keys() - set(REFERENCES):
            if arguments.get(name) is not None:
                raise HarnessError(f"two parts of this strategy set {name!r}: they cannot be combined")
        return self._lab.train(mixture, length, **(arguments | {k: v for k, v in mine.items() if v != ()}))

    def in_parts(
        self, mixture: Mixture, length: str, arguments: Mapping[str, Any], pause: Callable[[History | None], str]
    ) -> History:
        """Train with pauses: before each part, `pause(so_far)` does what is due and says where that part ends."""
        if "pause" in arguments or "after" in arguments:
            raise HarnessError("two parts of this strategy pause the training: they cannot be combined")
        h = None
        while h is None or h.paused:
            until = pause(h)
            h = Lens.train(self, mixture, length, **arguments, pause=until, after=h)
        return h

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lab, name)


REFERENCES = ("references", "reference_logits")


def lens(
    lab: Lab,
    *,
    objective: Objective | None = None,
    example_weights: ExampleWeights | None = None,
    select: Select | None = None,
    pool: int | None = None,
    references: Sequence[Checkpoint] = (),
    reference_logits: Sequence[Checkpoint] = (),
) -> Lab:
    """`lab` with these callbacks in every `train`."""
    held = {"references": tuple(references), "reference_logits": tuple(reference_logits)}
    callbacks = {"objective": objective, "example_weights": example_weights, "select": select, "pool": pool}
    return cast(Lab, Lens(lab, **callbacks, **held))
