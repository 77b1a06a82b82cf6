"""What one lab's verbs work on: its engine, data, account, clock, sampler, and the name of the weights that stand there.

Weights are named by how they came about (`base`, or `verb:step` of the training that made them), so that a look is
paid once per weights, a checkpoint exists once, and the path from the base to the answer is known for `discarded`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.api import HarnessError, Look, Metric, Mixture, Score, TaskInfo
from harness.checkpoint import Store, Tensors
from harness.codec import plain
from harness.corpus import Data
from harness.data import Item
from harness.ledger import Account, Cost
from harness.looks import Looks, pooled
from harness.loop import Clock, Spec, Stage
from harness.ports import Engine, Scope
from harness.responses import Responses
from harness.sampler import Sampler, stream
from harness.standing import Standing
from harness.suite import Suite
from harness.trail import BASE, Trail

LOG_NAME_BYTES, LOG_RUN_BYTES = 64_000, 1_000_000

__all__ = ["Core", "Data", "Engine", "Progress"]


@dataclass(frozen=True)
class Progress:
    """What a person watching the run sees after each step: FLOPs billed and allowed, and the step's own figures.

    `line`: of the ledger, a place in the run that grows and that a resumed run finds again. `tasks`: the step's NLL per
    supervised token by task; `mixture`: weights of the training that goes on; `phase`: train, or that of the open fork.
    """

    billed: int
    cap: int
    step: int
    tokens: int
    loss: float
    seconds: float
    line: int = 0
    lr: float = math.nan
    tasks: Mapping[str, float] = field(default_factory=dict)
    mixture: Mapping[str, float] = field(default_factory=dict)
    phase: str = "train"


# Another model as a strategy names it: its engine, the data in its tokens, and its name and revision for the record.
Companion = Callable[[str], tuple[Engine, Data, dict[str, str]]]


class Core(Standing):
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
        super().__init__(engine, data, store, sampler, trail, base)
        self.ledger, self.clock, self.watch = account, clock, watch
        self.suite, self.train, self.validation = data.suite, data.train, data.validation
        self.info = {t: _info(self.suite, t, data.train[t], data.validation[t]) for t in sorted(data.train)}
        self.looks = Looks(
            engine,
            data.validation,
            self.info,
            account,
            trail,
            self.suite.look if looking else None,
            Responses(engine, data),
        )
        self.companion = companion
        self.metric: Metric | None = None
        self._by_task: dict[str, float] = {}
        self._mixture: dict[str, float] = {}
        self.args = ""
        self.resumed: dict[str, Any] | None = None
        self.on_tick: Callable[[Stage | None], None] | None = None
        self.points: dict[str, int] = {}  # of progress, by the name of what was logged there last

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
        self._by_task = _by_task(items, done.nll) if self.watch else {}
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

    def stepped(self, step: int, tokens: int, loss: float, seconds: float) -> None:
        left, self.standing = self.standing, f"{self.verb}:{step}"
        if not self.reachable(left):
            self.trail.gold.forget(left)  # a selector looked at its pool, once a step
        self.looks.observe(self.standing, self.verb)
        if self.watch:
            root = self.ledger.root
            lr, phase = self.clock.rate(self.clock.progress), getattr(self.ledger, "phase", None) or "train"
            about = (len(root.entries), lr, self._by_task, self._mixture, phase)
            self.watch(Progress(root.spent, root.cap, step, tokens, loss, seconds, *about))

    def tick(self, stage: Stage | None) -> None:
        """A moment at which a snapshot may be taken."""
        if self.on_tick:
            self.on_tick(stage)

    def look_cost(self) -> int:
        return self.looks.cost(self.metric)

    def look(self, step: int, epoch: float) -> Look:
        scores = self.scores(sorted(self.validation), self.metric, None, step)
        return Look(step, epoch, {t: s.value for t, s in scores.items()}, pooled(scores))

    def scores(self, tasks: list[str], metric: Metric | None, n: int | None, step: int = 0) -> dict[str, Score]:
        """Billed looks at the standing weights."""
        return self.looks.scores(self.standing, tasks, metric, n, self.verb, step)

    def new_stage(self, mixture: Mixture, fresh: bool, looked: set[str] | None = None) -> None:
        """Begin a `train`: release the previous one's checkpoints but those held, restart the optimizer if asked.

        `looked`: the weights seen so far by a training that goes on after a pause; they stay.
        """
        if looked is not None and self.standing not in self.held:
            self.deferred = False
        self.settle()
        self._others = {}
        for weights in sorted(self.held):
            self.weights_at(weights)
        for weights in sorted(self.loose - {self.standing} - (looked or set())):
            self.release(weights)
        self.trail.gold.prune(self.reachable)
        if fresh:
            self.engine.fresh_optimizer()
        weights_now = self._mixture = {t: round(w, 6) for t, w in mixture.weights.items()}
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
            "place": self.place,
            "account": [self.ledger.cap, self.ledger.spent, self.ledger.exhausted],
            "sampler": self.sampler.state(),
            "progress": self.clock.progress,
            "revised": self.revised,
            "points": self.points,
        }

    def tensors(self) -> dict[str, Tensors]:
        return {"model": self.engine.weights(), "optimizer": self.engine.moments()} | self._remembered()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a snapshot's plain state; the engine is loaded by `load_tensors`."""
        self.verb, self.args, self.standing = state["verb"], state["args"], state["standing"]
        self.loose, self.deferred = set(state["loose"]), state["deferred"]
        self.place = state.get("place")
        self.ledger.cap, self.ledger.spent, self.ledger.exhausted = state["account"]
        self.sampler.load(state["sampler"])
        self.clock.progress = state["progress"]
        self.revised, self.points = dict(state["revised"]), dict(state["points"])

    def load_tensors(self, tensors: Mapping[str, Tensors]) -> None:
        self.engine.load_weights(tensors["model"])
        self.engine.load_moments(tensors["optimizer"])
        self.remember(tensors, self.revised)

    def log(self, name: str, value: object) -> None:
        """Put a value of a strategy's own into the record's events. Raises HarnessError beyond the bounds."""
        if not self._logged(name, plain(value)):
            raise HarnessError(f"log {name!r}: more than {LOG_NAME_BYTES:,} bytes a name or {LOG_RUN_BYTES:,} a run")

    def log_at(self, name: str, value: object, point: int) -> bool:
        """Log it unless something of this name was logged at this point or a later one, or there is no room for it."""
        if point <= self.points.get(name, -1) or not self._logged(name, plain(value)):
            return False
        self.points[name] = point
        return True

    def _logged(self, name: str, value: Any) -> bool:
        """Put it into the events if there is room."""
        size, logged = len(json.dumps(value)), self.trail.logged
        if logged.get(name, 0) + size > LOG_NAME_BYTES or sum(logged.values()) + size > LOG_RUN_BYTES:
            return False
        logged[name] = logged.get(name, 0) + size
        self.note("log", name, value)
        return True

    def note(self, verb: str, note: str, data: Any = None) -> None:
        """Put an event into the record."""
        event = {"billed_flops": self.ledger.root.spent, "verb": verb, "note": note, "data": data}
        self.trail.events.append(event)


def _by_task(items: Sequence[Item], nll: Sequence[float]) -> dict[str, float]:
    """NLL per supervised token of each task that these items are of."""
    sums: dict[str, list[float]] = {}
    for item, loss in zip(items, nll, strict=True):
        both = sums.setdefault(item.task, [0.0, 0.0])
        both[0] += loss
        both[1] += item.supervised
    return {task: total / count for task, (total, count) in sorted(sums.items())}


def _info(suite: Suite, task: str, train: list[Item], validation: list[Item]) -> TaskInfo:
    tokens, supervised = sum(i.tokens for i in train), sum(i.supervised for i in train)
    return TaskInfo(task, len(train), len(validation), tokens, supervised, suite.tasks[task].signal)
