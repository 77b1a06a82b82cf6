"""One run, from a request to its record: resolve, train under the strategy, score in another process, write the record."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from harness import RULES_VERSION, __version__, environment, models, record, registry
from harness.api import Strategy
from harness.core import Core, Progress
from harness.data import Item, Row, check_disjoint, content_digest, load_rows, tokenise
from harness.errors import BudgetExhausted, HarnessError, RunFailed
from harness.flops import Arch
from harness.journal import Journal
from harness.ledger import Entry, Ledger, billed, by_phase
from harness.paths import digest, file_digest, write_atomic
from harness.suite import Suite, load_suite

Rows = dict[str, dict[str, list[Row]]]


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
    strategy: Strategy
    identity: record.Identity
    id: str
    workload: str
    train: dict[str, list[Item]]
    validation: dict[str, list[Item]]
    rows: Rows

    @property
    def folder(self) -> Path:
        return self.request.runs / self.id


def prepare(request: Request) -> Plan:
    """Resolve suite, model, strategy and data, and work the budget out. Raises HarnessError for what is wrong."""
    suite_name = request.suite or ("pocket" if request.model == "pocket" else "bbh")
    suite = load_suite(suite_name)
    plugin = registry.find(request.strategy)
    strategy = plugin.build(request.options)
    if request.mode != "full":
        raise HarnessError(f"mode {request.mode!r}: this version does full fine-tuning only; expected 'full'")
    if request.scorer == "vllm":
        raise HarnessError("scorer 'vllm': this version scores with 'hf' only")
    if not (math.isfinite(request.budget) and request.budget > 0):
        raise HarnessError(f"budget {request.budget}: expected a positive multiple, such as 0.5 or 1x")
    if request.limit is not None and request.limit < 2:
        raise HarnessError(f"limit {request.limit}: expected at least 2 rows a task")
    if request.lr is not None and not (math.isfinite(request.lr) and request.lr > 0):
        raise HarnessError(f"lr {request.lr}: expected a positive number")
    if request.mirror and not request.mirror.is_dir():
        raise HarnessError(f"mirror {str(request.mirror)!r} is not a folder")
    model = models.resolve(request.model, request.mirror)
    arch = Arch.from_config(model.config)
    if reason := getattr(strategy, "skip", lambda _: None)(suite):
        raise HarnessError(f"strategy {request.strategy} does not apply to suite {suite.name}: {reason}")
    rows = {s: load_rows(suite, s, request.mirror, request.limit) for s in ("train", "validation")}
    check_disjoint(suite, rows["train"], rows["validation"])
    tokenizer = models.tokenizer(model)
    train = tokenise(tokenizer, rows["train"], suite.train.max_length)
    validation = tokenise(tokenizer, rows["validation"], suite.train.max_length)
    flops = budget_flops(suite, arch, train, request.budget)
    identity = record.Identity(
        strategy=plugin.name,
        model=model.name,
        suite=suite.name,
        mode="full",
        seed=request.seed,
        lr=request.lr or suite.train.lr,
        budget=record.BudgetSpec(multiple=request.budget, flops=flops),
        hyperparameters=dataclasses.asdict(strategy),  # type: ignore[call-overload]
        passed=dict(request.options),
        source_sha256=plugin.source_sha256,
        suite_sha256=suite.sha256,
        data_sha256={s: _content(r) for s, r in rows.items()},
    )
    run_id = record.run_id(identity, model.revision, request.limit, RULES_VERSION)
    workload = record.workload_id(identity, model.revision, request.limit)
    return Plan(request, suite, suite_name, model, arch, strategy, identity, run_id, workload, train, validation, rows)


def _content(rows: Mapping[str, list[Row]]) -> str:
    return content_digest({t: [(r.input, r.target) for r in group] for t, group in rows.items()})


def budget_flops(suite: Suite, arch: Arch, train: Mapping[str, list[Item]], multiple: float) -> int:
    """`multiple` x the FLOPs of size-proportional SFT for the suite's epochs, in whole effective batches.

    Raises HarnessError when not even one average step fits.
    """
    items = [item for group in train.values() for item in group]
    epoch = sum(arch.train_step(item.tokens, item.supervised) for item in items)
    flops = round(epoch * suite.train.epochs * multiple)
    step = epoch * suite.train.effective_batch // len(items)
    if flops < step:
        raise HarnessError(f"budget {multiple:g}x is {flops:.3g} FLOPs; one step of this suite needs {step:.3g}")
    return flops


@contextmanager
def locked(folder: Path) -> Any:
    """Hold a run directory; a second process on it is refused. The lock dies with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    handle: IO[str] = (folder / "lock").open("w")  # close-on-exec, so that a child cannot outlive its parent with it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunFailed(f"another process is working on run {folder.name}") from None
    try:
        yield
    finally:
        handle.close()


def finished(plan: Plan) -> Path | None:
    """The record of an identical run that ended well, unless --force."""
    path = plan.folder / "record.json"
    if plan.request.force or not path.exists():
        return None
    return path if record.read(path).status != "failed" else None


def execute(
    plan: Plan, watch: Callable[[Progress], None] | None = None, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Do the run and return the path of its record. Raises RunFailed after writing a record that says so."""
    folder = plan.folder
    size = sum(p.stat().st_size for p in plan.model.folder.glob("*.safetensors"))
    plan.request.runs.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(plan.request.runs).free < 8 * size + 50_000_000:
        raise HarnessError(
            f"no free disk for a run in {str(plan.request.runs)!r}: about {8 * size / 1e6:.0f} MB are needed"
        )
    with locked(folder):
        if (folder / "journal.jsonl").exists():
            say(f"run {plan.id} was begun before: it starts again from its first verb")
        for name in ("journal.jsonl", "record.json"):
            (folder / name).unlink(missing_ok=True)
        write_atomic(folder / "config.yaml", yaml.safe_dump(_config(plan), sort_keys=False))
        return _Run(plan, watch, say).go()


def _config(plan: Plan) -> dict[str, Any]:
    """The resolved request: enough to repeat the run."""
    r = plan.request
    return {
        "strategy": r.strategy,
        "model": r.model,
        "suite": plan.suite_name,
        "seed": r.seed,
        "budget": r.budget,
        "lr": plan.identity.lr,
        "options": dict(r.options),
        "hyperparameters": plan.identity.hyperparameters,
        "mode": r.mode,
        "limit": r.limit,
        "suite_resolved": plan.suite.model_dump(mode="json"),
    }


class _Run:
    """The phases of one run; what they share is here, what they do is below."""

    def __init__(self, plan: Plan, watch: Callable[[Progress], None] | None, say: Callable[[str], None]) -> None:
        self.plan, self.watch, self.say = plan, watch, say
        self.folder = plan.folder
        self.started = datetime.now(UTC)
        self.core: Core | None = None
        self.outside = 0.0
        self.score: dict[str, Any] = {"scores": {}, "overlap": {}, "scorer": None}
        self.base: dict[str, float] = {}
        self.weights: str | None = None

    def go(self) -> Path:
        try:
            status = self.train()
            self.say("scoring the answer")
            self.score = self.scoring(self.folder / "final", self.folder)
            self.base = self.base_scores()
        except RunFailed as error:
            self.write("failed", str(error))
            raise
        return self.write(status, None)

    def train(self) -> str:
        """`strategy.run(lab)` under the cap; leaves the answer's weights in final/."""
        from harness.lab import RunLab
        from harness.setup import build

        plan = self.plan
        journal = Journal(self.folder / "journal.jsonl")
        ledger = Ledger(plan.identity.budget.flops, self.folder / "ledger.jsonl")
        self.core, engine = build(plan, ledger, self.watch)
        lab = RunLab(self.core, journal, plan.rows, plan.request.seed)
        began, status = time.perf_counter(), "finished"
        try:
            plan.strategy.run(lab)
        except BudgetExhausted:
            status = "budget"
        except HarnessError:
            raise
        except Exception as error:
            (self.folder / "error.txt").write_text(traceback.format_exc())
            raise RunFailed(
                f"strategy {plan.request.strategy} failed: {type(error).__name__}: {error} (see error.txt)"
            ) from error
        finally:
            self.outside = max(0.0, time.perf_counter() - began - lab.seconds_inside)
            journal.close()
            ledger.flush()
        core = self.core
        core.observe(last=True)
        if core.answer is not None and core.answer != core.standing:
            core.restore(core.answer, "fresh")
        final = self.folder / "final"
        shutil.rmtree(final, ignore_errors=True)
        engine.save_pretrained(final)
        self.weights = digest({p.name: file_digest(p) for p in sorted(final.glob("*.safetensors"))})
        ledger.close()
        return status

    def scoring(self, folder: Path, work: Path) -> dict[str, Any]:
        from harness.score import score

        r = self.plan.request
        shutil.rmtree(work / "items", ignore_errors=True)
        return score(folder, self.plan.suite_name, work, mirror=r.mirror, limit=r.limit)

    def base_scores(self) -> dict[str, float]:
        """The base model's scores, measured once per workload and kept beside the runs."""
        work = self.plan.request.runs / "base" / self.plan.workload
        if not (work / "scores.json").exists():
            self.say("scoring the base model, once for this workload")
            self.scoring(self.plan.model.folder, work)
        saved = json.loads((work / "scores.json").read_text(encoding="utf-8"))
        return {task: row["value"] for task, row in saved["scores"].items()}

    def write(self, status: str, error: str | None) -> Path:
        plan, core = self.plan, self.core
        entries: list[Entry] = list(core.ledger.entries) if core else []
        if "ledger" in self.score:
            s = self.score["ledger"]
            entries.append(Entry(-1, 0, "score", s["model_flops"], s["hardware_flops"], s["tokens"], s["seconds"]))
        kept = core.path(core.answer or core.standing) if core else {}
        table = by_phase(entries, kept)
        data = dict(plan.identity.data_sha256)
        if "test_sha256" in self.score:
            data["test"] = self.score["test_sha256"]
        env = environment.describe(plan.suite, plan.model)
        made = record.Record(
            schema_version=record.SCHEMA_VERSION,
            rules_version=RULES_VERSION,
            harness_version=__version__,
            id=plan.id,
            workload=plan.workload,
            status=status,  # type: ignore[arg-type]
            official=plan.request.limit is None and status != "failed" and env.git.dirty is False,
            started=self.started.isoformat(timespec="seconds"),
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            identity=plan.identity.model_copy(update={"data_sha256": data}),
            environment=env,
            ledger={phase: record.PhaseSum(**row) for phase, row in table.items()},
            total_model_flops=billed(table),
            mixture=[record.MixtureChange(**m) for m in core.mixtures] if core else [],
            curves=[record.CurvePoint(**c) for c in core.curves] if core else [],
            events=[record.Event(**e) for e in core.events] if core else [],
            scores={t: record.TaskScore(**s) for t, s in self.score["scores"].items()},
            reports=record.Reports(
                overlap=self.score["overlap"],
                seconds_outside_verbs=round(self.outside, 3),
                limit=plan.request.limit,
                scorer=self.score["scorer"],
                weights_sha256=self.weights,
                base_scores=self.base,
                checkpoints_peak=core.store.peak if core else 0,
                error=error,
            ),
        )
        path = self.folder / "record.json"
        record.write(made, path)
        if status != "failed":
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return path
