"""How fast is a training step, beside other trainers? `python benchmarks/throughput.py --models small-49k --rows short,long`.

This engine, transformers' Trainer and TRL's SFTTrainer (padded, padding-free, packing; with Liger's kernels on a GPU that has
them) train the same model on the same effective batches in the same precision. Each is a process of its own, started
together, and they take their steps in turn, so that a busy machine slows all of them alike; the first step is for warming
up and its losses must agree to 1e-3. Beside them one process multiplies large matrices, in turn too: the peak that
MFU is against. The result is the ratio of a peer's seconds to this engine's, round by round. JSON goes to --out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.hardware import hardware, versions
from benchmarks.throughput_cases import MODELS, ROWS, Case, model_folder
from benchmarks.throughput_peers import PEERS, available, serve

PEAK = "peak"
TOLERANCE = 1e-3
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "liger-kernel")


class Side:
    """One process that takes steps."""

    def __init__(self, name: str, case: Case | None, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, (self.pipe, theirs) = name, context.Pipe()
        self.process = context.Process(target=serve, args=(name, case, threads, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.steps: list[dict[str, float]] = []
        self.losses: list[float] = []

    def _receive(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.pipe.recv()
        except EOFError:
            raise SystemExit(f"throughput: {self.name} ended without an answer (out of memory?)") from None
        if "error" in found:
            raise SystemExit(f"throughput: {found['error']}")
        return found

    def step(self) -> None:
        """One step, or one set of products."""
        self.pipe.send("step")
        self.steps.append(self._receive())

    def stop(self) -> None:
        """Ask for the losses and end the process."""
        self.pipe.send("stop")
        self.losses = self._receive()["losses"]
        self.process.join()


@contextmanager
def sides(names: list[str], case: Case, threads: int) -> Any:
    """All processes of one case; none is left behind."""
    found = [Side(name, None if name == PEAK else case, threads) for name in (*names, PEAK)]
    try:
        yield found
    finally:
        for side in found:
            if side.process.is_alive():
                side.process.terminate()


def measure(names: list[str], case: Case, threads: int, rounds: int, warm: int = 1) -> dict[str, Any]:
    """Seconds of each side's steps in turn, and what follows from them; `warm` steps before are not counted."""
    with sides(names, case, threads) as found:
        for side in found * warm:
            side.step()
        for r in range(rounds):
            for side in found[r % len(found) :] + found[: r % len(found)]:
                side.step()
        for side in found:
            side.stop()
    *peers, peak = found
    tokens, supervised, flops = case.work()
    limit = statistics.median(peak.losses)
    mine = next(s for s in peers if s.name == "harness")
    rows = {s.name: _row(s, mine, case, tokens, flops / limit, warm) for s in peers}
    about = {"model": case.model, "weights": case.weights, "rows": case.rows, "mode": case.mode}
    about |= {"effective_batch": case.batch, "tokens": tokens, "supervised": supervised, "model_flops": flops}
    apart = max(abs(row["loss_1"] / rows["harness"]["loss_1"] - 1) for row in rows.values())
    return about | {"peak_flops_per_s": limit, "loss_apart": apart, "peers": rows}


def _row(side: Side, mine: Side, case: Case, tokens: int, least: float, warm: int) -> dict[str, Any]:
    """`least`: seconds that the step's model FLOPs take at the peak."""
    seconds, cpu = ([s[key] for s in side.steps[warm:]] for key in ("seconds", "cpu"))
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(side.steps[warm:], mine.steps[warm:], strict=True)]
    middle = statistics.median(seconds)
    return {
        "seconds": seconds,
        "examples_per_s": case.batch / middle,
        "tokens_per_s": tokens / middle,
        "mfu": least / middle,
        "peak_bytes": max(s["memory"] for s in side.steps),
        "loss_1": side.losses[0],
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "cpu_ratio": statistics.median(cpu) / statistics.median(s["cpu"] for s in mine.steps[warm:]),
    }


def table(case: dict[str, Any]) -> str:
    """Of one case: a line a side."""
    head = f"{case['model']} ({case['weights']} weights), {case['rows']} answers, {case['mode']}: "
    head += f"{case['effective_batch']} examples, {case['tokens']:,} tokens, {case['supervised']:,} supervised a step\n"
    lines = [f"{'':18}{'examples/s':>11}{'tokens/s':>10}{'MFU':>8}{'peak MB':>9}{'loss 1':>10}{'slower by':>11}"]
    for name, row in case["peers"].items():
        ratio = row["ratio"]
        lines.append(
            f"{name:18}{row['examples_per_s']:11.2f}{row['tokens_per_s']:10,.0f}{row['mfu']:8.1%}"
            f"{row['peak_bytes'] / 1e6:9,.0f}{row['loss_1']:10.5f}{ratio['median']:10.2f}x"
            f"  ({ratio['low']:.2f} to {ratio['high']:.2f}; CPU time {row['cpu_ratio']:.2f}x)"
        )
    return head + "\n".join(lines)


def names_of(text: str, valid: tuple[str, ...], what: str) -> list[str]:
    """A list of names separated by commas. Raises SystemExit for an unknown one."""
    found = text.split(",")
    for name in found:
        if name not in valid:
            raise SystemExit(f"throughput: unknown {what} {name!r}; known: {', '.join(valid)}")
    return found


def main() -> None:
    """A table a case; one JSON file. Exit status 1 if losses of the first step are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="pocket", help=", ".join(MODELS))
    parser.add_argument("--rows", default="short,long")
    parser.add_argument("--modes", default="full")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--batch", type=int, default=16, help="examples of an effective batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=int, default=1, help="steps before that are not counted; compilation takes some")
    parser.add_argument("--present", action="store_true", help="leave out peers that are not installed")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("HARNESS_THREADS") or os.cpu_count() or 1))
    parser.add_argument("--mirror", type=Path, default=None, help="DIR/models/OWNER/NAME, for real weights")
    parser.add_argument("--note", default="", help="kept in the JSON: what else the machine was doing")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    args = parser.parse_args()
    device, cases = hardware(), list[dict[str, Any]]()
    report = {"hardware": device | {"threads": args.threads}, "versions": versions(PACKAGES), "note": args.note}
    models, modes = names_of(args.models, MODELS, "model"), names_of(args.modes, ("full", "lora"), "mode")
    rows = names_of(args.rows, tuple(ROWS), "rows")
    asked = ["harness", *(p for p in names_of(args.peers, PEERS, "peer") if p != "harness")]
    peers = available(asked, str(device["kind"]), args.present)
    for model in models:
        with model_folder(model, args.mirror) as (folder, weights):
            for mode in modes:
                for kind in rows:
                    case = Case(model, kind, mode, folder, args.batch, weights=weights)
                    cases.append(measure(peers, case, args.threads, args.rounds, args.warm))
                    print(table(cases[-1]), flush=True)
                    if args.out:  # now: a later case may run out of memory or time
                        args.out.parent.mkdir(parents=True, exist_ok=True)
                        args.out.write_text(json.dumps(report | {"cases": cases}, indent=1) + "\n", encoding="utf-8")
    worst = max(case["loss_apart"] for case in cases)
    if worst > TOLERANCE:
        raise SystemExit(f"throughput: losses of the first step differ by {worst:.2%}, more than {TOLERANCE:.1%}")


if __name__ == "__main__":
    main()
