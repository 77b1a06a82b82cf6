"""The lab that a run gives to its strategy: each verb is checked, computed, booked and journalled here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar

import numpy as np

from harness.api import (
    REST,
    Checkpoint,
    Example,
    ForkPhase,
    HarnessError,
    History,
    Keep,
    Length,
    Look,
    Metric,
    Mixture,
    OptimizerState,
    Score,
    Split,
    TaskInfo,
    check_weights,
)
from harness.core import Core
from harness.data import Row
from harness.durable import fault
from harness.errors import BudgetExhausted, NonDeterministicStrategy, unknown
from harness.loop import Clock, Spec, run_stage
from harness.paths import digest
from harness.sampler import Sampler, mixture_digest, stream
from harness.session import FrozenClock, Session
from harness.trail import BASE

T = TypeVar("T")
FORK_PHASES = ("proxy", "probe", "gradients", "generate")
LOG_NAME_BYTES, LOG_RUN_BYTES = 64_000, 1_000_000


class JournalledBudget:
    """Reads of the budget are journalled, so that a replay sees the values of that moment."""

    def __init__(self, lab: RunLab) -> None:
        self._lab = lab

    @property
    def total(self) -> int:
        return self._lab._core.ledger.cap

    @property
    def spent(self) -> int:
        return self._lab._verb("budget", [], lambda: self._lab._core.ledger.spent, int, int)

    @property
    def remaining(self) -> int:
        return self.total - self.spent


class RunLab:
    """`harness.api.Lab` over one engine. See the protocol for what the verbs mean."""

    def __init__(
        self, core: Core, session: Session, rows: Mapping[str, Mapping[str, list[Row]]], seed: int, fork: int = -1
    ) -> None:
        self._core, self._session, self._rows, self._seed = core, session, rows, seed
        self._journal = session.journal
        self._rng = stream(seed, "strategy", fork)
        self._samples: dict[tuple[str, str], int] = {}
        self._logged: dict[str, int] = {}
        self.seconds_inside = 0.0
        self.budget = JournalledBudget(self)

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        return dict(self._core.info)

    @property
    def rng(self) -> np.random.Generator:
        return self._rng

    def _verb(
        self, name: str, args: Any, compute: Callable[[], T], encode: Callable[[T], Any], decode: Callable[[Any], T]
    ) -> T:
        """Answer from the journal if this verb is finished there, else compute, book and journal it."""
        if name != "join":
            self._session.require_top(self._core)
        key = digest(args)[:16]
        line = self._journal.recall(name, key)
        if line is not None:
            self._raise_again(line["exhausted"])
            return decode(line["result"])
        core, started = self._core, time.perf_counter()
        if core.resumed is not None and core.args != key:
            raise NonDeterministicStrategy(f"verb {self._journal.verbs} was a train that {name} does not continue")
        core.verb, core.args = self._journal.verbs, key
        fault("verb")
        try:
            result = compute()
        except BudgetExhausted as end:
            # Journalled too: a fork swallows its own end, so a replay must meet it at the same verb.
            depth = [account is end.account for account in core.ledger.chain()].index(True)
            self._journal.append(name, key, None, len(core.ledger.root.entries), exhausted=depth)
            raise
        finally:
            self.seconds_inside += time.perf_counter() - started
            core.ledger.root.flush()
        encoded = encode(result)
        self._journal.check(name, key, encoded)
        self._journal.append(name, key, encoded, len(core.ledger.root.entries))
        core.tick(None)
        return result

    def _raise_again(self, exhausted: int | None) -> None:
        """On replay: the end of the budget that this verb met, of this lab's account or one above it."""
        if exhausted is not None:
            account = list(self._core.ledger.chain())[exhausted]
            account.exhausted = True
            raise BudgetExhausted(account)

    # --- train and look

    def train(
        self,
        mixture: Mixture,
        length: str = REST,
        *,
        metric: Metric | None = None,
        eval_every: str | None = None,
        keep: Keep = "last",
        optimizer: OptimizerState = "keep",
    ) -> History:
        long, grid = Length.parse(length), Length.parse(eval_every) if eval_every else None
        if grid and grid.unit == "rest":
            raise HarnessError("eval_every: expected a step, epoch or budget length, not REST")
        _one_of("keep", keep, ("last", "none", "best", "peaks"))
        _one_of("optimizer", optimizer, ("keep", "fresh"))
        _one_of("metric", metric, (None, "loss", "exact_match"))
        self._known(mixture.weights)
        args = [mixture_digest(mixture), length, eval_every, metric, keep, optimizer]

        def compute() -> History:
            core = self._core
            resumed, core.resumed = core.resumed, None
            core.metric = metric
            fresh = optimizer == "fresh"
            if resumed is None:
                core.ledger.require(0)
                core.new_stage(mixture, fresh)
            start, batch = core.trail.starts[core.verb], core.suite.train.effective_batch
            history = run_stage(core, Spec(core.verb, start, mixture, long, grid, keep, batch, fresh), resumed)
            if history.last.kept and keep == "last":
                core.loose.add(core.standing)
                core.deferred = True
            return history

        return self._verb("train", args, compute, _history_to_json, _history_from_json)

    def validate(
        self,
        tasks: Iterable[str] | None = None,
        *,
        metric: Metric | None = None,
        n: int | None = None,
        at: Checkpoint | None = None,
    ) -> dict[str, Score]:
        names = sorted(self._core.info if tasks is None else tasks)
        self._known(names)
        _one_of("metric", metric, (None, "loss", "exact_match"))
        if n is not None and n < 1:
            raise HarnessError(f"validate: n is {n}, expected at least 1")

        def compute() -> dict[str, Score]:
            core = self._core
            found: dict[str, Score] = core.look_through(
                at.weights if at else core.standing, lambda: core.scores(names, metric, n)
            )
            return found

        args = [names, metric, n, at and at.weights]
        return self._verb(
            "validate",
            args,
            compute,
            lambda scores: {t: asdict(s) for t, s in scores.items()},
            lambda raw: {t: Score(**s) for t, s in raw.items()},
        )

    # --- move

    def checkpoint(self) -> Checkpoint:
        return self._verb("checkpoint", [], lambda: Checkpoint(self._core.pin()), lambda c: c.weights, Checkpoint)

    def rollback(self, to: Checkpoint, *, optimizer: Literal["restore", "fresh"] = "restore") -> None:
        _one_of("optimizer", optimizer, ("restore", "fresh"))

        def compute() -> None:
            core = self._core
            core.note("rollback", f"from {core.standing} to {to.weights}", {"weights": to.weights})
            core.restore(to.weights, optimizer)

        self._verb("rollback", [to.weights, optimizer], compute, lambda r: r, lambda r: None)

    def answer(self, checkpoint: Checkpoint | None = None) -> None:
        weights = checkpoint.weights if checkpoint else None

        def compute() -> None:
            core = self._core
            if weights == core.standing:
                core.settle()
            if core.looks.spec is None:
                raise HarnessError("answer: a fork has no answer; take checkpoint() and answer with it after the fork")
            if weights not in (None, BASE) and weights not in core.store:
                raise HarnessError(f"answer: checkpoint {weights} was released; see Lab.train about `keep`")
            previous, core.trail.answer = core.trail.answer, weights
            if previous and previous != weights and previous not in core.loose | core.trail.pinned:
                core.store.drop(previous)
            core.note("answer", weights or "the weights as they stand at the end", {"weights": weights})

        self._verb("answer", [weights], compute, lambda r: r, lambda r: None)

    def fork(
        self, phase: ForkPhase, *, start: Literal["base", "now"] | Checkpoint = "base", budget: str | int | None = None
    ) -> Fork:
        """A lab of its own on the same data: see `harness.api.Lab.fork`."""
        _one_of("phase", phase, FORK_PHASES)
        weights = start.weights if isinstance(start, Checkpoint) else start
        return Fork(self, phase, weights, self._flops(budget))

    def _flops(self, budget: str | int | None) -> int | None:
        if budget is None:
            return None
        if isinstance(budget, str):
            length = Length.parse(budget)
            if length.unit != "budget":
                raise HarnessError(f"fork: budget {budget!r}; expected FLOPs or '<number> budget'")
            return round(length.amount * self._core.ledger.cap)
        if budget < 1:
            raise HarnessError(f"fork: a budget of {budget} FLOPs; expected a positive number")
        return budget

    def draw(self, mixture: Mixture, k: int = 1) -> list[Example]:
        """The next k effective batches that training on `mixture` would see; they are used up."""
        self._known(mixture.weights)
        if k < 1:
            raise HarnessError(f"draw: k is {k}, expected at least 1")
        core = self._core
        n = k * core.suite.train.effective_batch
        key = [mixture_digest(mixture), k]
        ids: list[str] = self._verb("draw", key, lambda: core.sampler.draw(mixture, n), lambda r: r, lambda r: r)
        return [self._example(i) for i in ids]

    def _example(self, id_: str) -> Example:
        task, _, index = id_.rpartition("/")
        row = self._rows["train"][task][int(index)]
        return Example(id_, task, "train", row.prompt, row.completion, self._core.by_id[id_].tokens)

    # --- data (free)

    def proportional(self, tasks: Iterable[str] | None = None) -> Mixture:
        """Weights by number of examples: an epoch is one exact pass over them."""
        sizes = self._sizes(tasks)
        total = sum(sizes.values())
        return Mixture({t: n / total for t, n in sizes.items()}, sizes, by_size=True)

    def uniform(self, tasks: Iterable[str] | None = None) -> Mixture:
        return self.temperature(tasks, 0.0)

    def temperature(self, tasks: Iterable[str] | None = None, tau: float = 1.0) -> Mixture:
        """Weights proportional to n ** tau: 1 is proportional, 0 uniform."""
        if not (math.isfinite(tau) and tau >= 0):
            raise HarnessError(f"temperature: tau is {tau}, expected a finite number >= 0")
        return self.mixture({t: float(n) ** tau for t, n in self._sizes(tasks).items()})

    def only(self, task: str) -> Mixture:
        return self.proportional([task])

    def mixture(self, weights: Mapping[str, float]) -> Mixture:
        """Any weights, normalised to sum 1; an epoch is as long as the tasks with weight have examples."""
        checked = check_weights(weights, self._core.info)
        return Mixture(checked, self._sizes(checked))

    def just(self, examples: Sequence[Example]) -> Mixture:
        """Exactly these training examples, in this order."""
        if not examples:
            raise HarnessError("just(): at least one example is needed")
        for example in examples:
            if example.id not in self._core.by_id:
                raise HarnessError(f"just(): {example.id!r} is not a training example")
        tasks = [e.task for e in examples]
        weights = {t: tasks.count(t) / len(tasks) for t in sorted(set(tasks))}
        return Mixture(weights, {}, sequence=tuple(e.id for e in examples))

    def sample(self, task: str, n: int, split: Split = "train") -> list[Example]:
        self._known([task])
        _one_of("split", split, ("train", "validation"))
        rows = self._rows[split][task]
        if not 0 < n <= len(rows):
            raise HarnessError(f"sample: n is {n}, task {task!r} has {len(rows)} {split} examples")
        count = self._samples[task, split] = self._samples.get((task, split), 0) + 1
        chosen = stream(self._seed, "sample", task, split, count).permutation(len(rows))[:n]
        items = (self._core.train if split == "train" else self._core.validation)[task]
        return [
            Example(rows[i].id, task, split, rows[i].prompt, rows[i].completion, items[i].tokens)
            for i in sorted(chosen.tolist())
        ]

    def log(self, name: str, value: object) -> None:
        plain = _plain(value)
        size = len(json.dumps(plain))
        total = self._logged[name] = self._logged.get(name, 0) + size
        if total > LOG_NAME_BYTES or sum(self._logged.values()) > LOG_RUN_BYTES:
            raise HarnessError(f"log {name!r}: more than {LOG_NAME_BYTES:,} bytes a name or {LOG_RUN_BYTES:,} a run")
        self._verb(
            "log", [name, digest(plain)], lambda: self._core.note("log", name, plain), lambda r: r, lambda r: None
        )

    # --- checks

    def _sizes(self, tasks: Iterable[str] | None) -> dict[str, int]:
        if isinstance(tasks, str):
            raise HarnessError(f"tasks: expected a list of names, found the string {tasks!r}")
        names = sorted(self._core.info if tasks is None else set(tasks))
        self._known(names)
        if not names:
            raise HarnessError("a mixture needs at least one task")
        return {t: self._core.info[t].n_train for t in names}

    def _known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._core.info:
                raise unknown("task", str(name), self._core.info)


class Fork:
    """`with lab.fork(...) as child:`; a fork that has used up its own budget ends here, quietly."""

    def __init__(self, lab: RunLab, phase: str, start: str, flops: int | None) -> None:
        self._lab, self._phase, self._start, self._flops = lab, phase, start, flops

    def __enter__(self) -> RunLab:
        lab, session = self._lab, self._lab._session
        parent = lab._core
        replayed = session.journal.replaying
        clock = FrozenClock(parent.clock) if self._flops is None else Clock(parent.clock.schedule, parent.clock.peak_lr)
        child = Core(
            parent.engine,
            parent.data,
            parent.ledger.open(self._phase, self._flops),
            parent.store,
            Sampler(parent.sampler.seed, parent.sampler.sizes),
            clock,
            parent.trail,
            looking=False,
            base=parent.base,
            watch=parent.watch,
        )
        opened = session.journal.verbs

        def compute() -> None:
            if self._start not in (BASE, "now", parent.base) and self._start not in parent.store:
                raise HarnessError(f"fork: checkpoint {self._start} was released; use lab.checkpoint()")
            session.enter(child, opened, self._start, replayed=False)

        lab._verb("fork", [self._phase, self._start, self._flops], compute, lambda r: r, lambda r: None)
        if replayed:
            session.enter(child, opened, self._start, replayed=True)
        self._child = RunLab(child, session, lab._rows, lab._seed, opened)
        return self._child

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> bool:
        lab, session = self._lab, self._lab._session
        own = isinstance(error, BudgetExhausted) and error.account is self._child._core.ledger
        if error is not None and not own:
            return False
        lab.seconds_inside += self._child.seconds_inside
        replayed = session.journal.replaying
        child = self._child._core
        lab._verb("join", [], lambda: session.leave(child), lambda r: r, lambda r: None)
        if replayed:
            session.drop(child)
        return own


def _one_of(what: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise HarnessError(f"{what} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


def _plain(value: object) -> Any:
    """Arrays and numbers as JSON; a number that is not finite becomes null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise HarnessError(f"log: a {type(value).__name__} is not JSON; give numbers, strings, lists or arrays")


def _history_to_json(history: History) -> dict[str, Any]:
    looks = [[k.step, k.epoch, dict(k.values), k.value, k.kept.weights if k.kept else None] for k in history.looks]
    return {
        "looks": looks,
        "steps": history.steps,
        "epochs": history.epochs,
        "train_loss": dict(history.train_loss),
        "cut": history.cut,
    }


def _history_from_json(raw: Mapping[str, Any]) -> History:
    looks = tuple(Look(s, e, v, p, Checkpoint(c) if c else None) for s, e, v, p, c in raw["looks"])
    return History(looks, raw["steps"], raw["epochs"], raw["train_loss"], raw["cut"])
