"""What one lab's verbs work on: its engine, data, account, clock, sampler, and the name of the weights that stand there.

Weights are named by how they came about (`base`, or `verb:step` of the training that made them), so that a look is
paid once per weights, a checkpoint exists once, and the path from the base to the answer is known for `discarded`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.api import HarnessError, Look, Metric, Mixture, Score, TaskInfo
from harness.checkpoint import Store, Tensors
from harness.codec import plain
from harness.corpus import Data
from harness.data import Item
from harness.ledger import Account, Cost
from harness.looks import Looks, pooled
from harness.loop import Clock, Spec, Stage
from harness.ports import Engine, Scope
from harness.sampler import Sampler, stream
from harness.suite import Suite
from harness.table import Columns, State
from harness.trail import BASE, Trail

LOG_NAME_BYTES, LOG_RUN_BYTES = 64_000, 1_000_000

__all__ = ["Core", "Data", "Engine", "Progress"]


@dataclass(frozen=True)
class Progress:
    """What a person watching the run sees after each step: FLOPs billed and allowed, and the step's own figures."""

    billed: int
    cap: int
    step: int
    tokens: int
    loss: float
    seconds: float


Companion = Callable[[str], tuple[Engine, Data]]  # another model by name: its engine, and the data in its tokens


class Core:
    """Implements `loop.Trainer`; one per lab. `looking` is False in forks: the harness's own looks are the root's."""

    def __init__(
        self,
        engine: Engine,
        data: Data,
        account: Account,
        store: Store,
        sampler: Sampler,
        clock: Clock,
        trail: Trail,
        *,
        looking: bool = True,
        base: str = BASE,
        watch: Callable[[Progress], None] | None = None,
        companion: Companion | None = None,
    ) -> None:
        self.engine, self.data, self.ledger, self.store = engine, data, account, store
        self.sampler, self.clock, self.trail, self.watch = sampler, clock, trail, watch
        self.suite, self.train, self.validation = data.suite, data.train, data.validation
        self.table, self.memory = Columns({t: len(items) for t, items in data.train.items()}), State()
        self.revised: dict[str, str] = {}  # example id -> version of its response, where it was rewritten
        self._others: dict[str, Tensors] = {}
        self.info = {t: _info(self.suite, t, data.train[t], data.validation[t]) for t in sorted(data.train)}
        self.looks = Looks(engine, data.validation, self.info, account, trail, self.suite.look if looking else None)
        self.base = self.standing = base
        self.companion = companion
        self.outer: Core | None = None  # of a fork: the lab around it
        self.metric: Metric | None = None
        self.verb, self.args = 0, ""
        self.loose: set[str] = set()
        self.deferred = False
        self.resumed: dict[str, Any] | None = None
        self.on_tick: Callable[[Stage | None], None] | None = None

    # --- what the loop asks for

    def items(self, ids: Sequence[str]) -> list[Item]:
        return [self.data.item(i, self.revised.get(i, "")) for i in ids]

    def step_cost(self, items: list[Item], spec: Spec) -> Cost:
        """What a step on these items bills: with the forward passes of references that are not paid for yet."""
        cost = self.engine.training_cost(items)
        model = cost.model + len(spec.logits) * self.engine.forward_cost(items).model
        for at in spec.references:
            unseen = self._unseen(at.weights, items)
            model += self.engine.forward_cost(unseen).model if unseen else 0
        return Cost(model, cost.hardware, cost.tokens)

    def take_step(
        self, items: list[Item], lr: float, spec: Spec, step: int, weights: Sequence[float] | None
    ) -> tuple[tuple[float, ...], Cost]:
        bill = self.step_cost(items, spec)
        references, hardware = {}, 0
        for at in spec.references:
            if unseen := self._unseen(at.weights, items):
                self._other(at.weights)  # the base lies on disk: read once a stage, not once a step
                hardware += self.look_at_gold(at.weights, self.keys(items), unseen)
            references[at] = self.trail.gold.get(at.weights, self.keys(items))
        done = self.engine.step(
            items,
            lr,
            spec.objective,
            spec.example_weights,
            scope=Scope(self.table, self.memory, self.rng("weights", step), self.clock.progress),
            references=references,
            others={at: self._other(at.weights) for at in spec.logits},
            weights=weights,
        )
        self.table.visit([i.id for i in items], [n / i.supervised for n, i in zip(done.nll, items, strict=True)])
        return done.nll, Cost(bill.model, done.cost.hardware + hardware, bill.tokens)

    def rng(self, callback: str, step: int) -> np.random.Generator:
        """For one kind of callback at this verb's step."""
        return stream(self.sampler.seed, callback, self.verb, step)

    def keys(self, items: Sequence[Item]) -> list[tuple[str, str]]:
        return [(item.id, self.revised.get(item.id, "")) for item in items]

    def _unseen(self, weights: str, items: Sequence[Item]) -> list[Item]:
        by_key = dict(zip(self.keys(items), items, strict=True))
        return [by_key[key] for key in self.trail.gold.missing(weights, by_key)]

    def look_at_gold(self, weights: str, keys: Sequence[tuple[str, str]], unseen: list[Item]) -> int:
        """Log-probabilities of these items' tokens through other weights into `trail.gold`; the hardware FLOPs."""
        if not unseen:
            return 0
        missing = self.trail.gold.missing(weights, keys)
        arrays, hardware = self.look_through(weights, lambda: self.engine.logprobs(unseen))
        self.trail.gold.put(weights, missing, arrays)
        return int(hardware)

    def _other(self, weights: str) -> Tensors:
        """Weights that an objective compares with, held until the next stage."""
        if weights not in self._others:
            self._others[weights] = self.weights_at(weights)
        return self._others[weights]

    def stepped(self, step: int, tokens: int, loss: float, seconds: float) -> None:
        left, self.standing = self.standing, f"{self.verb}:{step}"
        if not self.reachable(left):
            self.trail.gold.forget(left)  # a selector looked at its pool, once a step
        self.looks.observe(self.standing, self.verb)
        if self.watch:
            root = self.ledger.root
            self.watch(Progress(root.spent, root.cap, step, tokens, loss, seconds))

    def tick(self, stage: Stage | None) -> None:
        """A moment at which a snapshot may be taken."""
        if self.on_tick:
            self.on_tick(stage)

    def look_cost(self) -> int:
        return self.looks.cost()

    def look(self, step: int, epoch: float) -> Look:
        scores = self.scores(sorted(self.validation), self.metric, None, step)
        return Look(step, epoch, {t: s.value for t, s in scores.items()}, pooled(scores))

    def scores(self, tasks: list[str], metric: Metric | None, n: int | None, step: int = 0) -> dict[str, Score]:
        """Billed looks at the standing weights."""
        return self.looks.scores(self.standing, tasks, metric, n, self.verb, step)

    def save(self, weights: str, restart: bool) -> None:
        """Put the standing weights into the store. Without the optimizer where the stage restarts it anyway."""
        self.loose.add(weights)
        self._store(weights, optimizer=not restart)

    def release(self, weights: str) -> None:
        """Drop a checkpoint that a stage no longer needs, unless it is the answer or was made by `checkpoint()`."""
        if weights in self.loose and weights not in self.trail.pinned and weights != self.trail.answer:
            self.loose.discard(weights)
            self.store.drop(weights)

    # --- weights

    def _store(self, weights: str, optimizer: bool) -> None:
        if weights == self.base or weights in self.store:
            return
        groups = {"model": self.engine.weights()} | self._remembered()
        if optimizer:
            groups["optimizer"] = self.engine.moments()
        self.store.save(weights, groups, {"sampler": self.sampler.state(), "revised": dict(self.revised)})

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
        self._store(self.standing, optimizer=True)
        self.trail.pinned.add(self.standing)
        return self.standing

    def promise(self) -> str:
        """The standing weights can be gone back to until the next training is over."""
        if self.standing != self.base and self.standing not in self.store:
            self.loose.add(self.standing)
            self.deferred = True
        return self.standing

    def settle(self) -> None:
        """Write the last checkpoint that a `train` promised, now that the weights are about to change."""
        if self.deferred:
            self.save(self.standing, restart=False)
            self.deferred = False

    def alter(self) -> None:
        """What is remembered changes, but not the weights: what is stored or promised under their name is of before."""
        self.settle()
        if self.standing == self.base or self.standing in self.store:
            name = f"{self.verb}:0"
            self.trail.alias(self.standing, name)
            self.standing = name

    def restore(self, weights: str, optimizer: str) -> None:
        """Weights, samplers and (if saved and wanted) optimizer of a checkpoint; neither ledger nor clock."""
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
        """A checkpoint's weights. Raises HarnessError if it was released."""
        if weights in self._others:
            return self._others[weights]
        if weights == self.base:
            return self.engine.base()
        if weights not in self.store:
            raise HarnessError(f"checkpoint {weights} was released; see Lab.train about `keep`")
        if self.trail.origin(weights) != self.base:
            raise HarnessError(f"checkpoint {weights} is another model's; look through it inside a fork of that model")
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

    def new_stage(self, mixture: Mixture, fresh: bool, references: set[str], looked: set[str] | None = None) -> None:
        """Begin a `train`: release the previous one's checkpoints but its references, restart the optimizer if asked.

        `looked`: the weights seen so far by a training that goes on after a pause; they stay.
        """
        if looked is not None and self.standing not in references:
            self.deferred = False
        self.settle()
        self._others = {}
        for weights in sorted(references):
            self.weights_at(weights)
        for weights in sorted(self.loose - {self.standing} - references - (looked or set())):
            self.release(weights)
        self.trail.gold.prune(self.reachable)
        if fresh:
            self.engine.fresh_optimizer()
        weights_now = {t: round(w, 6) for t, w in mixture.weights.items()}
        mixtures = self.trail.mixtures
        if self.looks.spec is not None and (not mixtures or mixtures[-1]["weights"] != weights_now):
            mixtures.append({"billed_flops": self.ledger.root.spent, "weights": weights_now})
        self.trail.starts[self.verb] = self.standing
        if looked is None:
            self.looks.observe(self.standing, self.verb)

    def end(self) -> None:
        """A fork ends: the checkpoints that it kept outlive it."""
        self.settle()
        self.trail.pinned |= {w for w in self.loose if w in self.store}

    # --- snapshots

    def state(self) -> dict[str, Any]:
        """JSON state of what tensors and trail do not hold; with them, `load` of it goes on exactly here."""
        return {
            "verb": self.verb,
            "args": self.args,
            "standing": self.standing,
            "loose": sorted(self.loose),
            "deferred": self.deferred,
            "account": [self.ledger.cap, self.ledger.spent, self.ledger.exhausted],
            "sampler": self.sampler.state(),
            "progress": self.clock.progress,
            "revised": self.revised,
        }

    def tensors(self) -> dict[str, Tensors]:
        return {"model": self.engine.weights(), "optimizer": self.engine.moments()} | self._remembered()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a snapshot's plain state; the engine is loaded by `load_tensors`."""
        self.verb, self.args, self.standing = state["verb"], state["args"], state["standing"]
        self.loose, self.deferred = set(state["loose"]), state["deferred"]
        self.ledger.cap, self.ledger.spent, self.ledger.exhausted = state["account"]
        self.sampler.load(state["sampler"])
        self.clock.progress = state["progress"]
        self.revised = dict(state["revised"])

    def load_tensors(self, tensors: Mapping[str, Tensors]) -> None:
        self.engine.load_weights(tensors["model"])
        self.engine.load_moments(tensors["optimizer"])
        self.remember(tensors, self.revised)

    def log(self, name: str, value: object) -> None:
        """Put a value of a strategy's own into the record's events, within bounds."""
        found = plain(value)
        size, logged = len(json.dumps(found)), self.trail.logged
        if logged.get(name, 0) + size > LOG_NAME_BYTES or sum(logged.values()) + size > LOG_RUN_BYTES:
            raise HarnessError(f"log {name!r}: more than {LOG_NAME_BYTES:,} bytes a name or {LOG_RUN_BYTES:,} a run")
        logged[name] = logged.get(name, 0) + size
        self.note("log", name, found)

    def note(self, verb: str, note: str, data: Any = None) -> None:
        """Put an event into the record."""
        event = {"billed_flops": self.ledger.root.spent, "verb": verb, "note": note, "data": data}
        self.trail.events.append(event)


def _info(suite: Suite, task: str, train: list[Item], validation: list[Item]) -> TaskInfo:
    tokens, supervised = sum(i.tokens for i in train), sum(i.supervised for i in train)
    return TaskInfo(task, len(train), len(validation), tokens, supervised, suite.tasks[task].signal)


def _torch(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Tensors:
    # Not ascontiguousarray, which gives a number one dimension.
    return {name: torch.from_numpy(np.array(array, order="C", copy=None)) for name, array in arrays.items()}
