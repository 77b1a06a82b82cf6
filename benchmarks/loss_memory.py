"""What do loss-level methods cost in memory and time? `python benchmarks/loss_memory.py`.

Peak memory of one training step of each method on the same micro-batch, over that of plain SFT: allocations above those
of the standing model and optimizer, after a first step that made the moments, in one process (CPU: the profiler's
allocations; CUDA: the allocator's own peak). The model is a random Qwen2 with a vocabulary of 32k, where logits weigh most.
Goal: within 10 % for methods without a reference's logits; those with one are listed apart. Then CADFT runs on pocket:
the share of its wall time that rewriting takes (goal below 5 %).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.hardware import hardware, versions
from harness.api import Checkpoint, History
from harness.data import Item
from harness.engine import MICRO_TOKENS, Engine
from harness.errors import BudgetExhausted
from harness.flops import Arch
from harness.journal import Journal
from harness.lab import RunLab
from harness.ledger import Ledger
from harness.paths import asset
from harness.ports import Scope
from harness.registry import find
from harness.request import Request, prepare
from harness.sampler import stream
from harness.session import Session
from harness.setup import build
from harness.suite import Optimizer
from harness.table import Columns, State

PLAIN, ANCHORED = ("sft", "dft", "eaft", "iw_sft", "psft", "cadft"), ("asft", "sft_kl")
BASE = Checkpoint("base")


class Asked:
    """A lab that keeps the callbacks of one `train`."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.found: dict[str, Any] = {}

    def checkpoint(self, pin: bool = True) -> Checkpoint:
        """The base, without a model."""
        return BASE

    def train(self, mixture: Any, length: str = "rest", **asked: Any) -> History:
        """Nothing is trained."""
        self.found = asked
        return History((), 0, 0.0, {})


def callbacks(name: str) -> dict[str, Any]:
    """What a method gives to `train`."""
    if name == "sft":
        return {}
    lab, fields = Asked(), {"rewrite": False} if name == "cadft" else {}
    find(name).cls(**fields).wrap(lab).train(None)
    return lab.found


def make_engine(folder: Path, hidden: int, layers: int, vocabulary: int) -> Engine:
    """A random model with the pocket tokenizer's files; only sizes matter."""
    import transformers as tf

    tf.AutoTokenizer.from_pretrained(asset("suites") / "pocket" / "model").save_pretrained(folder)
    torch.manual_seed(0)
    tf.Qwen2ForCausalLM(
        tf.Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            tie_word_embeddings=True,
        )
    ).save_pretrained(folder)
    arch = Arch.from_config(json.loads((folder / "config.json").read_text()))
    return Engine(folder, arch, Optimizer(), 0)


def peak(device: torch.device, step: Callable[[], Any]) -> int:
    """Bytes allocated at the worst moment of `step` above what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    standing = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        standing += event.nbytes()
        most = max(most, standing)
    return most


def memory(engine: Engine, examples: int, length: int, supervised: int) -> dict[str, float]:
    """Peak of each method's second step, over plain SFT's."""
    rng = stream(0, "items")
    vocabulary = int(engine.lm.config.vocab_size)
    items = [
        Item(f"a/{i}", "a", tuple(rng.integers(0, vocabulary, length).tolist()), supervised) for i in range(examples)
    ]
    MICRO_TOKENS[engine.device.type] = 2 * examples * length  # one micro-batch
    base = engine.weights()
    gold = [np.full(supervised, -10.0, np.float32) for _ in items]
    found = {}
    for name in (*PLAIN, *ANCHORED):
        asked = callbacks(name)
        engine.load_weights(base)

        def step(asked: dict[str, Any] = asked) -> None:
            engine.step(
                items,
                1e-5,
                asked.get("objective"),
                asked.get("example_weights"),
                scope=Scope(Columns({"a": examples}), State(), rng),
                references={BASE: gold} if asked.get("references") else None,
                others={BASE: base} if asked.get("reference_logits") else None,
            )

        step()
        found[name] = peak(engine.device, step)
    return {name: bytes_ / found["sft"] for name, bytes_ in found.items()} | {"sft, MB": found["sft"] / 1e6}


def rewriting(budget: float) -> tuple[float, float, int]:
    """(share of wall time in rewriting, share of billed FLOPs, examples rewritten) of one run of CADFT on pocket."""
    plugin, seconds = find("cadft"), 0.0
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(Request("cadft", budget=budget, runs=Path(folder)))
        plan.folder.mkdir(parents=True)
        ledger = Ledger(plan.identity.budget.flops, plan.folder / "ledger.jsonl")
        core, _ = build(plan, ledger)
        lab = RunLab(core, Session(core, Journal(plan.folder / "journal.jsonl")), plan.request.seed)
        through: Any = plugin.cls().wrap(lab)  # type: ignore[attr-defined]
        inner = through._rewrite

        def clocked(*args: Any) -> None:
            nonlocal seconds
            started = time.perf_counter()
            inner(*args)
            seconds += time.perf_counter() - started

        through._rewrite = clocked
        started = time.perf_counter()
        with suppress(BudgetExhausted):
            through.train(lab.proportional())
        wall = time.perf_counter() - started
    generated = sum(e.model for e in ledger.entries if e.phase == "generate")
    made = sum(e["data"]["rewritten"] for e in core.trail.events if e["note"] == "rewriting")
    return seconds / wall, generated / ledger.spent, made


def main() -> None:
    """Two tables from one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--supervised", type=int, default=128)
    parser.add_argument("--bf16", action="store_true", help="logits in bfloat16 on a CPU too")
    parser.add_argument("--budget", type=float, default=1.0, help="of the run on pocket; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    args = parser.parse_args()
    report: dict[str, Any] = {"hardware": hardware(), "versions": versions(("torch", "transformers"))}
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(Path(folder), args.hidden, args.layers, args.vocabulary)
        if args.bf16:
            engine.accelerator.autocast = lambda: torch.autocast(engine.device.type, torch.bfloat16)  # type: ignore
        found = memory(engine, args.examples, args.length, args.supervised)
    report |= {"kind": engine.device.type, "peak": dict(found)}
    print(f"plain SFT: {found.pop('sft, MB'):.0f} MB above weights and moments ({engine.device.type})")
    for name, ratio in found.items():
        print(f"{name:8}{ratio:8.3f}{'  with the logits of a reference' if name in ANCHORED else ''}")
    if args.budget:
        wall, flops, made = rewriting(args.budget)
        print(f"cadft on pocket: rewriting takes {wall:.2%} of the time, {flops:.2%} of the FLOPs; {made} rewritten")
        report["rewriting"] = {"share_of_time": wall, "share_of_flops": flops, "rewritten": made}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
