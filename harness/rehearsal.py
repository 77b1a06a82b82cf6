"""A strategy's plot under a real lab, ledger and cap, over an engine without weights: one scenario of a plan.

The plot's first lines alone say, in a fraction of a second, whether it refuses its options: see `opening`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

from harness import models, ranks
from harness.checkpoint import n_bytes
from harness.core import Core, Data
from harness.curves import SCENARIOS, Scenario
from harness.data import tokenise
from harness.engine import Step
from harness.errors import BudgetExhausted, HarnessError, raised_at
from harness.flops import Arch
from harness.journal import Journal
from harness.lab import RunLab
from harness.ledger import BILLED, Entry, Ledger, by_phase
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

    def __init__(self, ledger: Ledger, limit: int) -> None:
        super().__init__(None)
        self.ledger, self.limit = ledger, limit
        self.trace: list[Any] = []
        self._spent, self._idle = 0, 0

    def append(self, verb: str, args: str, result: Any, ledger_lines: int, exhausted: int | None = None) -> None:
        super().append(verb, args, result, ledger_lines, exhausted)
        self.trace.append((verb, args))
        self._idle = self._idle + 1 if self.ledger.spent == self._spent else 0
        self._spent = self.ledger.spent
        if self._idle >= self.limit:
            raise HarnessError(f"it was stopped: {self._idle:,} verbs in a row cost nothing, so no budget ends it")


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

    def engine(self, parts: Any, scenario: Scenario, kind: type[Weightless]) -> tuple[Weightless, Data]:
        """Its own engine and rewritten responses for each scenario."""
        lm, arch, tokenizer, train, validation = parts
        engine = kind(lm, arch, tokenizer, train, validation, scenario, self.horizon)
        return engine, Data(self.plan.suite, train, validation, self.plan.rows, tokenizer)

    def skeletons(self) -> list[Any]:
        """The run's own model, and those that forks have asked for."""
        return [parts[0] for parts in (self.own, *self._others.values())]

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


class _Begun(BaseException):
    """The first billed work is about to be booked. No Exception, so that a strategy cannot swallow it."""


class _Threshold(Ledger):
    """Ends a plot where it would be billed for the first time."""

    def add(self, entry: Entry) -> None:
        if entry.phase in BILLED:
            raise _Begun
        super().add(entry)


class _Still(Weightless):
    """Takes no step: what calls back in it would see made-up losses before they are billed."""

    def step(self, *_: Any, **__: Any) -> Step:
        raise _Begun


def opening(plan: Plan, props: Props | None = None) -> None:
    """Raise HarnessError, naming strategy and option, if the plot refuses what it is given before any work is billed.

    Until then it has been shown nothing that is made up here, so that the run would refuse it too. What crashes otherwise
    is left to the run, which keeps the traceback.
    """
    props = props or Props(plan)
    error = _refusal(plan, props)
    if error is None:
        return
    for key, text in plan.identity.passed.items():
        other = plan.strategy.without(key)
        if other is not None and _refusal(replace(plan, strategy=other), props) is None:
            raise HarnessError(f"option {key}={text!r} of {plan.identity.strategy}: {error}") from error
    raise HarnessError(f"{plan.told}: {error}") from error


def before(plan: Plan) -> None:
    """`opening` of a run that is yet to begin, so that what it refuses leaves no folder behind.

    One that goes on has begun. Of several ranks the first one tries it alone, and all end with what it has found.
    """
    error: HarnessError | None = None
    if ranks.main() and not (plan.folder / "journal.jsonl").exists():
        try:
            with ranks.apart():
                opening(plan)
        except HarnessError as found:
            error = found
    if told := ranks.first(error and str(error)):
        raise HarnessError(told) from error


def _refusal(plan: Plan, props: Props) -> Exception | None:
    ledger = _Threshold(plan.identity.budget.flops)
    core, _, journal = _stage(plan, props, SCENARIOS[0], ledger, _Still)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of what is refused next; the run repeats the others
            plan.strategy.run(RunLab(core, Session(core, journal), plan.request.seed))
    except (HarnessError, ValueError, OverflowError) as error:
        return error
    except (_Begun, BudgetExhausted, Exception):
        pass
    return None


def _stage(
    plan: Plan, props: Props, scenario: Scenario, ledger: Ledger, kind: type[Weightless] = Weightless
) -> tuple[Core, dict[str, Any], Watchman]:
    """A core at the beginning of a run, the engines that it has so far (those of other models come later), a journal."""
    n_train = sum(len(items) for items in plan.train.values())
    engine, data = props.engine(props.own, scenario, kind)
    engines = {"": (engine, data)}

    def companion(name: str) -> tuple[Weightless, Data, dict[str, str]]:
        if name not in engines:
            engines[name] = props.engine(props.other(name), scenario, kind)
        return *engines[name], {"model": name}

    sampler = Sampler(plan.request.seed, {task: len(items) for task, items in plan.train.items()})
    clock = Clock(plan.suite.train.schedule, plan.identity.lr)
    core = Core(engine, data, ledger, WeightlessStore(), sampler, clock, Trail(), companion=companion)
    return core, engines, Watchman(ledger, max(IDLE_VERBS, 4 * n_train))


def rehearse(props: Props, scenario: Scenario) -> Outcome:
    """`strategy.run(lab)` under the cap. Raises HarnessError for a plot that fails or does not end."""
    plan = props.plan
    ledger = Ledger(plan.identity.budget.flops)
    core, engines, journal = _stage(plan, props, scenario, ledger)
    session = Measured(core, journal)
    status = _run(plan, RunLab(core, session, plan.request.seed))
    session.measure()
    session.unwind()
    session.measure()
    store = core.store
    assert isinstance(store, WeightlessStore)
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
        raise HarnessError(f"{plan.told}: {error}") from None  # a run that fails; a plan of it is a wrong request
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        at = raised_at(error)
        raise HarnessError(f"{plan.told} cannot be planned: {what}{f' ({at})' if at else ''}") from error
    return "finished"
