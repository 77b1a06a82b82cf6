"""Which weights stand in the engine, what goes with them, and going back: the part of a core that holds checkpoints.

With the weights go the optimizer, the place in the data, example statistics, named arrays and rewritten responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from harness import ranks
from harness.api import HarnessError
from harness.checkpoint import Store, Tensors
from harness.corpus import Data
from harness.ports import Engine
from harness.sampler import Sampler
from harness.table import Columns, State
from harness.trail import BASE, Trail


class Standing:
    """`standing` names the weights in the engine, `base` those it began with. `loose`: checkpoints that a stage may drop."""

    def __init__(
        self, engine: Engine, data: Data, store: Store, sampler: Sampler, trail: Trail, base: str = BASE
    ) -> None:
        self.engine, self.data, self.store, self.sampler, self.trail = engine, data, store, sampler, trail
        self.table, self.memory = Columns({t: len(items) for t, items in data.train.items()}), State()
        self.revised: dict[str, str] = {}  # example id -> version of its response, where it was rewritten
        self._others: dict[str, Tensors] = {}
        self.base = self.standing = base
        self.outer: Standing | None = None  # of a fork: the lab around it
        self.verb = 0
        self.loose: set[str] = set()
        self.held: set[str] = set()  # of them, what the running stage looks through: an interrupted one needs it again
        self.deferred = False  # the standing weights were promised as a checkpoint that is not written yet
        self.place: Mapping[str, Any] | None = None  # in the data, when they were

    def save(self, weights: str, restart: bool) -> None:
        """Put the standing weights into the store. Without the optimizer where the stage restarts it anyway."""
        self.loose.add(weights)
        self._store(weights, optimizer=not restart)

    def release(self, weights: str) -> None:
        """Drop a checkpoint that a stage no longer needs: not the answer, nor one of `checkpoint()` or of an outer lab."""
        if weights in self.loose - self.held - self.trail.pinned - {self.trail.answer}:
            self.loose.discard(weights)
            if not any(weights in lab.loose for lab in self.around()):
                self.store.drop(weights)

    def around(self) -> Iterator[Standing]:
        """The labs around a fork's, from the inside out."""
        lab = self.outer
        while lab is not None:
            yield lab
            lab = lab.outer

    def _store(self, weights: str, optimizer: bool) -> None:
        if weights == self.base or weights in self.store:
            return
        groups = {"model": self.engine.weights(wait=False)} | self._remembered()
        if optimizer:
            groups["optimizer"] = self.engine.moments(wait=False)
        place = self.place if self.deferred and self.place is not None else self.sampler.state()
        self.store.save(weights, groups, {"sampler": place, "revised": dict(self.revised)})

    def _remembered(self) -> dict[str, Tensors]:
        return {"table": _torch(self.table.tensors()), "memory": _torch(self.memory.tensors())}

    def gold_tensors(self) -> Tensors:
        return _torch(self.trail.gold.tensors())

    def remember(self, groups: Mapping[str, Tensors], revised: Mapping[str, str]) -> None:
        """Example statistics, named arrays and rewritten responses as they were with some weights."""
        self.table.load({k: v.numpy() for k, v in groups["table"].items()})
        self.memory.load({k: v.numpy() for k, v in groups["memory"].items()})
        self.revised = dict(revised)

    def pin(self) -> str:
        """Store the standing weights, with the optimizer, for the rest of the run."""
        if self.standing in self.store and not self.store.holds(self.standing, "optimizer"):
            self._rename()  # a training that had restarted the optimizer kept the weights without it
        self._store(self.standing, optimizer=True)
        self.trail.pinned.add(self.standing)
        return self.standing

    def promise(self) -> str:
        """The standing weights can be gone back to until the next training is over."""
        if self.standing != self.base and self.standing not in self.store and not self.deferred:
            self.defer()
        return self.standing

    def defer(self) -> None:
        """A checkpoint of this moment, written when the weights are about to change; data may be drawn till then."""
        self.loose.add(self.standing)
        self.deferred, self.place = True, self.sampler.state()

    def settle(self) -> None:
        """Write the last checkpoint that a `train` promised, now that the weights are about to change."""
        if self.deferred:
            self.save(self.standing, restart=False)
            self.deferred = False

    def alter(self) -> None:
        """What is remembered changes, but not the weights: what is stored or promised under their name is of before.

        So is what a lab around this fork's remembers of the weights that both stand at.
        """
        self.settle()
        shared = any(lab.standing == self.standing for lab in self.around())
        if shared or self.standing == self.base or self.standing in self.store:
            self._rename()

    def _rename(self) -> None:
        name = f"{self.verb}:0"
        self.trail.alias(self.standing, name)
        self.standing = name

    def own(self, weights: str) -> None:
        """Raise HarnessError for a checkpoint of another model, whatever its shapes."""
        known = weights.startswith(BASE) or weights in self.store
        if known and self.trail.origin(weights) != self.base:
            raise HarnessError(f"checkpoint {weights} is another model's; only a fork of that model can use it")

    def restore(self, weights: str, optimizer: str) -> None:
        """Weights, samplers and (if saved and wanted) optimizer of a checkpoint; neither ledger nor clock."""
        self.own(weights)
        self.settle()
        if weights == self.base:
            self.engine.load_base()
            self.engine.fresh_optimizer()
            self.sampler.load(Sampler(self.sampler.seed, self.sampler.sizes).state())
            self.table.clear()
            self.memory.load({})
            self.revised = {}
        else:
            groups, state = self.store.load(weights)
            self.engine.load_weights(groups["model"])
            if optimizer == "restore" and "optimizer" in groups:
                self.engine.load_moments(groups["optimizer"])
            else:
                self.engine.fresh_optimizer()
            self.sampler.load(state["sampler"])
            self.remember(groups, state["revised"])
        self.standing = weights

    def available(self, weights: str) -> bool:
        """Whether one can look through these weights."""
        if weights in (self.standing, self.base):
            return True
        return weights in self.store and self.trail.origin(weights) == self.base

    def reachable(self, weights: str) -> bool:
        """Whether this lab or one around it can look through these weights."""
        return self.available(weights) or (self.outer is not None and self.outer.reachable(weights))

    def weights_at(self, weights: str) -> Tensors:
        """A checkpoint's weights, which rank 0 has. Raises HarnessError if it was released."""
        if weights in self._others:
            return self._others[weights]
        if weights == self.base:
            return self.engine.base()
        if weights not in self.store:
            raise HarnessError(f"checkpoint {weights} was released; see Lab.train about `keep`")
        self.own(weights)
        return self.store.load(weights)[0]["model"]

    def look_through(self, at: str, look: Callable[[], Any]) -> Any:
        """Do `look` with other weights in the engine; ours, optimizer and samplers are not touched."""
        if at == self.standing:
            return look()
        standing, self.standing = self.standing, at
        try:
            with self.engine.wearing(self.weights_at(at)):
                return look()
        finally:
            self.standing = standing

    def _other(self, weights: str) -> Tensors:
        """Weights that an objective compares with, held until the next stage."""
        if weights not in self._others:
            self._others[weights] = ranks.everywhere(self.weights_at(weights))
        return self._others[weights]


def _torch(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Tensors:
    # Not ascontiguousarray, which gives a number one dimension.
    return {name: torch.from_numpy(np.array(array, order="C", copy=None)) for name, array in arrays.items()}
