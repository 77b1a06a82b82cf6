"""What does metering cost? `python benchmarks/ledger_overhead.py --strategy msft --budget 0.2x`.

One run of a strategy under its real lab, journal, ledger and snapshots (no scoring); around every function that counts,
books or journals stands a clock. Printed: the share of the run's wall time that each kind takes, and their sum, which
should stay below 1 %. Both sides of the ratio come from the same run. The clocks themselves are part of the sum.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from harness.core import Core
from harness.durable import Snapshots
from harness.engine import Engine
from harness.errors import BudgetExhausted
from harness.flops import Arch
from harness.journal import Journal
from harness.lab import RunLab
from harness.ledger import Account, Ledger
from harness.looks import Looks
from harness.request import Request, prepare
from harness.session import Session
from harness.setup import build

BOOKING: dict[str, list[tuple[type, str]]] = {
    "counting FLOPs": [
        (Core, "step_cost"),
        (Looks, "cost"),
        (Engine, "training_cost"),
        (Engine, "forward_cost"),
        (Arch, "padded_forward"),
        (Arch, "padded_gradient"),
        (Arch, "recomputed"),
    ],
    "ledger": [(Account, "book"), (Account, "fits"), (Account, "require"), (Account, "cut"), (Ledger, "flush")],
    "journal": [(Journal, "recall"), (Journal, "check"), (Journal, "append")],
}


class Clocks:
    """Seconds and calls by kind. Only the outermost clock runs, so that nothing counts twice."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(BOOKING, 0.0)
        self.calls = dict.fromkeys(BOOKING, 0)
        self._running = False

    def around(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function with a clock of this kind."""

        def clocked(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return function(*args, **kwargs)
            self._running, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[kind] += time.perf_counter() - started
                self.calls[kind] += 1
                self._running = False

        return clocked

    @contextmanager
    def running(self) -> Iterator[None]:
        """Clocks stand around all of BOOKING inside this block."""
        originals = [(kind, owner, name, vars(owner)[name]) for kind, group in BOOKING.items() for owner, name in group]
        for kind, owner, name, original in originals:
            setattr(owner, name, self.around(kind, original))
        try:
            yield
        finally:
            for _, owner, name, original in originals:
                setattr(owner, name, original)


def measure(request: Request) -> dict[str, Any]:
    """Run the request's strategy once: wall seconds, steps, and the clocks' seconds and calls by kind."""
    plan = prepare(request)
    plan.folder.mkdir(parents=True)
    ledger = Ledger(plan.identity.budget.flops, plan.folder / "ledger.jsonl")
    core, _ = build(plan, ledger)
    session = Session(core, Journal(plan.folder / "journal.jsonl"), Snapshots(plan.folder))
    lab, clocks = RunLab(core, session, plan.request.seed), Clocks()
    with clocks.running():
        started = time.perf_counter()
        with suppress(BudgetExhausted):
            plan.strategy.run(lab)
        wall = time.perf_counter() - started
    steps = sum(entry.phase == "train" for entry in ledger.entries)
    return {
        "wall": wall,
        "steps": steps,
        "lines": len(ledger.entries),
        "verbs": session.journal.verbs,
        "seconds": clocks.seconds,
        "calls": clocks.calls,
    }


def report(found: dict[str, Any]) -> float:
    """Print the shares; returns their sum."""
    wall, steps = found["wall"], found["steps"]
    print(f"{wall:.1f} s, {steps} steps, {found['lines']} ledger lines, {found['verbs']} verbs")
    print(f"{'':16}{'calls':>9}{'seconds':>10}{'share':>10}")
    for kind, seconds in found["seconds"].items():
        print(f"{kind:16}{found['calls'][kind]:9}{seconds:10.4f}{seconds / wall:10.4%}")
    total = sum(found["seconds"].values())
    print(f"{'booking':16}{sum(found['calls'].values()):9}{total:10.4f}{total / wall:10.4%}")
    return float(total / wall)


def main() -> None:
    """One run, one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", default="msft")
    parser.add_argument("--suite", default=None)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--mode", default="full")
    parser.add_argument("--budget", default="0.2x")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        budget = float(args.budget.removesuffix("x"))
        request = Request(args.strategy, args.model, args.suite, budget=budget, mode=args.mode, runs=Path(folder))
        report(measure(request))


if __name__ == "__main__":
    main()
