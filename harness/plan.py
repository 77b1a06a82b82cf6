"""`harness plan`: what a run will cost, before any weights are fetched, read or trained.

The strategy's own plot runs in the real lab on the real tokens, over an engine that only counts. A strategy that reacts
to its curves is played in several scenarios, and every figure is a range over them: what it may cost, not a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from harness.checkpoint import host_bytes
from harness.curves import SCENARIOS
from harness.errors import HarnessError
from harness.ledger import BESIDE, BILLED, billed
from harness.rehearsal import Outcome, Props, opening, rehearse
from harness.request import Request, prepare

PEAK = {"A100-80GB": 312e12, "H100": 989e12, "H200": 989e12}  # FLOP/s, dense bf16, from the vendor's data sheets
MFU = 0.4
BYTES = 4  # of a trained weight: fp32, and so are its gradient and the optimizer's two moments

Range = dict[str, Any]  # {"min": ..., "max": ...}


def estimate(request: Request, mfu: float = MFU, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The plan of a request as a JSON document; see docs/plan.md. Raises HarnessError for what is wrong with it."""
    if not 0 < mfu <= 1:
        raise HarnessError(f"mfu {mfu:g}: expected a share of the peak, above 0 and at most 1")
    plan = prepare(request, weights=False)
    props = Props(plan)
    opening(plan, props)
    outcomes: list[Outcome] = []
    for scenario in SCENARIOS:
        say(f"{plan.identity.strategy}: if {scenario.meaning}")
        outcomes.append(rehearse(props, scenario))
        # The first two are opposites. Who does the same in both does not look at what they show.
        if len(outcomes) == 2 and outcomes[0].trace == outcomes[1].trace:
            del outcomes[1]
            break
    i = plan.identity
    total = _range(billed(o.table) for o in outcomes)
    return {
        "strategy": i.strategy,
        "model": i.model,
        "suite": i.suite,
        "mode": i.mode,
        "seed": i.seed,
        "lr": i.lr,
        "budget": i.budget.model_dump(),
        "hyperparameters": i.hyperparameters,
        "reused": plan.reused.model_dump() if plan.reused else None,
        "adaptive": len(outcomes) > 1,
        "ledger": _ledger(outcomes),
        "total_model_flops": total,
        "share_of_budget": {end: value / i.budget.flops for end, value in total.items()},
        "steps": _range(o.steps for o in outcomes),
        "looks": _range(o.looks for o in outcomes),
        "verbs": _range(o.verbs for o in outcomes),
        "disk": _disk(props, outcomes),
        "memory": _memory(props, outcomes),
        "gpu_hours": gpu_hours(_range(billed(o.table) + o.table["look"]["model_flops"] for o in outcomes), mfu),
        "scenarios": [_scenario(o) for o in outcomes],
    }


def gpu_hours(flops: Range, mfu: float) -> dict[str, Any]:
    """Hours on one device of each kind: FLOPs / (peak x MFU)."""
    hours = {
        name: {"peak_flops_per_second": peak} | {end: value / (peak * mfu * 3600) for end, value in flops.items()}
        for name, peak in PEAK.items()
    }
    return {"mfu": mfu, "model_flops": flops, "hours": hours}


def _range(values: Iterable[Any]) -> Range:
    found = list(values)
    return {"min": min(found), "max": max(found)}


def _ledger(outcomes: list[Outcome]) -> dict[str, dict[str, Range]]:
    """By phase; scoring is not in it: test items are read by nobody before a run has ended."""
    phases = [p for p in (*BILLED, *BESIDE) if p != "score"]
    columns = ("model_flops", "tokens")
    return {phase: {c: _range(o.table[phase][c] for o in outcomes) for c in columns} for phase in phases}


def _scenario(o: Outcome) -> dict[str, Any]:
    ledger = {p: {c: row[c] for c in ("model_flops", "tokens")} for p, row in o.table.items() if p != "score"}
    facts = {"name": o.scenario.name, "meaning": o.scenario.meaning, "status": o.status}
    counts = {"steps": o.steps, "looks": o.looks, "verbs": o.verbs, "checkpoints_at_peak": o.checkpoints}
    return facts | counts | {"total_model_flops": billed(o.table), "ledger": ledger}


def _parameters(lm: Any) -> tuple[int, int]:
    """(trained, all that final/ holds: adapters are merged there)."""
    trained = sum(p.numel() for p in lm.parameters() if p.requires_grad)
    every = sum(p.numel() for n, p in lm.named_parameters() if "lora_" not in n)
    return trained, every


def _disk(props: Props, outcomes: list[Outcome]) -> dict[str, Any]:
    """Bytes. A snapshot is written beside the old one, so two exist at a time."""
    trained, every = _parameters(props.own[0])
    return {
        "checkpoint_bytes": {"without_optimizer": BYTES * trained, "with_optimizer": 3 * BYTES * trained},
        "checkpoints_at_peak": _range(o.checkpoints for o in outcomes),
        "checkpoints_bytes": _range(o.checkpoint_bytes for o in outcomes),
        "snapshots_bytes": _range(2 * o.snapshot_bytes for o in outcomes),
        "final_bytes": BYTES * every,
        "total_bytes": _range(o.checkpoint_bytes + 2 * o.snapshot_bytes + BYTES * every for o in outcomes),
    }


def _memory(props: Props, outcomes: list[Outcome]) -> dict[str, Any]:
    """Bytes: on the device beside activations, and the copies of checkpoints that the host holds.

    Where forks are of other models, one is on the device at a time.
    """
    sizes = [_parameters(lm) for lm in props.skeletons()]
    return {
        "device_bytes": BYTES * max((every if props.lora else 0) + 4 * trained for trained, every in sizes),
        "host_copies_bytes": _range(min(o.checkpoint_bytes, host_bytes()) for o in outcomes),
    }
