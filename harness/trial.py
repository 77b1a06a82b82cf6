"""Trial runs for `harness check`: forked children of one process that has imported torch once.

`python -m harness.trial` reads one JSON job a line, forks, runs it and answers with one line. Scoring is replaced by a
digest of the answer's weights, and attention is the eager kind that PyTorch's FLOP counter sees. A child that dies, hangs
or spins is an answer too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.toy import TEST, make_model

if TYPE_CHECKING:
    from harness.registry import Built
    from harness.request import Plan
    from harness.watch import Watch

WALL_SECONDS = 150  # of one child, however busy the machine: only what hangs takes so long
MODULES = ("harness.lab", "harness.setup", "harness.run", "harness.score", "harness.watch", "torch.utils.flop_counter")


def fake_score(folder: Path, suite: str, work: Path, **_: Any) -> dict[str, Any]:
    """In place of lm-eval: a number that any change of the weights changes."""
    from harness.paths import file_digest

    found = file_digest(folder / "model.safetensors")
    row = {"metric": "exact_match", "stderr": 0.0, "n": 1, "truncated": 0, "filters": {}, "items_sha256": found}
    return {"scores": {"weights": row | {"value": int(found[:8], 16) / 16**8}}, "overlap": {}, "scorer": "check"}


def see_attention() -> None:
    """Attention that the FLOP counter sees: eager, under an additive mask, so of rows that have one."""
    import torch

    from harness import packing, setup

    pack, build = packing._pack, setup.build

    def additive(*args: Any) -> Any:
        made = pack(*args)
        return dataclasses.replace(made, mask=torch.zeros(made.mask.shape).masked_fill(~made.mask, -1e9))

    def eager(*args: Any, **named: Any) -> Any:
        core, engine = build(*args, **named)
        engine.flat = False
        engine.lm.set_attn_implementation("eager")
        return core, engine

    packing._pack, setup.build = additive, eager  # type: ignore[assignment]


def child(job: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """One job in this process. Errors are answers; `stage` says how far it came."""
    from harness import run, score, watch

    score.score, score.begin_ahead = fake_score, lambda *_: None
    run._Run.base_scores = lambda self: {"weights": 0.0}  # type: ignore[method-assign]
    see_attention()
    answer: dict[str, Any] = {"stage": "load"}

    def give_up(why: str) -> None:
        send(answer | {"stuck": why, "found": watcher.found})
        os._exit(0)

    watcher = watch.Watch(set(job["files"]), job["watch"], give_up)
    try:
        stages(job, answer, watcher)
    except BaseException as error:
        answer["error"] = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        answer["line"] = line_of(error, set(job["files"]))
    send(answer | {"found": watcher.found, "flops": watcher.flops})


def line_of(error: BaseException, files: set[str]) -> str:
    """Where in the strategy's files an error came from, if it did."""
    frames = [f for e in (error, error.__cause__) if e for f in traceback.extract_tb(e.__traceback__)]
    mine = [f for f in frames if f.filename in files]
    return f"line {mine[-1].lineno} of {Path(mine[-1].filename).name}" if mine else ""


def stages(job: dict[str, Any], answer: dict[str, Any], watcher: Watch) -> None:
    """Load, build, plan, and run once or twice."""
    from harness import registry, run, source, watch
    from harness.request import Request, prepare

    if job["watch"]:
        answer["source"] = [source.findings(Path(f)) for f in job["files"]]
    with watcher.before():
        composed = registry.resolve(job["strategy"])
        answer["stage"] = "construct"
        built = composed.build({})
        answer["hyperparameters"] = json.loads(json.dumps(built.hyperparameters, allow_nan=False))
        answer["stage"] = "skip"
        answer["skips"] = skips(built, job["suite"])
        if answer["skips"][job["suite"]] is not None:
            return
        asked = Request(job["strategy"], job["model"], job["suite"], job["seed"], runs=Path(job["runs"]))
        plan = prepare(asked)
    answer |= sizes(plan)
    test = Path(job["suite"]).with_name(TEST)
    if job["test"] == "absent":
        test.unlink(missing_ok=True)
    else:
        test.write_text("something else\n", encoding="utf-8")
    answer["stage"], answer["records"] = "run", []
    watched = watch.Watched(plan.strategy, watcher)
    for k in range(job["times"]):
        request = dataclasses.replace(asked, runs=asked.runs / str(k))
        again = dataclasses.replace(plan, request=request, strategy=watched)  # type: ignore[arg-type]
        answer["records"].append(str(run.execute(again)))
        answer["cut"] = cut(Path(answer["records"][-1]).with_name("journal.jsonl"))
    answer["stage"] = "done"


def cut(path: Path) -> bool:
    """Whether the last training of a run ended because nothing more fitted: a selector's pool may cost a good deal."""
    from harness import journal

    trained = [line["result"] for line in journal.read(path) if line["verb"] == "train" and line["result"]]
    return bool(trained and trained[-1]["cut"])


def skips(built: Built, toy: str) -> dict[str, str | None]:
    """What `skip` says of suites: the trial's own, and all built-in ones. Raises TypeError for what is no reason."""
    from harness import suite

    said: dict[str, str | None] = {}
    for name in (toy, *suite.available()):
        for part in built.parts:
            reason = part.skip(suite.load_suite(name)) if hasattr(part, "skip") else None
            if not (reason is None or (isinstance(reason, str) and reason.strip())):
                raise TypeError(f"skip returned {reason!r}; a reason as text, or None")
            said[name] = said.get(name) or reason
    return said


def sizes(plan: Plan) -> dict[str, int]:
    """FLOPs of the cap, of the dearest step with a look at all validation items, and of the cheapest forward pass."""
    items = [i for group in plan.train.values() for i in group]
    longest, gold = max(i.tokens for i in items), max(i.supervised for i in items)
    step = plan.arch.train_step(longest, gold) * plan.suite.train.effective_batch
    look = sum(plan.arch.forward(i.tokens, i.supervised) for group in plan.validation.values() for i in group)
    least = min(plan.arch.forward(i.tokens, i.supervised) for i in items)
    return {"cap": plan.identity.budget.flops, "step": step + look, "forward": least}


def serve() -> None:
    """Fork a child a job until the input ends."""
    import importlib

    import torch

    for name in MODULES:
        importlib.import_module(name)
    torch.set_num_threads(1)
    print("{}", flush=True)  # ready
    for line in sys.stdin:
        job = json.loads(line)
        if "make" in job:
            make_model(Path(job["make"]))
            print("{}", flush=True)
            continue
        for name in job["preload"]:
            importlib.import_module(name)
        print(json.dumps(_forked(job)), flush=True)


def _forked(job: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)  # what a strategy prints is not an answer
            os.environ.update(job["env"])
            os.chdir(job["folder"])
            child(job, lambda answer: _send(write, answer))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    text, ended = _read(read, time.monotonic() + WALL_SECONDS)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it may have started
    found: dict[str, Any] = json.loads(text) if text else {"stage": "?"}
    found["status"] = os.waitstatus_to_exitcode(status)
    if not ended:
        found["stuck"] = f"nothing came back for {WALL_SECONDS} seconds"
    return found


def _send(pipe: int, answer: dict[str, Any]) -> None:
    with os.fdopen(pipe, "wb") as handle:
        handle.write(json.dumps(answer).encode())


def _read(pipe: int, deadline: float) -> tuple[bytes, bool]:
    """All that comes through the pipe, and whether it ended before the deadline."""
    text = b""
    with os.fdopen(pipe, "rb", buffering=0) as handle:
        while (left := deadline - time.monotonic()) > 0:
            if select.select([handle], [], [], left)[0]:
                more = handle.read(65536)
                if not more:
                    return text, True
                text += more
    return text, False


if __name__ == "__main__":
    serve()
