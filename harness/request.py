"""A request and what it resolves to: every name looked up, the data read, the budget worked out, no weights loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import RULES_VERSION, models, record, registry, reuse, sources, stock
from harness.data import Item, Row, check_disjoint, content_digest, load_rows, tokenise
from harness.errors import HarnessError, unknown
from harness.flops import Arch
from harness.interpreter import vllm_interpreter
from harness.lmtasks import without_room
from harness.paths import canonical
from harness.suite import MODES, Suite, load_suite

Rows = dict[str, dict[str, list[Row]]]

MOST_BUDGET = 1000.0  # times what size-proportional SFT takes


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    strategy: str = "proportional"
    model: str = "pocket"
    suite: str | None = None
    seed: int = 0
    budget: float = 1.0
    lr: float | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    mode: str = "full"
    scorer: str = "auto"
    vllm_python: Path | None = None
    mirror: Path | None = None
    limit: int | None = None
    runs: Path = Path("runs")
    force: bool = False


@dataclass(frozen=True)
class Plan:
    """A request with every name resolved: nothing in it can be misspelt any more, and no weights are loaded."""

    request: Request
    suite: Suite
    suite_name: str
    model: models.Model
    arch: Arch
    strategy: registry.Built
    identity: record.Identity
    id: str
    workload: str
    train: dict[str, list[Item]]
    validation: dict[str, list[Item]]
    rows: Rows
    revisions: Mapping[str, str | None]  # of the data sets, as they were read
    reused: record.Reused | None = None  # the run whose mixture this one trains on, and what learning it cost

    @property
    def told(self) -> str:
        """The strategy and its options as they were given, for what is said of it: `strategy msft (C=2)`."""
        given = ", ".join(f"{key}={text}" for key, text in self.identity.passed.items())
        return f"strategy {self.identity.strategy}" + (f" ({given})" if given else "")

    @property
    def folder(self) -> Path:
        return self.request.runs / self.id


def prepare(request: Request, weights: bool = True) -> Plan:
    """Resolve suite, model, strategy and data, and work the budget out. Raises HarnessError for what is wrong.

    Without `weights` the model's are neither fetched nor read, and the id is not that of the run.
    """
    suite_name = request.suite if request.suite is not None else ("pocket" if request.model == "pocket" else "bbh")
    suite = load_suite(suite_name)
    plugin = registry.resolve(request.strategy)
    options, taken = plugin.apart(request.options)
    strategy = plugin.build(options)
    mode = next((m for m in MODES if m == request.mode), None)
    if mode is None:
        raise unknown("mode", request.mode, MODES)
    # What would be missing after the training is missing now.
    scoring = vllm_interpreter(request.vllm_python) if request.scorer == "vllm" else None
    if not 0 < request.budget <= MOST_BUDGET:
        raise HarnessError(
            f"budget {request.budget}: expected a positive multiple up to {MOST_BUDGET:g}, such as 0.5 or 1x"
        )
    if request.limit is not None and request.limit < 2:
        raise HarnessError(f"limit {request.limit}: expected at least 2 rows a task")
    if request.lr is not None and not (math.isfinite(request.lr) and request.lr > 0):
        raise HarnessError(f"lr {request.lr}: expected a positive number")
    if request.mirror and not request.mirror.is_dir():
        raise HarnessError(f"mirror {str(request.mirror)!r} is not a folder")
    model = models.resolve(request.model, request.mirror, weights)
    arch = Arch.from_config(model.config)
    arch = arch.lora(suite.train.lora.r) if mode == "lora" else arch
    if reason := strategy.skip(suite):
        raise HarnessError(f"strategy {request.strategy} does not apply to suite {suite.name}: {reason}")
    stock.check(suite, scoring)
    if scoring is not None and (why := without_room(suite, model.config)):
        raise HarnessError(f"scorer 'vllm': {why}; --scorer hf has no such limit")
    sources.check(suite)
    revisions = sources.fetch(suite, request.mirror)
    rows = {s: load_rows(suite, s, request.mirror, request.limit) for s in ("train", "validation")}
    check_disjoint(suite, rows["train"], rows["validation"])
    if suite.data.files and not (suite.folder / suite.data.files.replace("{split}", "test")).is_file():
        raise HarnessError(
            f"suite {suite.name}: its test file is missing; it is read after training, but must be there"
        )
    tokenizer = models.tokenizer(model)
    length, cut = suite.train.max_length, suite.train.cut
    train, validation = (tokenise(tokenizer, rows[s], length, cut) for s in ("train", "validation"))
    flops = budget_flops(suite, arch, train, request.budget)
    identity = record.Identity(
        strategy=plugin.name,
        model=model.name,
        suite=suite.name,
        mode=mode,
        seed=request.seed,
        lr=request.lr or suite.train.rates(mode)[0],
        budget=record.BudgetSpec(multiple=request.budget, flops=flops),
        hyperparameters=strategy.hyperparameters,
        passed=options,
        source_sha256=plugin.source_sha256,
        suite_sha256=suite.sha256(mode),
        data_sha256={s: _content(r) for s, r in rows.items()},
    )
    run_id = record.run_id(identity, model.revision, request.limit, RULES_VERSION)
    workload = record.workload_id(identity, model.revision, request.limit)
    named = (request, suite, suite_name, model, arch, strategy, identity, run_id, workload)
    plan = Plan(*named, train, validation, rows, revisions)
    return _reusing(plan, plugin, taken, weights) if taken else plan


def vary(plan: Plan, request: Request) -> Plan:
    """What `prepare` says of a request that shares suite, model, mode and limit with `plan`; nothing is read again."""
    plugin = registry.resolve(request.strategy)
    options, taken = plugin.apart(request.options)
    strategy = plugin.build(options)
    flops = budget_flops(plan.suite, plan.arch, plan.train, request.budget)
    update = {
        "strategy": plugin.name,
        "seed": request.seed,
        "lr": request.lr or plan.suite.train.rates(plan.identity.mode)[0],
        "budget": record.BudgetSpec(multiple=request.budget, flops=flops),
        "hyperparameters": strategy.hyperparameters,
        "passed": options,
        "source_sha256": plugin.source_sha256,
    }
    identity = plan.identity.model_copy(update=update)
    run_id = record.run_id(identity, plan.model.revision, request.limit, RULES_VERSION)
    plan = replace(plan, request=request, strategy=strategy, identity=identity, id=run_id, reused=None)
    return _reusing(plan, plugin, taken, weights=True) if taken else plan


def _reusing(plan: Plan, plugin: registry.Composed, taken: Mapping[str, str], weights: bool) -> Plan:
    """`plan`, which learns its mixture, as the run that takes it from another one: by that run's id, never by a path."""
    (key, text), *more = taken.items()
    if more:
        raise HarnessError(f"options {key} and {more[0][0]}: one mixture at most can be taken from another run")
    request, mine = plan.request, plan.identity
    try:
        source = reuse.find(text, request.runs, mine.seed, plan.id if weights else None, plugin.parts[0].name)
        reuse.same_workload(source, mine, request.limit, plan.workload if weights else None)
        mixture, reused = reuse.taken(source, mine, plan.strategy, sorted(plan.train), plugin.parts[0].source_sha256)
    except HarnessError as error:
        raise HarnessError(f"option {key}={text!r} of {plugin.name}: {error}") from None
    options = {**mine.passed, key: canonical({"run": mixture.run, "weights": mixture.weights})}
    strategy = plugin.build(options)
    update = {"hyperparameters": strategy.hyperparameters, "passed": {**mine.passed, key: mixture.run}}
    identity = mine.model_copy(update=update)
    run_id = record.run_id(identity, plan.model.revision, request.limit, RULES_VERSION)
    return replace(plan, strategy=strategy, identity=identity, id=run_id, reused=reused)


def _content(rows: Mapping[str, list[Row]]) -> str:
    return content_digest({t: [(r.input, r.target) for r in group] for t, group in rows.items()})


def budget_flops(suite: Suite, arch: Arch, train: Mapping[str, list[Item]], multiple: float) -> int:
    """`multiple` x the FLOPs of size-proportional SFT for the suite's epochs in the mode that `arch` is of.

    Raises HarnessError when not even one average step fits.
    """
    items = [item for group in train.values() for item in group]
    epoch = sum(arch.train_step(item.tokens, item.supervised) for item in items)
    flops = round(epoch * suite.train.epochs * multiple)
    step = epoch * suite.train.effective_batch // len(items)
    if flops < step:
        raise HarnessError(f"budget {multiple:g}x is {flops:.3g} FLOPs; one step of this suite needs {step:.3g}")
    return flops
