"""How should documents lie in a micro-batch on this machine? `python benchmarks/layouts.py --model pocket --rows short`

One engine takes the same steps with its rows laid out in four ways, in turn, several times: `flat` (one row without
padding, each document attending alone; on a GPU by FlashAttention's kernel, the product's there), `packed` (rows of 128 tokens
under a block-causal mask, the product's on a CPU), `buckets` (one document a row, micro-batches of like lengths)
and `padded` (one document a row, one micro-batch). Median seconds of a step over those of `packed`, with the smallest and
the largest; the first step's losses must agree to 1e-4. Last: the share of a step that making its tensors takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.hardware import hardware, versions
from benchmarks.throughput_cases import MODELS, ROWS, Case, model_folder
from harness import attention, fitting, packing
from harness.data import Item
from harness.engine import Engine
from harness.packing import Pack
from harness.suite import Optimizer

LIKE = 0.75  # a bucket's shortest document over its longest, at least
Layout = Callable[[Sequence[Item], int, int], Iterator[Pack]]


def _rows(items: Sequence[Item], groups: list[list[int]], micro: int, pad: int) -> Iterator[Pack]:
    """One document a row; a group is cut where it would be larger than a micro-batch."""
    for group in groups:
        longest = max(items[i].tokens for i in group)
        n = max(1, micro // longest)
        for start in range(0, len(group), n):
            part = group[start : start + n]
            yield packing._pack(items, [[i] for i in part], max(items[i].tokens for i in part), pad)


def padded(items: Sequence[Item], micro: int, pad: int) -> Iterator[Pack]:
    """One document a row, in the order that they come in."""
    return _rows(items, [list(range(len(items)))], micro, pad)


def buckets(items: Sequence[Item], micro: int, pad: int) -> Iterator[Pack]:
    """One document a row, the longest first, a new micro-batch where they get too short for the last one."""
    groups: list[list[int]] = []
    for i in sorted(range(len(items)), key=lambda i: -items[i].tokens):
        if groups and items[i].tokens >= LIKE * items[groups[-1][0]].tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return _rows(items, groups, micro, pad)


def packed(items: Sequence[Item], micro: int, pad: int) -> Iterator[Pack]:
    """Several documents a row, under a mask."""
    return packing.packs(items, micro, pad, False)


def flat(items: Sequence[Item], micro: int, pad: int) -> Iterator[Pack]:
    """All documents end to end."""
    return packing.packs(items, micro, pad, True)


LAYOUTS: dict[str, Layout] = {f.__name__: f for f in (packed, flat, buckets, padded)}


def _lay(engine: Engine, layout: Layout, spent: list[float]) -> None:
    """Let the engine's micro-batches be made by this, on a clock."""

    def made(items: Sequence[Item]) -> Iterator[Pack]:
        started = time.perf_counter()
        found = [p.to(engine.device) for p in layout(items, fitting.micro_tokens(engine), 0)]
        spent.append(time.perf_counter() - started)
        return iter(found)

    engine.packs = made  # type: ignore[method-assign]


def measure(case: Case, repeats: int) -> dict[str, dict[str, float]]:
    """By layout: seconds of a step (median), its ratio to `packed` (median, low, high), share of making tensors, loss."""
    engine = Engine(case.folder, case.sizes, Optimizer(), 0)
    engine.lm.set_attn_implementation(attention.NAME)  # which is `sdpa` under a mask wherever rows are not flat
    batches, start = case.effective_batches(), engine.weights()
    took: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    made: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    loss: dict[str, float] = {}
    for turn in range(repeats + 1):
        for name, layout in LAYOUTS.items():
            _lay(engine, layout, made[name])
            engine.load_weights(start)
            engine.fresh_optimizer()
            began = time.perf_counter()
            nll = engine.step(batches[turn % len(batches)], 1e-5).nll
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            took[name].append(time.perf_counter() - began)
            loss.setdefault(name, sum(nll))
    found = {}
    for name, all_seconds in took.items():
        seconds = all_seconds[1:]  # the first warms up
        ratios = [a / b for a, b in zip(seconds, took["packed"][1:], strict=True)]
        found[name] = {
            "seconds": statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "making": sum(made[name][1:]) / sum(seconds),
            "loss": loss[name],
        }
    return found


def main() -> None:
    """A line a layout; exit status 1 where losses differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["pocket"], choices=MODELS)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--mirror", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    args = parser.parse_args()
    report = []
    for model in args.model:
        with model_folder(model, args.mirror) as (folder, weights):
            for rows in args.rows:
                found = measure(Case(model, rows, "full", folder, args.batch, weights=weights), args.repeats)
                report.append({"model": model, "rows": rows, "batch": args.batch, "layouts": found})
                for name, r in found.items():
                    print(
                        f"{model} {rows} {name:8} {r['ratio']:5.2f}x ({r['low']:.2f} to {r['high']:.2f}), "
                        f"{r['seconds']:.3f} s a step, {100 * r['making']:.1f} % of it to make its tensors"
                    )
                    if abs(r["loss"] / found["packed"]["loss"] - 1) > 1e-4:
                        raise SystemExit(f"losses differ: {name} {r['loss']}, packed {found['packed']['loss']}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"hardware": hardware(), "versions": versions(("torch", "transformers")), "cases": report}
        args.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
