"""A strategy's plot under a real lab, ledger and cap, over an engine without weights: one scenario of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness import models
from harness.checkpoint import n_bytes
from harness.core import Core, Data
from harness.curves import Scenario
from harness.data import tokenise
from harness.errors import BudgetExhausted, HarnessError
from harness.flops import Arch
from harness.journal import Journal
from harness.lab import RunLab
from harness.ledger import Ledger, by_phase
from harness.loop import Clock, Stage
from harness.lora import LoraSpec
from harness.models import Model
from harness.request import Plan
from harness.sampler import Sampler
from harness.session import Session
from harness.trail import Trail
from harness.weightless import Weightless, WeightlessStore, size, skeleton

IDLE_VERBS = 10_000  # in a row that cost nothing, beyond those that a look at every example takes


@dataclass(frozen=True)
class Outcome:
    """What the run would do in one scenario: its ledger by phase, counts, and bytes. `trace`: every verb and booking."""

    scenario: Scenario
    status: str
    table: dict[str, dict[str, Any]]
    steps: int
    looks: int
    verbs: int
    checkpoints: int
    checkpoint_bytes: int
    snapshot_bytes: int
    trace: list[Any] = field(repr=False)


class Watchman(Journal):
    """A journal without a file that notices a plot going round in circles."""

    def __init__(self, strategy: str, ledger: Ledger, limit: int) -> None:
        super().__init__(None)
        self.strategy, self.ledger, self.limit = strategy, ledger, limit
        self.trace: list[Any] = []
        self._spent, self._idle = 0, 0

    def append(self, verb: str, args: str, result: Any, ledger_lines: int, exhausted: int | None = None) -> None:
        super().append(verb, args, result, ledger_lines, exhausted)
        self.trace.append((verb, args))
        self._idle = self._idle + 1 if self.ledger.spent == self._spent else 0
        self._spent = self.ledger.spent
        if self._idle >= self.limit:
            raise HarnessError(
                f"strategy {self.strategy} was stopped: {self._idle:,} verbs in a row cost nothing, so no budget ends it"
            )


class Measured(Session):
    """A session that knows how large its largest snapshot would be."""

    snapshot_bytes, _spent = 0, -1

    def tick(self, stage: Stage | None, force: bool = False) -> None:
        """Measure between verbs, where something has been computed since the last time."""
        spent = self.levels[0].core.ledger.spent
        if stage is None and spent != self._spent:
            self._spent = spent
            self.measure()

    def measure(self) -> None:
        """What a snapshot would hold now."""
        *outer, top = self.levels
        now = sum(size(level.held) for level in outer) + size(top.core.tensors()) + n_bytes(top.core.gold_tensors())
        self.snapshot_bytes = max(self.snapshot_bytes, now)


class Props:
    """What all scenarios of one plan share: skeletons of models and the data in their tokens, by name."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        train = plan.suite.train
        self.lora = LoraSpec(train.lora.r, train.lora.alpha) if plan.identity.mode == "lora" else None
        self.horizon = train.epochs * plan.request.budget
        tokenizer = models.tokenizer(plan.model)
        self.own = (self._skeleton(plan.model), plan.arch, tokenizer, plan.train, plan.validation)
        self._others: dict[str, Any] = {}

    def _skeleton(self, model: Model) -> Any:
        return skeleton(model.folder, self.lora)

    def engine(self, parts: Any, scenario: Scenario) -> tuple[Weightless, Data]:
        """Its own engine and rewritten responses for each scenario."""
        lm, arch, tokenizer, train, validation = parts
        engine = Weightless(lm, arch, tokenizer, train, validation, scenario, self.horizon)
        return engine, Data(self.plan.suite, train, validation, self.plan.rows, tokenizer)

    def other(self, name: str) -> Any:
        """Another model for forks: config and tokenizer only."""
        if name not in self._others:
            plan = self.plan
            model = models.resolve(name, plan.request.mirror, weights=False)
            arch = Arch.from_config(model.config)
            arch = arch.lora(self.lora.r) if self.lora else arch
            tokenizer, length = models.tokenizer(model), plan.suite.train.max_length
            data = [
                tokenise(tokenizer, plan.rows[split], length, plan.suite.train.cut) for split in ("train", "validation")
            ]
            self._others[name] = (self._skeleton(model), arch, tokenizer, *data)
        return self._others[name]


def rehearse(props: Props, scenario: Scenario) -> Outcome:
    """`strategy.run(lab)` under the cap. Raises HarnessError for a plot that fails or does not end."""
    plan = props.plan
    n_train = sum(len(items) for items in plan.train.values())
    ledger = Ledger(plan.identity.budget.flops)
    journal = Watchman(plan.identity.strategy, ledger, max(IDLE_VERBS, 4 * n_train))
    engine, data = props.engine(props.own, scenario)
    engines = {"": (engine, data)}

    def companion(name: str) -> tuple[Weightless, Data]:
        if name not in engines:
            engines[name] = props.engine(props.other(name), scenario)
        return engines[name]

    store = WeightlessStore()
    sampler = Sampler(plan.request.seed, {task: len(items) for task, items in plan.train.items()})
    clock = Clock(plan.suite.train.schedule, plan.identity.lr)
    core = Core(engine, data, ledger, store, sampler, clock, Trail(), companion=companion)
    session = Measured(core, journal)
    status = _run(plan, RunLab(core, session, plan.request.seed))
    session.measure()
    session.unwind()
    session.measure()
    answer = core.trail.answer or core.standing
    if answer != core.standing:
        core.restore(answer, "fresh")
    core.looks.observe(answer, core.verb, last=True)
    own_looks = sum(e.phase == "look" for e in ledger.entries)
    return Outcome(
        scenario,
        status,
        by_phase(ledger.entries, core.trail.path(answer)),
        sum(e.steps for e, _ in engines.values()),
        sum(e.looks for e, _ in engines.values()) - own_looks,
        journal.verbs,
        store.peak,
        store.peak_bytes,
        session.snapshot_bytes,
        [*journal.trace, *((e.verb, e.step, e.phase, e.model) for e in ledger.entries)],
    )


def _run(plan: Plan, lab: RunLab) -> str:
    """`finished`, or `budget` where the cap ended it."""
    try:
        plan.strategy.run(lab)
    except BudgetExhausted:
        return "budget"
    except HarnessError as error:
        raise HarnessError(str(error)) from None  # a run that fails; a plan of it is a wrong request
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise HarnessError(f"strategy {plan.identity.strategy} cannot be planned: {what}") from error
    return "finished"
