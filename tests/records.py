"""Small valid records, made without a run: for tests of whatever reads records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness import RULES_VERSION, __version__, record, registry
from harness.data import Row, content_digest, load_rows
from harness.items import Items
from harness.ledger import BESIDE, BILLED
from harness.paths import digest
from harness.record import Record
from harness.suite import load_suite

SCORES = {"addition": 0.8, "reverse": 0.4}
ONE_BUDGET = 1_000_000  # FLOPs of 1x
SPLITS = ("train", "validation", "test")


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


# --- a whole submission on the real pocket suite, with items that grade as they say


def pocket_run(strategy: str = "proportional", seed: int = 0, luck: float = 0.7) -> tuple[Record, Items]:
    """A record that `harness verify --regrade` has nothing to say about: a fake model answers pocket's own test rows."""
    suite = load_suite("pocket")
    splits = _pocket_rows()
    rows = splits["test"]
    rng = np.random.default_rng([seed, *strategy.encode()])
    lines, parsed, values = {}, {}, {}
    for task, group in rows.items():
        parsed[task] = [
            _item(row, row.target if rng.random() < luck else f"{row.target}{rng.integers(9)}") for row in group
        ]
        lines[task] = [json.dumps(item, ensure_ascii=False, sort_keys=True) for item in parsed[task]]
        values[task] = sum(item["correct"]["exact"] for item in parsed[task]) / len(group)
    items = Items(lines, parsed)
    n = {task: len(group) for task, group in rows.items()}
    made = make_record(strategy, seed, values, lr=4e-4, n=300)
    total = made.total_model_flops
    shas = {s: content_digest({t: [(r.input, r.target) for r in g] for t, g in splits[s].items()}) for s in SPLITS}
    curves = [
        record.CurvePoint(billed_flops=at, task=t, loss=float(rng.random()), exact_match=at / total / 2)
        for at in (0, total // 2, total)
        for t in rows
    ]
    identity = made.identity.model_copy(
        update={
            "source_sha256": registry.resolve(strategy).source_sha256,
            "suite_sha256": suite.sha256("full"),
            "data_sha256": shas,
        }
    )
    overlap = {t: {"n": n[t], "exact": 0, "rare_13_gram": 0} for t in n}
    made = made.model_copy(
        update={
            "identity": identity,
            "environment": made.environment.model_copy(update={"template_sha256": suite.template_sha256}),
            "curves": curves,
            "mixture": [record.MixtureChange(billed_flops=0, weights=dict.fromkeys(rows, 0.125))],
            "events": [record.Event(billed_flops=total // 2, verb="answer", note="4:120")],
            "scores": {t: s.model_copy(update={"items_sha256": items.sha256(t)}) for t, s in made.scores.items()},
            "reports": made.reports.model_copy(update={"overlap": overlap}),
        }
    )
    return rehashed(made), items


@cache
def _pocket_rows() -> dict[str, dict[str, list[Row]]]:
    suite = load_suite("pocket")
    return {split: load_rows(suite, split) for split in SPLITS}


def rehashed(made: Record) -> Record:
    """The record with the id and workload that its identity has now."""
    revision, limit = made.environment.model_revision, made.reports.limit
    return made.model_copy(
        update={
            "id": record.run_id(made.identity, revision, limit, made.rules_version),
            "workload": record.workload_id(made.identity, revision, limit),
        }
    )


def write_whole_run(made: Record, items: Items, runs: Path) -> Path:
    """A run's folder with its record and items."""
    folder = write_run(made, runs).parent
    (folder / "items").mkdir(exist_ok=True)
    for task, lines in items.lines.items():
        (folder / "items" / f"{task}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def _item(row: Row, answer: str) -> dict[str, Any]:
    return {
        "id": row.id,
        "item_sha256": digest([row.input, row.target]),
        "prompt_sha256": digest(row.prompt),
        "target": row.target,
        "response": f" {answer}",
        "truncated": False,
        "filtered": {"exact": answer},
        "correct": {"exact": answer == row.target},
    }
