"""What one lab's verbs work on: its engine, data, account, clock, sampler, and the name of the weights that stand there.

Weights are named by how they came about (`base`, or `verb:step` of the training that made them), so that a look is
paid once per weights, a checkpoint exists once, and the path from the base to the answer is known for `discarded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.api import ExampleWeights, Look, Metric, Mixture, Objective, Score, TaskInfo
from harness.checkpoint import Store, Tensors
from harness.data import Item
from harness.ledger import Account, Cost
from harness.looks import Looks, pooled
from harness.loop import Clock, Spec, Stage
from harness.sampler import Sampler
from harness.suite import Suite
from harness.trail import BASE, Trail


class Engine(Protocol):
    """What the core needs of an engine; tests may script one without torch."""

    def step(
        self,
        items: list[Item],
        lr: float,
        objective: Objective | None = None,
        example_weights: ExampleWeights | None = None,
        *,
        progress: float = 0.0,
    ) -> Any: ...
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
    """What a person watching the run sees after each step: FLOPs billed and allowed, and the step's own figures."""

    billed: int
    cap: int
    step: int
    tokens: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Data:
    """One model's view of the suite: tokenised training and validation items by task."""

    suite: Suite
    train: Mapping[str, list[Item]]
    validation: Mapping[str, list[Item]]


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
    ) -> None:
        self.engine, self.data, self.ledger, self.store = engine, data, account, store
        self.sampler, self.clock, self.trail, self.watch = sampler, clock, trail, watch
        self.suite, self.train, self.validation = data.suite, data.train, data.validation
        self.by_id = {item.id: item for group in data.train.values() for item in group}
        self.info = {t: _info(self.suite, t, data.train[t], data.validation[t]) for t in sorted(data.train)}
        self.looks = Looks(engine, data.validation, self.info, account, trail, self.suite.look if looking else None)
        self.base = self.standing = base
        self.metric: Metric | None = None
        self.verb, self.args = 0, ""
        self.loose: set[str] = set()
        self.deferred = False
        self.resumed: dict[str, Any] | None = None
        self.on_tick: Callable[[Stage | None], None] | None = None

    # --- what the loop asks for

    def items(self, ids: list[str]) -> list[Item]:
        return [self.by_id[i] for i in ids]

    def step_cost(self, items: list[Item]) -> Cost:
        return self.engine.training_cost(items)

    def take_step(self, items: list[Item], lr: float, spec: Spec) -> tuple[tuple[float, ...], Cost]:
        step = self.engine.step(items, lr, spec.objective, spec.example_weights, progress=self.clock.progress)
        return step.nll, step.cost

    def stepped(self, step: int, tokens: int, loss: float, seconds: float) -> None:
        self.standing = f"{self.verb}:{step}"
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
        groups = {"model": self.engine.weights()}
        if optimizer:
            groups["optimizer"] = self.engine.moments()
        self.store.save(weights, groups, {"sampler": self.sampler.state()})

    def pin(self) -> str:
        """Store the standing weights, with the optimizer, for the rest of the run."""
        self._store(self.standing, optimizer=True)
        self.trail.pinned.add(self.standing)
        return self.standing

    def settle(self) -> None:
        """Write the last checkpoint that a `train` promised, now that the weights are about to change."""
        if self.deferred:
            self.save(self.standing, restart=False)
            self.deferred = False

    def restore(self, weights: str, optimizer: str) -> None:
        """Weights, samplers and (if saved and wanted) optimizer of a checkpoint; neither ledger nor clock."""
        self.settle()
        if weights == self.base:
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

    def look_through(self, at: str, look: Callable[[], Any]) -> Any:
        """Do `look` with other weights in the engine and put ours back; optimizer and samplers are not touched."""
        if at == self.standing:
            return look()
        mine, standing = self.engine.weights(), self.standing
        if at == self.base:
            self.engine.load_base()
        else:
            self.engine.load_weights(self.store.load(at)[0]["model"])
        self.standing = at
        try:
            return look()
        finally:
            self.engine.load_weights(mine)
            self.standing = standing

    def new_stage(self, mixture: Mixture, fresh: bool) -> None:
        """Begin a `train`: release the previous one's checkpoints, restart the optimizer if asked."""
        self.settle()
        for weights in sorted(self.loose - {self.standing}):
            self.release(weights)
        if fresh:
            self.engine.fresh_optimizer()
        weights_now = {t: round(w, 6) for t, w in mixture.weights.items()}
        mixtures = self.trail.mixtures
        if self.looks.spec is not None and (not mixtures or mixtures[-1]["weights"] != weights_now):
            mixtures.append({"billed_flops": self.ledger.root.spent, "weights": weights_now})
        self.trail.starts[self.verb] = self.standing
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
        }

    def tensors(self) -> dict[str, Tensors]:
        return {"model": self.engine.weights(), "optimizer": self.engine.moments()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a snapshot's plain state; the engine is loaded by `load_tensors`."""
        self.verb, self.args, self.standing = state["verb"], state["args"], state["standing"]
        self.loose, self.deferred = set(state["loose"]), state["deferred"]
        self.ledger.cap, self.ledger.spent, self.ledger.exhausted = state["account"]
        self.sampler.load(state["sampler"])
        self.clock.progress = state["progress"]

    def load_tensors(self, tensors: Mapping[str, Tensors]) -> None:
        self.engine.load_weights(tensors["model"])
        self.engine.load_moments(tensors["optimizer"])

    def note(self, verb: str, note: str, data: Any = None) -> None:
        """Put an event into the record."""
        event = {"billed_flops": self.ledger.root.spent, "verb": verb, "note": note, "data": data}
        self.trail.events.append(event)


def _info(suite: Suite, task: str, train: list[Item], validation: list[Item]) -> TaskInfo:
    tokens, supervised = sum(i.tokens for i in train), sum(i.supervised for i in train)
    return TaskInfo(task, len(train), len(validation), tokens, supervised, suite.tasks[task].signal)
