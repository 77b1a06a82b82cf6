"""What does choosing cost? `python benchmarks/selection_overhead.py`: one run, on a GPU where there is one.

First a selecting step - PartitionSel keeps a quarter of a pool of eight effective batches and trains on it - beside plain
training on as many examples and on the whole pool, in turn: wall time, CPU time (the wall time of a busy machine says
little) and billed FLOPs. Then, on one pool, the parts of a selection by the gradients asked for, and the whole of it
beside a loop of one forward and backward pass a document. Last the solver alone, on gradients of few and of many
dimensions. Each figure is a median.
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
from strategies import _numerics as numerics

ANCHORS = 4
LOOP = 64  # candidates of the comparison with the loop
Array = np.ndarray[Any, Any]


def median(use: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds, and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = use()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def steps(lab: Any, ledger: Ledger, selector: str, options: dict[str, str], repeats: int) -> None:
    """A selecting step beside plain ones, in turn."""
    (part,) = resolve(selector).build(options).parts
    strategy: Any = part
    chosen = max(1, int(strategy.pool * strategy.ratio))
    seen = part.wrap(lab)
    cases = {
        "plain, one step": (lab, 1),
        f"plain, on as many: {chosen}": (lab, chosen),
        f"plain, on the pool: {strategy.pool}": (lab, strategy.pool),
        f"{selector}: choose, {chosen} steps": (seen, chosen),
    }
    for one in (lab, seen):
        one.train(lab.proportional(), f"{chosen} step", keep="none")
    taken: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, (one, n) in cases.items():
            before = [time.perf_counter(), time.process_time(), ledger.spent]
            one.train(lab.proportional(), f"{n} step", keep="none")
            after = [time.perf_counter(), time.process_time(), ledger.spent]
            taken[name].append([b - a for a, b in zip(before, after, strict=True)])
    found = {name: np.median(rows, 0) for name, rows in taken.items()}
    print(
        f"{'training':36}{'seconds':>10}{'plain = 1':>11}{'CPU s':>10}{'plain = 1':>11}{'FLOPs':>12}{'plain = 1':>11}"
    )
    for name, values in found.items():
        ratios = values / found["plain, one step"]
        print(f"{name:36}{values[0]:10.4f}{ratios[0]:11.2f}{values[1]:10.4f}{ratios[1]:11.2f}", end="")
        print(f"{values[2]:12.3e}{ratios[2]:11.2f}")
    *_, pool, select = cases
    seconds, cpu, flops = found[select] / found[pool]
    print(f"selecting / training on the pool: wall time {seconds:.2f}, CPU time {cpu:.2f}, billed FLOPs {flops:.2f}\n")


# --- one selection, by its parts


class Selection:
    """PartitionSel's selection of a quarter of `items` by these gradients, one part after the other."""

    def __init__(self, engine: Engine, items: Sequence[Any], anchors: Sequence[Any], modules: str) -> None:
        self.engine, self.items, self.anchors, self.modules = engine, items, anchors, modules

    def caught(self, items: Sequence[Any]) -> Gradients:
        """Their normalised gradients, computed."""
        handle = Gradients(self.engine, items, self.modules, normalize=True)
        handle.compute()
        return handle

    def all(self) -> Array:
        """The chosen."""
        return self.solved(self.caught([*self.items, *self.anchors]).gram())

    def solved(self, gram: Array) -> Array:
        """The chosen by these products of candidates and anchors."""
        K, s, _ = numerics.split(gram, len(self.items))
        dom_N = numerics.domains([item.task for item in self.items])
        kappa_C = numerics.budgets(np.bincount(dom_N), len(self.items) // 4)
        rng = np.random.default_rng(0)
        return numerics.matroid_pursuit(K, s + 1e-4, dom_N, kappa_C, rng)[0]

    def loop(self, whole: bool) -> Array:
        """The same by one forward and backward pass a document: the whole of it, or down to the lowest parameter."""
        lm = self.engine.lm
        parameters = list(Gradients(self.engine, self.items[:1], self.modules).parameters.values())
        flags = [(p, p.requires_grad) for p in lm.parameters()]
        wanted = parameters if not whole else [p for p, trained in flags if trained]
        for p, _ in flags:
            p.requires_grad_(False)
        for p in wanted:
            p.requires_grad_(True)
        rows = []
        for item in [*self.items, *self.anchors]:
            ids = torch.tensor([item.ids], device=self.engine.device)
            logits = lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :].float()
            torch.nn.functional.cross_entropy(logits, ids[0, -item.supervised :]).backward()
            row = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            rows.append((row / row.norm()).cpu().numpy())
            self.engine.optimizer.zero_grad()
        for p, flag in flags:
            p.requires_grad_(flag)
        G = np.stack(rows)
        return self.solved(G @ G.T)


def parts(engine: Engine, items: Sequence[Any], anchors: Sequence[Any], layers: int, repeats: int) -> None:
    """Where a selection's time goes, with whole gradients and with what the strategies ask for."""
    forward, _ = median(lambda: engine.evaluate(list(items)), repeats)
    print(f"{f'one selection out of {len(items)}, seconds':36}{'whole':>10}{'sketch':>10}")
    rows: dict[str, list[float]] = {}
    kept = {}
    for kind in ("last", "sketch"):
        one = Selection(engine, items, anchors, f"{kind}:{layers}")
        caught, G = median(lambda one=one: one.caught([*one.items, *one.anchors]), repeats)
        products, K = median(G.gram, repeats)
        solver, _ = median(lambda one=one, K=K: one.solved(K), repeats)
        kept[kind] = (G, K)
        for name, value in {
            "a forward pass alone, for comparison": forward,
            "forward, backward, catching": caught,
            "inner products": products,
            "solver": solver,
            "in all": caught + products + solver,
        }.items():
            rows.setdefault(name, []).append(value)
    for name, values in rows.items():
        print(f"{name:36}" + "".join(f"{v:10.4f}" for v in values))
    (G, K), (H, L) = kept.values()
    error = np.sqrt(((L - K) ** 2).mean())
    print(f"{G.size:,} numbers an example, {H.size:,} in a sketch; cosines differ by {error:.3f} (root mean square)\n")


def against_the_loop(engine: Engine, items: Sequence[Any], anchors: Sequence[Any], layers: int, repeats: int) -> None:
    """The selection of a quarter of these, and that of the tests' reference, in CPU seconds as well."""
    loop, cases = Selection(engine, items, anchors, f"last:{layers}"), {}
    cases["loop, as in the tests"] = lambda: loop.loop(whole=True)
    cases["loop, stops at the lowest matrix"] = lambda: loop.loop(whole=False)
    for kind in ("last", "sketch"):
        cases[f"together, {kind}:{layers}"] = Selection(engine, items, anchors, f"{kind}:{layers}").all
    print(
        f"{f'a quarter of {len(items)}':36}{'seconds':>10}{'loop / it':>11}{'CPU s':>10}{'loop / it':>11}{'alike':>7}"
    )
    first: list[Any] = []
    for name, use in cases.items():
        cpu = time.process_time()
        seconds, found = median(use, repeats)
        now = [seconds, (time.process_time() - cpu) / repeats, set(found.tolist())]
        first = first or now
        print(f"{name:36}{now[0]:10.4f}{first[0] / now[0]:11.2f}{now[1]:10.4f}{first[1] / now[1]:11.2f}", end="")
        print(f"{len(first[2] & now[2]):7d}")
    print()


def solver(pool: int = 256, kappa: int = 64, tasks: int = 8) -> None:
    """The pursuit alone, on inner products of made-up gradients of different lengths."""
    print(f"solver, {kappa} of {pool}: ", end="")
    for dimensions in (64, 4096):
        rng = np.random.default_rng(0)
        G = rng.normal(size=(pool, dimensions)) + rng.normal(size=(tasks, dimensions))[np.arange(pool) % tasks]
        G /= np.linalg.norm(G, axis=1, keepdims=True)
        K, s, dom_N = G @ G.T, (G @ G[:ANCHORS].T).mean(1), np.arange(pool) % tasks
        kappa_C = numerics.budgets(np.bincount(dom_N), kappa)
        ask = (K, s, dom_N, kappa_C, np.random.default_rng(0))
        seconds, _ = median(lambda ask=ask: numerics.matroid_pursuit(*ask), 9)
        print(f"{1000 * seconds:.1f} ms (d = {dimensions})", end="   ")
    print()


def main() -> None:
    """One run, all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default=None)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--mode", default="full")
    parser.add_argument("--selector", default="partitionsel")
    parser.add_argument("--pool", type=int, default=8, help="candidates, in effective batches")
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=7, help="repeats of each figure")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(Request("proportional", args.model, args.suite, mode=args.mode, runs=Path(folder)))
        plan.folder.mkdir(parents=True)
        ledger = Ledger(plan.identity.budget.flops, plan.folder / "ledger.jsonl")
        core, made = build(plan, ledger)
        engine: Any = made
        lab: Any = RunLab(core, Session(core, Journal(plan.folder / "journal.jsonl")), plan.request.seed)
        steps(lab, ledger, args.selector, {"pool": str(args.pool), "ratio": str(args.ratio)}, args.steps)
        items = core.items(core.sampler.draw(lab.proportional(), args.pool * core.suite.train.effective_batch))
        held = numerics.held_out(lab, 0.005)
        anchors = core.data.items(held[:ANCHORS])
        parts(engine, items, anchors, args.layers, args.steps)
        against_the_loop(engine, items[:LOOP], anchors, args.layers, args.steps)
    solver()


if __name__ == "__main__":
    main()
