"""The lab that a run gives to its strategy: each verb is checked, computed, booked and journalled here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeVar

import numpy as np

from harness.api import (
    REST,
    Checkpoint,
    Example,
    ExampleWeights,
    ForkPhase,
    HarnessError,
    History,
    Keep,
    Length,
    Metric,
    Mixture,
    Objective,
    OptimizerState,
    Score,
    TaskInfo,
)
from harness.codec import history_from_json, history_to_json, one_of, plain, qualified
from harness.core import Core
from harness.data import Row
from harness.durable import fault
from harness.errors import BudgetExhausted, NonDeterministicStrategy
from harness.fork import Fork
from harness.loop import Spec, run_stage
from harness.mixtures import Mixtures
from harness.paths import digest
from harness.sampler import mixture_digest, stream
from harness.session import Session
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


class RunLab(Mixtures):
    """`harness.api.Lab` over one engine. See the protocol for what the verbs mean."""

    def __init__(
        self, core: Core, session: Session, rows: Mapping[str, Mapping[str, list[Row]]], seed: int, fork: int = -1
    ) -> None:
        super().__init__(core, rows, seed)
        self._session, self._journal = session, session.journal
        self._rng = stream(seed, "strategy", fork)
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
        objective: Objective | None = None,
        example_weights: ExampleWeights | None = None,
    ) -> History:
        long, grid = Length.parse(length), Length.parse(eval_every) if eval_every else None
        if grid and grid.unit == "rest":
            raise HarnessError("eval_every: expected a step, epoch or budget length, not REST")
        one_of("keep", keep, ("last", "none", "best", "peaks"))
        one_of("optimizer", optimizer, ("keep", "fresh"))
        one_of("metric", metric, (None, "loss", "exact_match"))
        self._known(mixture.weights)
        args = [
            mixture_digest(mixture),
            length,
            eval_every,
            metric,
            keep,
            optimizer,
            qualified(objective),
            qualified(example_weights),
        ]

        def compute() -> History:
            core = self._core
            resumed, core.resumed = core.resumed, None
            core.metric = metric
            fresh = optimizer == "fresh"
            if resumed is None:
                core.ledger.require(0)
                core.new_stage(mixture, fresh)
            start, batch = core.trail.starts[core.verb], core.suite.train.effective_batch
            spec = Spec(core.verb, start, mixture, long, grid, keep, batch, fresh, objective, example_weights)
            history = run_stage(core, spec, resumed)
            if history.last.kept and keep == "last":
                core.loose.add(core.standing)
                core.deferred = True
            return history

        return self._verb("train", args, compute, history_to_json, history_from_json)

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
        one_of("metric", metric, (None, "loss", "exact_match"))
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
        one_of("optimizer", optimizer, ("restore", "fresh"))

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
        one_of("phase", phase, FORK_PHASES)
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

    def log(self, name: str, value: object) -> None:
        value = plain(value)
        size = len(json.dumps(value))
        total = self._logged[name] = self._logged.get(name, 0) + size
        if total > LOG_NAME_BYTES or sum(self._logged.values()) > LOG_RUN_BYTES:
            raise HarnessError(f"log {name!r}: more than {LOG_NAME_BYTES:,} bytes a name or {LOG_RUN_BYTES:,} a run")
        self._verb(
            "log", [name, digest(value)], lambda: self._core.note("log", name, value), lambda r: r, lambda r: None
        )
