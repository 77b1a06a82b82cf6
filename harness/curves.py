"""Made-up learning curves, for plans: what a task's loss and exact match may look like after so many passes over it.

They are not predictions. Together they span what an adaptive strategy can meet, so that its bill becomes a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LOSS, FLOOR = 4.0, 0.2  # nats a token before training and at best
WOBBLE = 0.04  # of quality, in the scenario that is noisy

Quality = Callable[[float, float, float], float]


@dataclass(frozen=True)
class Scenario:
    """`quality(passes, horizon, rank)` in [0, 1): of a task after so many passes over its examples.

    `horizon`: the passes that the budget pays for; `rank` in (0, 1): the task's place among the tasks. `onset`: the
    share of the horizon during which nothing is answered exactly yet though the loss falls; `rambles`: whether responses
    run to the token limit instead of ending as the reference does.
    """

    name: str
    meaning: str
    quality: Quality
    onset: float = 0.0
    rambles: bool = False

    def loss(self, passes: float, horizon: float, rank: float) -> float:
        """Mean loss per supervised token, in nats."""
        return LOSS - (LOSS - FLOOR) * self.quality(passes, horizon, rank)

    def match(self, passes: float, horizon: float, rank: float) -> float:
        """The share of exact matches."""
        late = self.onset * horizon * rank
        return 0.0 if passes < late else self.quality(passes - late, horizon, rank)


def _rise(passes: float, horizon: float, rank: float) -> float:
    """Without end, and never as flat as a float: later is always better."""
    return passes / (passes + 0.1 * horizon * (0.5 + rank))


def _bend(at: float, passes: float, horizon: float, rank: float) -> float:
    """A rise until `at` passes, then a fall at the same pace."""
    top = _rise(at, horizon, rank)
    return _rise(passes, horizon, rank) if passes <= at else top * at / passes


def _falling(passes: float, horizon: float, rank: float) -> float:
    return 0.5 / (1.0 + passes / (0.5 + rank))


def _early(passes: float, horizon: float, rank: float) -> float:
    return _bend(0.5 + 0.5 * rank, passes, horizon, rank)


def _spread(passes: float, horizon: float, rank: float) -> float:
    return _bend(horizon * rank, passes, horizon, rank)


def _reversed(passes: float, horizon: float, rank: float) -> float:
    return _bend(horizon * (1.0 - rank), passes, horizon, rank)


def _noisy(passes: float, horizon: float, rank: float) -> float:
    wave = math.sin(17.0 * passes + 40.0 * rank) + math.sin(41.0 * passes + 90.0 * rank)
    return 0.9 * _rise(passes, horizon, rank) + WOBBLE * (1.0 + wave / 2.0)


# The first two are opposites: a strategy that does the same in both does not look at its curves.
SCENARIOS = (
    Scenario("rising", "tasks get better until the end", _rise),
    Scenario("falling", "tasks get worse from the start", _falling, rambles=True),
    Scenario("early", "tasks peak within their first pass", _early),
    Scenario("spread", "tasks peak one after another", _spread),
    Scenario("reversed", "the same, last task first", _reversed),
    Scenario("late", "exact matches come late", _rise, onset=0.5, rambles=True),
    Scenario("noisy", "tasks rise and wobble", _noisy),
)
