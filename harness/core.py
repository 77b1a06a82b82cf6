"""What the lab's verbs share: engine, data, ledger, and the name of the weights that stand in the engine.

Weights are named by how they came about (`base`, or `verb:step` of the training that made them), so that a look is
paid once per weights, a checkpoint exists once, and the path from the base to the answer is known for `discarded`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.api import Look, Metric, Mixture, Score, TaskInfo
from harness.checkpoint import Store, Tensors
from harness.data import Item
from harness.ledger import Cost, Ledger
from harness.loop import Clock, Stage
from harness.sampler import Sampler
from harness.suite import Suite

BASE = "base"


class Engine(Protocol):
    """What the core needs of an engine; tests may script one without torch."""

    def step(self, items: list[Item], lr: float) -> Any: ...
    def evaluate(self, items: list[Item]) -> tuple[list[Any], int]: ...
    def training_cost(self, items: list[Item], hardware: int = 0) -> Cost: ...
    def forward_cost(self, items: list[Item], hardware: int = 0) -> Cost: ...
    def weights(self) -> Tensors: ...
    def load_weights(self, tensors: Tensors) -> None: ...
    def load_base(self) -> None: ...
    def moments(self) -> Tensors: ...
    def load_moments(self, tensors: Tensors) -> None: ...
    def fresh_optimizer(self) -> None: ...


@dataclass(frozen=True)
class Progress:
    """What a person watching the run sees after each step."""

    billed: int
    cap: int
    step: int
    tokens: int
    loss: float


class Core:
    """Implements `loop.Trainer`; one per lab."""

    def __init__(
        self,
        suite: Suite,
        engine: Engine,
        train: Mapping[str, list[Item]],
        validation: Mapping[str, list[Item]],
        ledger: Ledger,
        store: Store,
        sampler: Sampler,
        clock: Clock,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self.suite, self.engine, self.ledger, self.store = suite, engine, ledger, store
        self.sampler, self.clock, self.watch = sampler, clock, watch
        self.train, self.validation = train, validation
        self.by_id = {item.id: item for group in train.values() for item in group}
        self.info = {task: _info(suite, task, train[task], validation[task]) for task in sorted(train)}
        self.metric: Metric | None = None
        self.verb = 0
        self.args = ""
        self.standing = BASE
        self.starts: dict[int, str] = {}
        self.pinned: set[str] = set()
        self.loose: set[str] = set()
        self.deferred = False
        self.answer: str | None = None
        self.curves: list[dict[str, Any]] = []
        self.mixtures: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.resumed: dict[str, Any] | None = None
        self.on_tick: Callable[[Stage | None], None] | None = None
        self._seen: dict[tuple[str, str, int], tuple[float, float]] = {}
        self._next_point = 0

    # --- what the loop asks for

    def items(self, ids: list[str]) -> list[Item]:
        return [self.by_id[i] for i in ids]

    def step_cost(self, items: list[Item]) -> Cost:
        return self.engine.training_cost(items)

    def take_step(self, items: list[Item], lr: float) -> tuple[tuple[float, ...], Cost]:
        step = self.engine.step(items, lr)
        return step.nll, step.cost

    def stepped(self, step: int, tokens: int, loss: float) -> None:
        self.standing = f"{self.verb}:{step}"
        self.observe()
        if self.watch:
            self.watch(Progress(self.ledger.spent, self.ledger.cap, step, tokens, loss))

    def tick(self, stage: Stage | None) -> None:
        """A moment at which a snapshot may be taken."""
        if self.on_tick:
            self.on_tick(stage)

    def look_cost(self) -> int:
        """FLOPs of one look at all validation items."""
        return sum(self.engine.forward_cost(items).model for items in self.validation.values())

    def look(self, step: int, epoch: float) -> Look:
        scores = self.scores(sorted(self.validation), self.metric, None, step)
        return Look(step, epoch, {t: s.value for t, s in scores.items()}, pooled(scores))

    def save(self, weights: str, restart: bool) -> None:
        """Put the standing weights into the store. Without the optimizer where the stage restarts it anyway."""
        self.loose.add(weights)
        self._store(weights, optimizer=not restart)

    def release(self, weights: str) -> None:
        """Drop a checkpoint that a stage no longer needs, unless it is the answer or was made by `checkpoint()`."""
        if weights in self.loose and weights not in self.pinned and weights != self.answer:
            self.loose.discard(weights)
            self.store.drop(weights)

    # --- weights

    def _store(self, weights: str, optimizer: bool) -> None:
        if weights == BASE or weights in self.store:
            return
        groups = {"model": self.engine.weights()}
        if optimizer:
            groups["optimizer"] = self.engine.moments()
        self.store.save(weights, groups, {"sampler": self.sampler.state()})

    def pin(self) -> str:
        """Store the standing weights, with the optimizer, for the rest of the run."""
        self._store(self.standing, optimizer=True)
        self.pinned.add(self.standing)
        return self.standing

    def settle(self) -> None:
        """Write the last checkpoint that a `train` promised, now that the weights are about to change."""
        if self.deferred:
            self.save(self.standing, restart=False)
            self.deferred = False

    def restore(self, weights: str, optimizer: str) -> None:
        """Weights, samplers and (if saved and wanted) optimizer of a checkpoint; neither ledger nor clock."""
        self.settle()
        if weights == BASE:
            self.engine.load_base()
            self.engine.fresh_optimizer()
            self.sampler.load(Sampler(self.sampler.seed, self.sampler.sizes).state())
        else:
            groups, state = self.store.load(weights)
            self.engine.load_weights(groups["model"])
            if optimizer == "restore" and "optimizer" in groups:
                self.engine.load_moments(groups["optimizer"])
            else:
                self.engine.fresh_optimizer()
            self.sampler.load(state["sampler"])
        self.standing = weights

    def new_stage(self, mixture: Mixture, fresh: bool) -> None:
        """Begin a `train`: release the previous one's checkpoints, restart the optimizer if asked."""
        self.settle()
        for weights in sorted(self.loose - {self.standing}):
            self.release(weights)
        if fresh:
            self.engine.fresh_optimizer()
        weights_now = {t: round(w, 6) for t, w in mixture.weights.items()}
        if not self.mixtures or self.mixtures[-1]["weights"] != weights_now:
            self.mixtures.append({"billed_flops": self.ledger.spent, "weights": weights_now})
        self.starts[self.verb] = self.standing
        self.observe()

    def state(self) -> dict[str, Any]:
        """JSON state of everything that tensors do not hold; with `tensors`, `load` of it goes on exactly here."""
        return {
            "verb": self.verb,
            "args": self.args,
            "standing": self.standing,
            "starts": list(self.starts.items()),
            "pinned": sorted(self.pinned),
            "loose": sorted(self.loose),
            "deferred": self.deferred,
            "answer": self.answer,
            "curves": self.curves,
            "mixtures": self.mixtures,
            "events": self.events,
            "seen": [[*key, *value] for key, value in self._seen.items()],
            "next_point": self._next_point,
            "exhausted": self.ledger.exhausted,
            "sampler": self.sampler.state(),
            "progress": self.clock.progress,
            "checkpoints": self.store.names(),
        }

    def tensors(self) -> dict[str, Tensors]:
        return {"model": self.engine.weights(), "optimizer": self.engine.moments()}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
        """Go back to a snapshot: the opposite of `state` and `tensors`."""
        self.engine.load_weights(tensors["model"])
        self.engine.load_moments(tensors["optimizer"])
        self.verb, self.args, self.standing = state["verb"], state["args"], state["standing"]
        self.starts = dict(state["starts"])
        self.pinned, self.loose, self.deferred = set(state["pinned"]), set(state["loose"]), state["deferred"]
        self.answer, self.curves, self.mixtures = state["answer"], state["curves"], state["mixtures"]
        self.events, self._next_point = state["events"], state["next_point"]
        self._seen = {(w, t, n): (loss, match) for w, t, n, loss, match in state["seen"]}
        self.ledger.exhausted, self.clock.progress = state["exhausted"], state["progress"]
        self.sampler.load(state["sampler"])
        self.store.resume(set(state["checkpoints"]))

    def path(self, weights: str) -> dict[int, int]:
        """For each training verb on the way from the base to these weights, its last step on the way."""
        kept: dict[int, int] = {}
        while weights != BASE:
            verb, step = (int(x) for x in weights.split(":"))
            kept[verb] = step
            weights = self.starts[verb]
        return kept

    def note(self, verb: str, note: str, data: Any = None) -> None:
        self.events.append({"billed_flops": self.ledger.spent, "verb": verb, "note": note, "data": data})

    # --- looking

    def scores(self, tasks: list[str], metric: Metric | None, n: int | None, step: int) -> dict[str, Score]:
        """Billed looks at the standing weights; what was seen at these weights before is free."""
        need = {t: self.validation[t][:n] for t in tasks if (self.standing, t, n or 0) not in self._seen}
        cost = sum(self.engine.forward_cost(items).model for items in need.values())
        if need:
            self.ledger.require(cost)
            self._evaluate(need, "validate", step, n)
        return {t: self._score(t, metric, n) for t in tasks}

    def _score(self, task: str, metric: Metric | None, n: int | None) -> Score:
        loss, match = self._seen[self.standing, task, n or 0]
        size = len(self.validation[task][:n])
        return Score(metric or self.info[task].signal, loss, match, size)

    def _evaluate(self, need: Mapping[str, list[Item]], phase: str, step: int, n: int | None) -> None:
        started = time.perf_counter()
        items = [item for task in sorted(need) for item in need[task]]
        seen, hardware = self.engine.evaluate(items)
        seconds = time.perf_counter() - started
        self.ledger.book(phase, self.engine.forward_cost(items, hardware), seconds, self.verb, step)
        at = 0
        for task in sorted(need):
            part = seen[at : at + len(need[task])]
            at += len(part)
            loss = sum(s.nll for s in part) / sum(s.supervised for s in part)
            match = sum(s.match for s in part) / len(part)
            if phase == "validate":
                self._seen[self.standing, task, n or 0] = (loss, match)
            else:
                self.curves.append(
                    {"billed_flops": self.ledger.spent, "task": task, "loss": _json(loss), "exact_match": match}
                )

    def observe(self, last: bool = False) -> None:
        """The harness's own look when the billed share has passed the next grid point; not billed."""
        spec = self.suite.look
        due = self.ledger.spent * spec.points >= self._next_point * self.ledger.cap
        if due or (last and (not self.curves or self.curves[-1]["billed_flops"] != self.ledger.spent)):
            self._next_point = self.ledger.spent * spec.points // self.ledger.cap + 1
            look = {t: items[: spec.items] for t, items in self.validation.items()}
            self._evaluate(look, "look", 0, None)


def pooled(scores: Mapping[str, Score]) -> float:
    """Mean value over all items of all tasks; if the tasks' metrics differ, of minus the loss, which all have."""
    n = sum(s.n for s in scores.values())
    if len({s.metric for s in scores.values()}) > 1:
        return -sum(s.loss * s.n for s in scores.values()) / n
    return sum(s.value * s.n for s in scores.values()) / n


def _info(suite: Suite, task: str, train: list[Item], validation: list[Item]) -> TaskInfo:
    tokens, supervised = sum(i.tokens for i in train), sum(i.supervised for i in train)
    return TaskInfo(task, len(train), len(validation), tokens, supervised, suite.tasks[task].signal)


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
