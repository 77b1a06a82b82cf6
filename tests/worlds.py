"""Results folders of many made-up runs, with items, curves and events: for pages, their speed and the browser."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness import items, record
from harness.ledger import BESIDE, BILLED
from harness.record import Record
from tests.records import make_record, write_result

TASKS = ("addition", "colours", "descending", "larger", "last", "lookup", "reverse", "subtraction")
SKILLS = {"proportional": 0.70, "uniform": 0.68, "msft": 0.62, "taskpgm": 0.72, "cadft": 0.75, "msft+cadft": 0.66}
ONE = 2_258_143_641_600  # FLOPs of pocket's 1x


def make_run(
    strategy: str, seed: int, skill: float, *, n: int = 100, **kw: Any
) -> tuple[Record, dict[str, list[bool]]]:
    """A record and whether each item of each task is right; items and seeds are as hard for every strategy."""
    world = np.random.default_rng([7, n])
    hard = world.normal(0, 1.2, (len(TASKS), n))
    run = np.random.default_rng([seed, *strategy.encode(), int(100 * kw.get("multiple", 1))])
    shift = np.random.default_rng(seed).normal(0, 0.15, (len(TASKS), 1)) + run.normal(0, 0.12, (len(TASKS), 1))
    easy = np.linspace(-0.4, 0.8, len(TASKS))[:, None] + 4 * (skill - 0.65)
    right = hard < easy + shift + 0.6 + run.normal(0, 0.4, hard.shape)
    values = {t: float(r.mean()) for t, r in zip(TASKS, right, strict=True)}
    made = make_record(strategy, seed, values, n=n, **kw)
    return _dressed(made, run), {t: [bool(x) for x in r] for t, r in zip(TASKS, right, strict=True)}


def _dressed(made: Record, rng: np.random.Generator) -> Record:
    """With FLOPs of a real size, curves that bend, a mixture that changes and events."""
    multiple = made.identity.budget.multiple
    cap = round(ONE * multiple)
    parts = {"train": 0.6, "discarded": 0.1, "validate": 0.3} if "msft" in made.identity.strategy else {"train": 0.997}
    flops = {p: round(cap * parts.get(p, 0)) for p in (*BILLED, *BESIDE)} | {"look": cap // 12, "score": cap // 25}
    ledger = {
        p: record.PhaseSum(model_flops=f, hardware_flops=f + f // 6, tokens=f // 6_000_000, seconds=f / 2e10)
        for p, f in flops.items()
    }
    total = sum(flops[p] for p in BILLED)
    curves = []
    for k in range(11):
        for j, (task, s) in enumerate(made.scores.items()):
            share = k / 10
            reach = s.value * (1 - np.exp(-6 * share)) - (0.15 * max(0, share - 0.3 - 0.07 * j) if j % 3 == 0 else 0)
            match = float(min(1, max(0, reach + 0.02 * rng.normal() * (k > 0))))
            loss = float(5 * np.exp(-5 * share) + 0.3 + (1.2 * max(0, share - 0.4) if j % 3 == 0 else 0))
            curves.append(record.CurvePoint(billed_flops=round(total * share), task=task, loss=loss, exact_match=match))
    weights = dict(zip(made.scores, (float(x) for x in rng.dirichlet(np.full(len(made.scores), 6))), strict=True))
    mixture = [record.MixtureChange(billed_flops=0, weights=weights)]
    events = [record.Event(billed_flops=total, verb="answer", note="end", data={"weights": "0:690"})]
    if "msft" in made.identity.strategy:
        left = dict(weights)
        for k, task in enumerate(list(weights)[:4]):
            left.pop(task)
            at = round(total * (0.2 + 0.18 * k))
            mixture.append(
                record.MixtureChange(billed_flops=at, weights={t: w / sum(left.values()) for t, w in left.items()})
            )
            events.insert(
                -1,
                record.Event(
                    billed_flops=at,
                    verb="log",
                    note="excluded",
                    data={"task": task, "back_to": f"{k}:40", "value": 0.4},
                ),
            )
            events.insert(
                -1,
                record.Event(
                    billed_flops=at, verb="rollback", note=f"from {k}:69 to {k}:40", data={"weights": f"{k}:40"}
                ),
            )
    if "taskpgm" in made.identity.strategy:
        matrix = np.round(np.eye(len(weights)) + rng.normal(0, 0.2, (len(weights),) * 2), 3).tolist()
        events.insert(
            0,
            record.Event(
                billed_flops=total // 5,
                verb="log",
                note="affinity",
                data={"tasks": list(weights), "items": 64, "S": matrix},
            ),
        )
        events.insert(
            1, record.Event(billed_flops=total // 5, verb="log", note="weights", data={"weights": weights, "l1": 0.3})
        )
    budget = made.identity.budget.model_copy(update={"flops": cap})
    identity = made.identity.model_copy(update={"budget": budget})
    return made.model_copy(
        update={
            "identity": identity,
            "ledger": ledger,
            "total_model_flops": total,
            "curves": curves,
            "mixture": mixture,
            "events": events,
        }
    )


@cache
def _sha(*what: str | int) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def write_run(made: Record, right: dict[str, list[bool]], results: Path) -> Path:
    """The record in a results folder, its items beside it: as long as real ones, with digests that do not compress."""
    path = write_result(made, results)
    rows = {
        task: [
            {
                "correct": {"exact": x},
                "filtered": {"exact": "7"},
                "id": f"t:{task}/{k}",
                "item_sha256": _sha(task, k),
                "prompt_sha256": _sha(task, k, "prompt"),
                "response": " 7",
                "target": "7",
                "truncated": False,
            }
            for k, x in enumerate(right[task])
        ]
        for task in sorted(right)
    }
    packed = items.pack(items.Items({}, rows))
    items.beside(path).write_bytes(packed.answers)
    questions = results / made.identity.suite / "questions" / packed.name
    questions.parent.mkdir(exist_ok=True)
    questions.write_bytes(packed.questions)
    return path


def world(
    results: Path, seeds: int = 5, skills: dict[str, float] = SKILLS, budgets: tuple[float, ...] = (1.0,), **kw: Any
) -> list[Record]:
    """Every strategy with the same seeds at the same budgets."""
    made = []
    for multiple in budgets:
        for strategy, skill in skills.items():
            for seed in range(seeds):
                run, right = make_run(strategy, seed, skill + 0.06 * np.log2(multiple), multiple=multiple, **kw)
                write_run(run, right, results)
                made.append(run)
    return made
