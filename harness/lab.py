"""The lab that a run gives to its strategy: each verb is checked, computed, booked and journalled here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from harness.api import (
    REST,
    Checkpoint,
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
    Select,
    TaskInfo,
)
from harness.codec import history_from_json, history_to_json, one_of, plain, qualified
from harness.core import Core
from harness.fork import Fork
from harness.loop import Spec, run_stage
from harness.memory import ExampleTable, LabState
from harness.paths import digest
from harness.pool import check_pool, gatherer
from harness.probing import Probing
from harness.sampler import mixture_digest
from harness.session import Session
from harness.trail import BASE

METRICS = (None, "loss", "exact_match", "generate")
FORK_PHASES = ("proxy", "probe", "gradients", "generate")


class RunLab(Probing):
    """`harness.api.Lab` over one engine. See the protocol for what the verbs mean."""

    def __init__(self, core: Core, session: Session, seed: int, fork: int = -1) -> None:
        super().__init__(core, session, seed, fork)
        self.examples, self.state = ExampleTable(self), LabState(self)

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        return dict(self._core.info)

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
        pool: int = 1,
        select: Select | None = None,
        references: Sequence[Checkpoint] = (),
        reference_logits: Sequence[Checkpoint] = (),
        pause: str | None = None,
        after: History | None = None,
    ) -> History:
        long, grid = Length.parse(length), Length.parse(eval_every) if eval_every else None
        if grid and grid.unit == "rest":
            raise HarnessError("eval_every: expected a step, epoch or budget length, not REST")
        rest = Length.parse(pause) if pause else None
        if rest and rest.unit not in ("step", "epoch"):
            raise HarnessError(f"pause {pause!r}: expected steps or epochs")
        if after is not None and after.paused is None:
            raise HarnessError("train(after=): this training was not paused; it is at its end")
        one_of("keep", keep, ("last", "none", "best", "peaks"))
        one_of("optimizer", optimizer, ("keep", "fresh"))
        one_of("metric", metric, METRICS)
        self._trainable(mixture)
        check_pool(pool, select)
        references, reference_logits = tuple(dict.fromkeys(references)), tuple(dict.fromkeys(reference_logits))
        args = [
            mixture_digest(mixture),
            length,
            eval_every,
            metric,
            keep,
            optimizer,
            qualified(objective),
            qualified(example_weights),
            pool,
            qualified(select),
            [at.weights for at in references],
            [at.weights for at in reference_logits],
            pause,
            after and after.last.checkpoint.weights,
        ]

        def compute() -> History:
            core = self._core
            resumed, core.resumed = core.resumed, None
            core.metric = metric
            fresh = optimizer == "fresh"
            earlier = after.paused if after else None
            core.held = {at.weights for at in (*references, *reference_logits)}
            if resumed is None:
                core.ledger.require(0)
                if after and after.last.checkpoint.weights != core.trail.trained(core.standing):
                    raise HarnessError("train(after=): the weights have moved since the pause")
                core.new_stage(mixture, fresh and not after, set(earlier["names"]) if earlier else None)
            spec = Spec(
                core.verb,
                core.trail.starts[core.verb],
                mixture,
                long,
                grid,
                keep,
                core.suite.train.effective_batch,
                fresh,
                objective,
                example_weights,
                references,
                reference_logits,
                gatherer(core, mixture, pool, select) if select else None,
                rest,
            )
            history = run_stage(core, spec, resumed, earlier)
            if history.paused or (history.last.kept and keep == "last"):
                core.defer()
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
        one_of("metric", metric, METRICS)
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

    def checkpoint(self, *, pin: bool = True) -> Checkpoint:
        core = self._core
        args = [] if pin else ["until the next train"]
        keep = core.pin if pin else core.promise
        return self._verb("checkpoint", args, lambda: Checkpoint(keep()), lambda c: c.weights, Checkpoint)

    def rollback(self, to: Checkpoint, *, optimizer: Literal["restore", "fresh"] = "restore") -> None:
        one_of("optimizer", optimizer, ("restore", "fresh"))

        def compute() -> None:
            core = self._core
            core.own(to.weights)
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
            if weights is not None:
                core.own(weights)
            previous, core.trail.answer = core.trail.answer, weights
            if previous and previous != weights and previous not in core.loose | core.trail.pinned:
                core.store.drop(previous)
            core.note("answer", weights or "the weights as they stand at the end", {"weights": weights})

        self._verb("answer", [weights], compute, lambda r: r, lambda r: None)

    def fork(
        self,
        phase: ForkPhase,
        *,
        start: Literal["base", "now"] | Checkpoint = "base",
        model: str | None = None,
        budget: str | int | None = None,
    ) -> Fork:
        """A lab of its own on the same data: see `harness.api.Lab.fork`."""
        one_of("phase", phase, FORK_PHASES)
        weights = start.weights if isinstance(start, Checkpoint) else start
        if weights == "now" and model is not None:
            raise HarnessError("fork: another model cannot start from here; start='base' or one of its checkpoints")
        return Fork(self, phase, weights, self._flops(budget), model)

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

    def log(self, name: str, value: object) -> None:
        found = plain(value)
        core = self._core
        self._verb("log", [name, digest(found)], lambda: core.log(name, found), lambda r: r, lambda r: None)
