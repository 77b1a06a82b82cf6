"""Put the instruments of a run together: engine, store, sampler, clock, core. The first module that loads weights."""

from __future__ import annotations

from collections.abc import Callable

from harness.checkpoint import Store
from harness.core import Core, Data, Progress
from harness.data import tokenise
from harness.durable import Point
from harness.flops import Arch
from harness.ledger import Ledger
from harness.loop import Clock
from harness.lora import LoraSpec
from harness.models import Model, resolve
from harness.request import Plan
from harness.sampler import Sampler
from harness.trail import Trail
from harness.workshop import Workshop


def build(
    plan: Plan, ledger: Ledger, watch: Callable[[Progress], None] | None = None, point: Point | None = None
) -> tuple[Core, Workshop]:
    """The core of a run's root lab, and its engine; trail and store as they stood at `point`, if a run goes on."""
    train = plan.suite.train
    engine = _engine(plan, plan.model, plan.arch)
    sampler = Sampler(plan.request.seed, {task: len(items) for task, items in plan.train.items()})
    clock = Clock(train.schedule, plan.identity.lr)
    store, trail = Store(plan.folder / "checkpoints", resume=point is not None), Trail()
    if point is not None:
        store.resume(set(point.checkpoints))
        store.peak = point.peak
        trail.load(point.trail, {k: v.numpy() for k, v in point.tensors["gold"].items()})
    data = Data(plan.suite, plan.train, plan.validation, plan.rows, engine.tokenizer)
    others: dict[str, tuple[Workshop, Data, dict[str, str]]] = {}

    def companion(name: str) -> tuple[Workshop, Data, dict[str, str]]:
        if name not in others:
            others[name] = _companion(plan, name)
            engine.beside.append(others[name][0])
        return others[name]

    core = Core(engine, data, ledger, store, sampler, clock, trail, watch=watch, companion=companion)
    return core, engine


def _engine(plan: Plan, model: Model, arch: Arch, placed: bool = True) -> Workshop:
    train = plan.suite.train
    lora = LoraSpec(train.lora.r, train.lora.alpha) if plan.identity.mode == "lora" else None
    return Workshop(
        model.folder,
        arch,
        train.optimizer,
        plan.request.seed,
        lora,
        checkpointing=train.gradient_checkpointing,
        bf16_moments=train.bf16_moments,
        placed=placed,
    )


def _companion(plan: Plan, name: str) -> tuple[Workshop, Data, dict[str, str]]:
    """Another model for forks: in the run's mode, on the same rows in its own tokens; in host memory until its turn."""
    model = resolve(name, plan.request.mirror)
    arch = Arch.from_config(model.config)
    engine = _engine(plan, model, arch, placed=False)
    spec = plan.suite.train
    train, validation = (
        tokenise(engine.tokenizer, plan.rows[s], spec.max_length, spec.cut) for s in ("train", "validation")
    )
    data = Data(plan.suite, train, validation, plan.rows, engine.tokenizer)
    return engine, data, {"model": model.name, "revision": model.revision}
