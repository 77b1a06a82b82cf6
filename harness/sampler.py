"""Which example comes next: streams keyed by names, so that neither the order of a file nor that of a dict matters.

Each task has an endless stream of shuffled passes over its examples, keyed (seed, task, pass). A mixture decides how many
of the next epoch's examples each task gives (cumulative quotas by largest remainder, so a proportional epoch is one exact
pass) and in which order, keyed (seed, order, where it began, epoch). The whole state is small and JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.api import Mixture
from harness.paths import digest


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for these names."""
    key = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:16], "big"))


def mixture_digest(mixture: Mixture) -> str:
    """Canonical digest of a mixture, tasks sorted by name; kept, since every draw asks for it."""
    kept: str | None = vars(mixture).get("_digest")
    if kept is None:
        weights = [[t, mixture.weights[t], mixture.sizes.get(t, 0)] for t in mixture.tasks]
        kept = digest([weights, sorted(mixture.excluded), list(mixture.sequence), mixture.shuffled])[:16]
        object.__setattr__(mixture, "_digest", kept)  # no field: equality and `replace` do not see it
    return kept


def quotas(weights: Mapping[str, float], through: int, given: Mapping[str, int], n: int) -> dict[str, int]:
    """How many of the next n examples each task gives, so that after `through` + n examples all are near their share.

    Largest remainder on the cumulative targets; ties by task name. The counts sum to n.
    """
    tasks = sorted(weights)
    target = {t: weights[t] * (through + n) - given.get(t, 0) for t in tasks}
    counts = {t: max(0, int(np.floor(target[t] + 1e-9))) for t in tasks}
    for t in sorted(tasks, key=lambda t: (counts[t] - target[t], t))[: max(0, n - sum(counts.values()))]:
        counts[t] += 1
    while sum(counts.values()) > n:  # a task that was ahead of its share makes the floors sum to more than n
        counts[max(tasks, key=lambda t: (counts[t] - target[t], t) if counts[t] else (-np.inf, t))] -= 1
    return counts


class Sampler:
    """Draws example ids `task/index`. `sizes` are the numbers of training examples by task."""

    def __init__(self, seed: int, sizes: Mapping[str, int]) -> None:
        self.seed = seed
        self.sizes = dict(sizes)
        self.position = dict.fromkeys(sorted(sizes), 0)
        self.drawn = 0
        self._mixture = ""
        self._origin = 0
        self._epoch = 0
        self._offset = 0
        self._given: dict[str, int] = {}
        self._order: list[str] = []
        self._passes: dict[tuple[str, int], np.ndarray] = {}

    def draw(self, mixture: Mixture, n: int) -> list[str]:
        """The next n example ids. The same mixture goes on where it was; another one starts an epoch of its own."""
        name = mixture_digest(mixture)
        if name != self._mixture:
            self._mixture, self._origin, self._epoch, self._offset = name, self.drawn, 0, 0
            self._given, self._order = {}, []
        ids: list[str] = []
        while len(ids) < n:
            if not self._order:
                self._order = self._arrange(mixture)
            take = self._order[self._offset : self._offset + n - len(ids)]
            ids += take if mixture.sequence else [self._next(task, mixture) for task in take]
            self._offset += len(take)
            if self._offset == len(self._order):
                self._close_epoch(mixture)
        self.drawn += n
        return ids

    def _arrange(self, mixture: Mixture) -> list[str]:
        """This epoch's order: task names to take the next example of, or the fixed sequence."""
        if mixture.sequence:
            ids = list(mixture.sequence)
            if mixture.shuffled:
                ids = [ids[i] for i in stream(self.seed, "order", self._origin, self._epoch).permutation(len(ids))]
            return ids
        size = mixture.epoch_examples
        counts = quotas(mixture.weights, self._epoch * size, self._given, size)
        order = [task for task in mixture.tasks for _ in range(counts[task])]
        shuffled = stream(self.seed, "order", self._origin, self._epoch).permutation(len(order))
        return [order[i] for i in shuffled]

    def _close_epoch(self, mixture: Mixture) -> None:
        if not mixture.sequence:
            for task in self._order:
                self._given[task] = self._given.get(task, 0) + 1
        self._epoch, self._offset, self._order = self._epoch + 1, 0, []

    def _next(self, task: str, mixture: Mixture) -> str:
        size = self.sizes[task]
        while True:
            number, index = divmod(self.position[task], size)
            self.position[task] += 1
            example = f"{task}/{self._pass(task, number)[index]}"
            if example not in mixture.excluded:
                return example

    def _pass(self, task: str, number: int) -> np.ndarray:
        if (task, number) not in self._passes:
            self._passes = {key: value for key, value in self._passes.items() if key[0] != task}
            self._passes[task, number] = stream(self.seed, "pass", task, number).permutation(self.sizes[task])
        return self._passes[task, number]

    def state(self) -> dict[str, Any]:
        """JSON state: `load` of it continues exactly here."""
        return {
            "position": dict(self.position),
            "drawn": self.drawn,
            "mixture": self._mixture,
            "origin": self._origin,
            "epoch": self._epoch,
            "offset": self._offset,
            "given": dict(self._given),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.position = dict(state["position"])
        self.drawn = state["drawn"]
        self._mixture, self._origin = state["mixture"], state["origin"]
        self._epoch, self._offset = state["epoch"], state["offset"]
        self._given, self._order = dict(state["given"]), []
