"""One `train` verb: whole effective batches under the LR clock, looks on the grid, checkpoints where they are asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness.api import Checkpoint, ExampleWeights, History, Keep, Length, Look, Mixture, Objective
from harness.data import Item
from harness.errors import NoRoom, RunFailed
from harness.ledger import Account, Cost
from harness.sampler import Sampler
from harness.suite import Schedule


class Clock:
    """The LR clock of one lab: progress in [0, 1] moves by training only and reaches 1 when the budget is used up.

    A step of f FLOPs with R left under the cap moves progress p by (1 - p) f / R. When nothing else is billed this is
    training FLOPs over (cap - what was billed before the first step); a probe or a look in the middle makes later steps
    count more instead of making the rate jump. What a selector bills for its update is part of that step. It is never
    rolled back. See docs/adr/0001-lr-clock.md.
    """

    def __init__(self, schedule: Schedule, peak_lr: float) -> None:
        self.schedule, self.peak_lr, self.progress = schedule, peak_lr, 0.0

    def advance(self, flops: int, remaining: int) -> float:
        """The learning rate of a step of `flops` when `remaining` are left before it; taken at the step's middle."""
        before = self.progress
        self.progress = min(1.0, before + (1.0 - before) * flops / remaining)
        return self.rate((before + self.progress) / 2)

    def rate(self, progress: float) -> float:
        warmup = self.schedule.warmup
        if progress < warmup:
            return self.peak_lr * progress / warmup
        rest = (1.0 - progress) / (1.0 - warmup)
        shape = {"constant": 1.0, "linear": rest, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - rest)))}
        return self.peak_lr * shape[self.schedule.name]


class Trainer(Protocol):
    """What the loop needs of the lab around it."""

    ledger: Account
    sampler: Sampler
    clock: Clock

    def items(self, ids: Sequence[str]) -> list[Item]: ...
    def step_cost(self, items: list[Item], spec: Spec) -> Cost: ...
    def take_step(
        self, items: list[Item], lr: float, spec: Spec, step: int, weights: Sequence[float] | None
    ) -> tuple[tuple[float, ...], Cost]: ...
    def look_cost(self) -> int: ...
    def look(self, step: int, epoch: float) -> Look: ...
    def save(self, weights: str, restart: bool) -> None: ...
    def release(self, weights: str) -> None: ...
    def stepped(self, step: int, tokens: int, loss: float, seconds: float) -> None: ...
    def tick(self, stage: Stage) -> None: ...


Update = tuple[list[str], list[float] | None]  # the examples of one optimizer step, and weights for them


@dataclass(frozen=True)
class Spec:
    """The arguments of one `train` verb, resolved. `start` names the weights that it begins with.

    `gather(step, reserve)` chooses the next updates where a selector is at work; it bills what it looks at, leaves
    `reserve` under the cap and raises NoRoom otherwise.
    """

    verb: int
    start: str
    mixture: Mixture
    length: Length
    grid: Length | None
    keep: Keep
    batch: int
    fresh: bool
    objective: Objective | None = None
    example_weights: ExampleWeights | None = None
    references: tuple[Checkpoint, ...] = ()
    logits: tuple[Checkpoint, ...] = ()
    gather: Callable[[int, int], list[Update]] | None = None
    pause: Length | None = None


@dataclass
class Stage:
    """The state of a running `train` verb: plain values, so that a snapshot can hold it, or a history at a pause.

    `first`: the step at which this verb began, not 0 when it goes on after a pause.
    """

    spec: Spec
    cap: int
    first: int = 0
    step: int = 0
    billed: int = 0
    next_look: int = 1
    cut: bool = False
    looks: list[Look] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    loss: dict[str, list[float]] = field(default_factory=dict)
    pending: list[Update] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """JSON state: `load` of it goes on exactly here."""
        looks = [[k.step, k.epoch, dict(k.values), k.value] for k in self.looks]
        plain = {"step": self.step, "billed": self.billed, "next_look": self.next_look}
        return plain | {"looks": looks, "names": self.names, "loss": self.loss, "pending": self.pending}

    def load(self, state: Mapping[str, Any]) -> None:
        self.step, self.billed, self.next_look = state["step"], state["billed"], state["next_look"]
        self.looks = [Look(step, epoch, values, value) for step, epoch, values, value in state["looks"]]
        self.names, self.loss = list(state["names"]), {t: list(v) for t, v in state["loss"].items()}
        self.pending = [(list(ids), weights) for ids, weights in state["pending"]]

    def epochs(self) -> float:
        return self.step * self.spec.batch / self.spec.mixture.epoch_examples

    def grid_step(self, length: Length, k: int) -> int:
        """The step of the k-th multiple of a length in steps or epochs; at least k, so that no two coincide."""
        per = 1.0 if length.unit == "step" else self.spec.mixture.epoch_examples / self.spec.batch
        return max(k, round(k * length.amount * per))

    def complete(self, next_cost: int) -> bool:
        """Whether the asked length is reached (never by running out of budget: that is a cut)."""
        length = self.spec.length
        if length.unit == "rest":
            return False
        if length.unit == "budget":
            return self.step > 0 and self.billed + next_cost > length.amount * self.cap
        return self.step >= self.grid_step(length, 1)

    def pausing(self) -> bool:
        pause = self.spec.pause
        return pause is not None and self.step > self.first and self.step >= self.grid_step(pause, 1)

    def left(self) -> int:
        """FLOPs of a length in budget that are left; the first step is taken whatever it costs."""
        length = self.spec.length
        return math.floor(length.amount * self.cap) - self.billed if length.unit == "budget" and self.step else self.cap

    def look_due(self) -> bool:
        grid = self.spec.grid
        if grid is None:
            return False
        if grid.unit == "budget":
            due = self.billed >= self.next_look * grid.amount * self.cap
            if due:
                self.next_look = math.floor(self.billed / (grid.amount * self.cap)) + 1
            return due
        due = self.step == self.grid_step(grid, self.next_look)
        self.next_look += due
        return due


def run_stage(
    lab: Trainer, spec: Spec, resumed: Mapping[str, Any] | None = None, earlier: Mapping[str, Any] | None = None
) -> History:
    """Train until the length is reached or the next step (and the look that must follow it) does not fit.

    `earlier` is where a pause left off, `resumed` the place within this verb that a crash goes on from.
    """
    stage = Stage(spec, lab.ledger.cap)
    reserve = lab.look_cost() if spec.grid else 0
    if earlier is not None:
        stage.load(earlier)
        stage.first = stage.step
    if resumed is not None:
        stage.load(resumed)
    elif spec.grid and earlier is None:
        _look(lab, stage)
    while not stage.complete(0):
        if stage.pausing():
            return _paused(stage)
        before, fresh, room = lab.sampler.state(), not stage.pending, lab.ledger.remaining
        try:
            ids, weights = _next(lab, stage, max(reserve, lab.ledger.remaining - stage.left()))
        except NoRoom as missing:  # what a selector wanted to look at: under the cap, or within the asked length
            lab.sampler.load(before)
            stage.cut = not lab.ledger.fits(missing.flops + reserve)
            reserve += missing.flops
            break
        looked = room - lab.ledger.remaining  # what a selector has billed for this update
        items = lab.items(ids)
        cost = lab.step_cost(items, spec)
        done = stage.complete(cost.model)
        if done or not lab.ledger.fits(cost.model + reserve):
            if fresh:
                lab.sampler.load(before)
            stage.cut = not done
            reserve += cost.model
            break
        stage.pending.pop(0)
        _step(lab, stage, items, cost, weights, looked)
        if stage.look_due():
            _look(lab, stage)
        lab.tick(stage)
    if stage.cut and not stage.step:
        lab.ledger.require(reserve)  # nothing fitted at all: this verb itself is the one too many
    history = _finish(lab, stage)
    if stage.cut:
        lab.ledger.cut(reserve)
    return history


def _next(lab: Trainer, stage: Stage, reserve: int) -> Update:
    """The examples of the next step; a selector is asked when nothing that it chose is left."""
    spec, spent = stage.spec, lab.ledger.spent
    if not stage.pending:
        choose = spec.gather or (lambda step, reserve: [(lab.sampler.draw(spec.mixture, spec.batch), None)])
        stage.pending = choose(stage.step, reserve)
        stage.billed += lab.ledger.spent - spent
    return stage.pending[0]


def _step(
    lab: Trainer, stage: Stage, items: list[Item], cost: Cost, weights: Sequence[float] | None, looked: int
) -> None:
    lr = lab.clock.advance(cost.model + looked, lab.ledger.remaining + looked)
    started = time.perf_counter()
    try:
        nll, booked = lab.take_step(items, lr, stage.spec, stage.step + 1, weights)
    except RunFailed as error:
        raise RunFailed(f"{error} at step {stage.step + 1} of verb {stage.spec.verb} (lr {lr:.2g})") from None
    stage.step += 1
    seconds = time.perf_counter() - started
    lab.ledger.book("train", booked, seconds, stage.spec.verb, stage.step)
    stage.billed += booked.model
    for item, loss in zip(items, nll, strict=True):
        sums = stage.loss.setdefault(item.task, [0.0, 0.0])
        sums[0] += loss
        sums[1] += item.supervised
    tokens = sum(item.supervised for item in items)
    lab.stepped(stage.step, booked.tokens, sum(nll) / tokens, seconds)


def _weights(stage: Stage) -> str:
    return f"{stage.spec.verb}:{stage.step}" if stage.step > stage.first else stage.spec.start


def _look(lab: Trainer, stage: Stage) -> None:
    """Validate; then hold checkpoints of exactly those looks that `keep` calls for."""
    stage.looks.append(lab.look(stage.step, stage.epochs()))
    stage.names.append(_weights(stage))
    if stage.spec.keep in ("best", "peaks"):
        kept = wanted(stage.looks, stage.spec.mixture.tasks if stage.spec.keep == "peaks" else ())
        for i in set(range(len(stage.looks))) - kept:
            lab.release(stage.names[i])
        if len(stage.looks) - 1 in kept:
            lab.save(stage.names[-1], stage.spec.fresh)


def wanted(looks: list[Look], tasks: tuple[str, ...]) -> set[int]:
    """Indices of the earliest best look pooled and of each task."""
    history = History(tuple(looks), 0, 0.0, {})
    best = [history.best(), *(history.best(t) for t in tasks)]
    return {next(i for i, look in enumerate(looks) if look is b) for b in best}


def _finish(lab: Trainer, stage: Stage) -> History:
    spec, looks = stage.spec, stage.looks
    if not looks or looks[-1].step != stage.step:
        # What ran in a pause may have spent what was kept for the last look; those before it still count.
        if spec.grid and not (looks and lab.ledger.remaining < lab.look_cost()):
            _look(lab, stage)
        else:
            looks.append(Look(stage.step, stage.epochs()))
            stage.names.append(_weights(stage))
    held: set[int] = {len(looks) - 1} if spec.keep == "last" else set()
    if spec.keep in ("best", "peaks"):
        held = wanted(looks, spec.mixture.tasks if spec.keep == "peaks" else ()) if spec.grid else {len(looks) - 1}
        if not spec.grid:
            lab.save(stage.names[-1], spec.fresh)
    final = tuple(
        Look(k.step, k.epoch, k.values, k.value, Checkpoint(stage.names[i]) if i in held else None)
        for i, k in enumerate(looks)
    )
    return History(final, stage.step, stage.epochs(), mean_loss(stage.loss), stage.cut)


def _paused(stage: Stage) -> History:
    here = Look(stage.step, stage.epochs(), kept=Checkpoint(_weights(stage)))
    seen = list(stage.looks)
    if seen and seen[-1].step == stage.step:
        here = replace(seen.pop(), kept=here.kept)
    return History((*seen, here), stage.step, stage.epochs(), mean_loss(stage.loss), paused=stage.state())


def mean_loss(sums: Mapping[str, list[float]]) -> dict[str, float]:
    """Mean training NLL per supervised token, by task."""
    return {task: total / count for task, (total, count) in sorted(sums.items())}
