"""mSFT against proportional mixing, for real: `python benchmarks/duel.py --budget 0.5x`.

Both strategies run under their real lab on the embedded suite, from the embedded base model, to the end of the same budget,
without the final scoring (which needs lm-eval). Printed and kept: what each billed by phase, seconds, training tokens a
second, and the macro mean of its answer's validation loss and teacher-forced match. Exit status 1 if a bill is over its
cap, or a ledger's hardware FLOPs are below its model FLOPs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.hardware import hardware, versions
from harness.errors import BudgetExhausted
from harness.fitting import described
from harness.journal import Journal
from harness.lab import RunLab
from harness.ledger import Ledger
from harness.request import Request, prepare
from harness.session import Session
from harness.setup import build


def fight(strategy: str, model: str, suite: str | None, mode: str, budget: float) -> dict[str, Any]:
    """One run's figures."""
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(Request(strategy, model, suite, budget=budget, mode=mode, runs=Path(folder)))
        plan.folder.mkdir(parents=True)
        ledger = Ledger(plan.identity.budget.flops, plan.folder / "ledger.jsonl")
        core, engine = build(plan, ledger)
        lab = RunLab(core, Session(core, Journal(plan.folder / "journal.jsonl")), plan.request.seed)
        started = time.perf_counter()
        with suppress(BudgetExhausted):
            plan.strategy.run(lab)
        wall = time.perf_counter() - started
        answer = core.trail.answer
        if answer is not None and answer != core.standing:
            core.restore(answer, "fresh")
        core.looks.observe(core.standing, core.verb, last=True)
    curves = core.trail.curves[-len(core.validation) :]
    entries = ledger.entries
    phases: Counter[str] = Counter()
    for entry in entries:
        phases[entry.phase] += entry.model
    trained = [e for e in entries if e.phase == "train"]
    return {
        "strategy": strategy,
        "seconds": wall,
        "cap": ledger.cap,
        "billed": ledger.spent,
        "model_flops": dict(phases),
        "hardware_flops": sum(e.hardware for e in entries),
        "below_model": sum(0 < e.hardware < e.model for e in entries),
        "tokens_per_s": sum(e.tokens for e in trained) / max(1e-9, sum(e.seconds for e in trained)),
        "loss": statistics.mean(c["loss"] for c in curves),
        "exact_match": statistics.mean(c["exact_match"] for c in curves),
        "fits": described(engine),
    }


def main() -> None:
    """A line a strategy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", default="proportional,msft")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--suite", default=None)
    parser.add_argument("--mode", default="full")
    parser.add_argument("--budget", default="0.5x")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    args = parser.parse_args()
    budget, found = float(args.budget.removesuffix("x")), []
    for strategy in args.strategies.split(","):
        row = fight(strategy, args.model, args.suite, args.mode, budget)
        found.append(row)
        bill = ", ".join(f"{phase} {flops / row['cap']:.1%}" for phase, flops in sorted(row["model_flops"].items()))
        print(
            f"{strategy:14}{row['seconds']:8.1f} s{row['tokens_per_s']:10,.0f} tokens/s  loss {row['loss']:.3f}", end=""
        )
        print(f"  match {row['exact_match']:.1%}  ({bill} of the cap)", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"hardware": hardware(), "versions": versions(("torch", "transformers")), "runs": found}
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in found:
        if row["billed"] > row["cap"] or row["below_model"]:
            raise SystemExit(f"duel: {row['strategy']}: the ledger cannot be true: {row}")


if __name__ == "__main__":
    main()
