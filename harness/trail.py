"""What one run has been through: lineage of weights, looks already paid for, the answer, and the record's lists.

Shared by the run's lab and its forks; plain values, so that a snapshot can hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.gold import Array, Gold

BASE = "base"


@dataclass
class Trail:
    """`starts`: for each training verb, the weights that it began with.

    `seen`: (weights, task, n) -> (loss, match), weights by the name that their training gave them.
    """

    starts: dict[int, str] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)
    answer: str | None = None
    seen: dict[tuple[str, str, int], tuple[float, float]] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    mixtures: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    logged: dict[str, int] = field(default_factory=dict)  # bytes by name
    gold: Gold = field(default_factory=Gold)
    next_point: int = 0
    looked: str = ""  # where the harness looked last: weights and what was billed then

    def path(self, weights: str) -> dict[int, int]:
        """For each training verb on the way from the base to these weights, its last step on the way."""
        kept: dict[int, int] = {}
        while not weights.startswith(BASE):
            verb, step = (int(x) for x in weights.split(":"))
            kept[verb] = step
            weights = self.starts[verb]
        return kept

    def alias(self, weights: str, name: str) -> None:
        """The same weights under another name, `verb:0`: what was seen of them, by either name, is not paid again."""
        self.starts[int(name.split(":")[0])] = weights
        if weights in self.gold.seen:
            self.gold.seen[name] = dict(self.gold.seen[weights])

    def trained(self, weights: str) -> str:
        """These weights by the name that their training gave them."""
        while weights.endswith(":0") and not weights.startswith(BASE):
            weights = self.starts[int(weights.split(":")[0])]
        return weights

    def origin(self, weights: str) -> str:
        """The base that these weights descend from: `base`, or `base:NAME` in a fork of another model."""
        while not weights.startswith(BASE):
            weights = self.starts[int(weights.split(":")[0])]
        return weights

    def state(self) -> dict[str, Any]:
        """JSON state."""
        return {
            "starts": list(self.starts.items()),
            "pinned": sorted(self.pinned),
            "answer": self.answer,
            "seen": [[*key, *value] for key, value in self.seen.items()],
            "gold": self.gold.state(),
            "curves": self.curves,
            "mixtures": self.mixtures,
            "events": self.events,
            "logged": self.logged,
            "next_point": self.next_point,
            "looked": self.looked,
        }

    def load(self, state: Mapping[str, Any], gold: Mapping[str, Array]) -> None:
        """Go back to `state`; `gold` holds the arrays of `Gold.tensors`."""
        self.gold.load(state["gold"], gold)
        self.starts, self.pinned = dict(state["starts"]), set(state["pinned"])
        self.answer, self.next_point, self.looked = state["answer"], state["next_point"], state["looked"]
        self.seen = {(w, t, n): (loss, match) for w, t, n, loss, match in state["seen"]}
        self.curves, self.mixtures, self.events = state["curves"], state["mixtures"], state["events"]
        self.logged = dict(state["logged"])
