"""What does going back cost? `python benchmarks/rollback.py --model small-49k`: saving and rolling back, in training steps.

One engine, one store. In turn, several times: a step on an effective batch of short rows, a checkpoint of the weights
alone as mSFT keeps them, its writing for a snapshot, a rollback to it from host memory, and one from disk (checksums
included). Medians, and their ratio to the step's; goal: a rollback from memory below two steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.hardware import hardware, versions
from benchmarks.throughput_cases import MODELS, Case, model_folder
from harness.checkpoint import Store, n_bytes
from harness.engine import Engine
from harness.suite import Optimizer

GOAL = 2.0  # steps
SAID = {
    "save": "keep a copy in memory",
    "write": "write it for a snapshot",
    "memory": "rollback from memory",
    "disk": "rollback from disk",
}


def seconds(use: Callable[[], Any]) -> float:
    """Of one use, with what the device still has to do."""
    started = time.perf_counter()
    use()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(case: Case, folder: Path, repeats: int) -> dict[str, Any]:
    """Medians in seconds, ratios to a step, and bytes."""
    engine = Engine(case.folder, case.sizes, Optimizer(), 0)
    items, store = case.effective_batches()[0], Store(folder)
    found: dict[str, list[float]] = {kind: [] for kind in ("step", "save", "write", "memory", "disk")}

    def back() -> None:
        groups, _ = store.load("1:1")
        engine.load_weights(groups["model"])
        engine.fresh_optimizer()

    def save() -> None:
        store.save("1:1", {"model": engine.weights()}, {})

    for _ in range(repeats + 1):
        store.drop("1:1")
        engine.step(items, 1e-5)
        found["step"].append(seconds(lambda: engine.step(items, 1e-5)))
        found["save"].append(seconds(save))
        found["write"].append(seconds(store.flush))
        engine.step(items, 1e-5)
        found["memory"].append(seconds(back))
        store._memory.clear()
        found["disk"].append(seconds(back))
    middle = {kind: statistics.median(values[1:]) for kind, values in found.items()}
    ratios = {kind: middle[kind] / middle["step"] for kind in ("save", "write", "memory", "disk")}
    engine.step(items, 1e-5)
    weights, moments = n_bytes(engine.weights()), n_bytes(engine.moments())
    about = {"model": case.model, "batch": case.batch, "weights_bytes": weights, "moments_bytes": moments}
    return about | {"seconds": middle, "in_steps": ratios, "host_room_bytes": store.room}


def main() -> None:
    """A line a kind; exit status 1 if a rollback from memory takes two steps or more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="small-49k", choices=MODELS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    args = parser.parse_args()
    with model_folder(args.model, None) as (folder, _), tempfile.TemporaryDirectory() as there:
        found = measure(Case(args.model, "short", "full", folder, args.batch), Path(there) / "c", args.repeats)
    print(
        f"{found['model']}: {found['weights_bytes'] / 1e6:,.0f} MB of weights, moments {found['moments_bytes'] / 1e6:,.0f} MB"
    )
    print(f"a step takes {found['seconds']['step']:.4f} s; in steps:")
    for kind, ratio in found["in_steps"].items():
        print(f"  {SAID[kind]:26}{ratio:8.3f}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"hardware": hardware(), "versions": versions(("torch", "transformers")), "rollback": found}
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if found["in_steps"]["memory"] >= GOAL:
        raise SystemExit(f"rollback: {found['in_steps']['memory']:.2f} steps from memory; the goal is below {GOAL:g}")


if __name__ == "__main__":
    main()
