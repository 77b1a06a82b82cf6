"""What does choosing cost? `python benchmarks/selection_overhead.py --steps 10`.

One run, alternating: steps of plain training, and steps for which PartitionSel chooses an effective batch out of a pool
of eight; printed are their wall times, their billed FLOPs and both ratios. Then, on one pool, the gradients that the
selector asks for, beside a loop of one forward and backward pass a document. Each figure is a median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from harness.engine import Engine
from harness.gradients import Gradients
from harness.journal import Journal
from harness.lab import RunLab
from harness.ledger import Ledger
from harness.registry import resolve
from harness.request import Request, prepare
from harness.session import Session
from harness.setup import build


def loop(engine: Engine, items: Sequence[Any], parameters: Sequence[torch.nn.Parameter]) -> np.ndarray[Any, Any]:
    """Normalised gradients (n, P), one document at a time."""
    flags = [(p, p.requires_grad) for p in engine.lm.parameters()]
    for p, _ in flags:
        p.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)
    rows = []
    for item in items:
        (pack,) = engine.packs([item])
        loss = torch.nn.functional.cross_entropy(engine.model(pack), pack.targets)
        row = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        rows.append((row / row.norm()).numpy())
    for p, flag in flags:
        p.requires_grad_(flag)
    return np.stack(rows)


def median(use: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds, and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = use()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def main() -> None:
    """One run, one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default=None)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--mode", default="full")
    parser.add_argument("--selector", default="partitionsel")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(Request("proportional", args.model, args.suite, mode=args.mode, runs=Path(folder)))
        plan.folder.mkdir(parents=True)
        ledger = Ledger(plan.identity.budget.flops, plan.folder / "ledger.jsonl")
        core, engine = build(plan, ledger)
        lab: Any = RunLab(core, Session(core, Journal(plan.folder / "journal.jsonl")), plan.request.seed)
        (part,) = resolve(args.selector).build({}).parts
        labs = {"plain": lab, args.selector: part.wrap(lab)}
        lab.train(lab.proportional(), "2 step", keep="none")
        seconds: dict[str, list[float]] = {name: [] for name in labs}
        flops = dict.fromkeys(labs, 0)
        for _ in range(args.steps):
            for name, seen in labs.items():
                spent, started = ledger.spent, time.perf_counter()
                seen.train(lab.proportional(), "1 step", keep="none")
                seconds[name].append(time.perf_counter() - started)
                flops[name] += ledger.spent - spent
        print(f"{'a step':24}{'seconds':>10}{'ratio':>8}{'FLOPs':>12}{'ratio':>8}")
        for name in labs:
            median_s, base = statistics.median(seconds[name]), statistics.median(seconds["plain"])
            print(f"{name:24}{median_s:10.4f}{median_s / base:8.2f}", end="")
            print(f"{flops[name] / args.steps:12.3e}{flops[name] / flops['plain']:8.2f}")

        items = core.items(core.sampler.draw(lab.proportional(), 8 * core.suite.train.effective_batch))
        first = Gradients(engine, items, normalize=True)
        of_parameters = list(first.parameters.values())
        slow, rows = median(lambda: loop(engine, items, of_parameters), 3)
        slow_gram, expected = median(lambda: rows @ rows.T, 3)
        fast, handle = median(lambda: (h := Gradients(engine, items, normalize=True), h.compute())[0], 3)
        fast_gram, found = median(lambda: handle.gram(), 3)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(f"\n{len(items)} gradients of {first.size:,} numbers{'':6}{'loop':>10}{'together':>10}{'ratio':>8}")
        print(f"{'gradients':38}{slow:10.4f}{fast:10.4f}{slow / fast:8.2f}")
        print(f"{'inner products':38}{slow_gram:10.4f}{fast_gram:10.4f}{slow_gram / fast_gram:8.2f}")
        print(f"{'both':38}{slow + slow_gram:10.4f}{fast + fast_gram:10.4f}", end="")
        print(f"{(slow + slow_gram) / (fast + fast_gram):8.2f}   relative difference {error:.1e}")
        for name, use in {"rows(project=512)": lambda: handle.rows(512, 0), "mean": handle.mean}.items():
            print(f"{name:38}{'':10}{median(use, 3)[0]:10.4f}")


if __name__ == "__main__":
    main()
