"""Small valid records, made without a run: for tests of whatever reads records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import RULES_VERSION, __version__, record
from harness.ledger import BESIDE, BILLED
from harness.paths import digest
from harness.record import Record

SCORES = {"addition": 0.8, "reverse": 0.4}
ONE_BUDGET = 1_000_000  # FLOPs of 1x


def make_record(
    strategy: str = "proportional",
    seed: int = 0,
    scores: Mapping[str, float] | None = None,
    *,
    suite: str = "pocket",
    model: str = "pocket",
    mode: str = "full",
    lr: float = 1e-3,
    multiple: float = 1.0,
    hyperparameters: Mapping[str, Any] | None = None,
    passed: Mapping[str, Any] | None = None,
    base: Mapping[str, float] | None = None,
    phases: Mapping[str, int] | None = None,
    status: str = "finished",
    official: bool = True,
    limit: int | None = None,
    n: int = 100,
    source: str = "source",
    data: str = "data",
    error: str | None = None,
    reused: Mapping[str, Any] | None = None,
) -> Record:
    """A record whose id and workload are the true hashes. `phases`: model FLOPs, {"train": the whole cap} by default."""
    values = dict(SCORES if scores is None else scores) if status != "failed" else {}
    identity = record.Identity(
        strategy=strategy,
        model=model,
        suite=suite,
        mode=mode,
        seed=seed,
        lr=lr,
        budget=record.BudgetSpec(multiple=multiple, flops=round(ONE_BUDGET * multiple)),
        hyperparameters={**(hyperparameters or {}), **(passed or {})},
        passed=dict(passed or {}),
        source_sha256=digest([strategy, source]),
        suite_sha256=digest(suite),
        data_sha256={split: digest([data, split]) for split in ("train", "validation", "test")},
    )
    revision = f"sha256:{digest(model)[:32]}"
    flops = {"train": round(ONE_BUDGET * multiple)} if phases is None else dict(phases)
    return Record(
        schema_version=record.SCHEMA_VERSION,
        rules_version=RULES_VERSION,
        harness_version=__version__,
        id=record.run_id(identity, revision, limit, RULES_VERSION),
        workload=record.workload_id(identity, revision, limit),
        status=status,
        official=official and limit is None and status != "failed",
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
        identity=identity,
        environment=_environment(revision),
        ledger={phase: _phase(flops.get(phase, 0)) for phase in (*BILLED, *BESIDE)},
        total_model_flops=sum(flops.get(phase, 0) for phase in BILLED),
        mixture=[record.MixtureChange(billed_flops=0, weights={task: 1 / len(values) for task in values})],
        curves=[record.CurvePoint(billed_flops=0, task=task, loss=1.0, exact_match=0.0) for task in values],
        events=[],
        scores={task: _score(value, n) for task, value in values.items()},
        reports=record.Reports(
            overlap={},
            seconds_outside_verbs=0.0,
            limit=limit,
            scorer="hf",
            weights_sha256=digest([strategy, seed]),
            base_scores=dict.fromkeys(values, 0.1) if base is None else dict(base),
            checkpoints_peak=1,
            error=error,
            reused=None if reused is None else record.Reused(**{"lr": lr, "budget": 1.0} | reused),
        ),
    )


def write_run(made: Record, runs: Path) -> Path:
    """The record where a local run leaves it."""
    folder = runs / made.id
    folder.mkdir(parents=True, exist_ok=True)
    record.write(made, folder / "record.json")
    return folder / "record.json"


def write_result(made: Record, results: Path) -> Path:
    """The record where `harness submit` puts it."""
    i = made.identity
    path = results / i.suite / i.model / i.strategy / f"{i.seed}-{made.id[:8]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record.write(made, path)
    return path


def _environment(revision: str) -> record.Environment:
    return record.Environment(
        git=record.Git(commit="0" * 40, dirty=False),
        packages={"torch": "2.11.0"},
        python="3.11.7",
        device="cpu (x86_64)",
        threads=1,
        model_revision=revision,
        data_revisions={},
        template_sha256=digest("template"),
    )


def _phase(flops: int) -> record.PhaseSum:
    return record.PhaseSum(model_flops=flops, hardware_flops=flops, tokens=flops // 1000, seconds=flops / 1e6)


def _score(value: float, n: int) -> record.TaskScore:
    return record.TaskScore(
        metric="exact_match",
        value=value,
        stderr=math.sqrt(max(0.0, value * (1 - value)) / (n - 1)),
        n=n,
        truncated=0,
        filters={"exact": value},
        items_sha256=digest([value, n]),
    )
