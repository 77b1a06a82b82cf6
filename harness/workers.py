"""The local executor of a matrix: every cell in a process of its own, some at a time, and one crash takes no other.

Isolation. A cell never shares a process with another one: torch keeps thread counts, random generators and a CUDA context
in it, strategies are modules in it, and an out-of-memory kill ends it. On a CPU the processes are forked from a server
that has imported the libraries and done nothing else - no tensor, no thread, no random number - so a cell starts in
about 0.2 s and is what `harness run` would be: the tests compare weights and records. A process that has touched CUDA
cannot be forked; with a GPU each cell starts afresh. A cell leads a process group, so that its scorer ends with it, and
ends itself when its parent is gone. Nothing is shared for writing but a pipe a cell.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from harness.core import Progress
from harness.errors import HarnessError
from harness.matrix import Cell
from harness.request import Request

PRELOAD = ["harness.run", "harness.lab", "harness.setup", "harness.score", "transformers.modeling_utils"]
EVERY = 0.3  # seconds between two reports of a cell
GRACE = 5.0  # seconds from asking a cell to end to ending it


@dataclass(frozen=True)
class Report:
    """How far a running cell is: share of its budget, loss, training tokens a second."""

    share: float
    loss: float
    speed: float


class Watcher(Protocol):
    """Who is told what happens; `tick` comes a few times a second."""

    def started(self, cell: Cell) -> None: ...
    def reported(self, cell: Cell, report: Report) -> None: ...
    def said(self, cell: Cell, line: str) -> None: ...
    def ended(self, cell: Cell, error: str | None) -> None: ...
    def tick(self) -> None: ...


def run(cells: Sequence[Cell], jobs: int, watcher: Watcher) -> None:
    """Run all cells, `jobs` at a time. When interrupted, the cells under way are ended; they go on another time."""
    _environment(jobs)
    context = _context()
    waiting, free = deque(cells), list(range(jobs))[::-1]
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and free:
                workers.append(_Worker(context, waiting.popleft(), free.pop()))
                watcher.started(workers[-1].cell)
            ready = wait([w.pipe for w in workers], timeout=0.25)
            for worker in [w for w in workers if w.pipe in ready]:
                if worker.listen(watcher):
                    continue
                workers.remove(worker)
                free.append(worker.slot)
                watcher.ended(worker.cell, worker.outcome())
            watcher.tick()
    finally:
        _stop(workers)


def _environment(jobs: int) -> None:
    """What the cells inherit; before the first of them starts."""
    # A module of the user's folder called like one of the library's must not stand in the way of a new interpreter.
    os.environ["PYTHONSAFEPATH"] = "1"
    if jobs > 1:
        os.environ.setdefault("HARNESS_THREADS", str(max(1, cores() // jobs)))


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _context() -> Any:
    import torch

    cpu = os.environ.get("HARNESS_DEVICE") == "cpu" or not torch.cuda.is_available()
    if sys.platform != "linux" or not cpu:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@dataclass
class _Worker:
    """One cell's process, seen from outside."""

    context: Any
    cell: Cell
    slot: int
    result: tuple[str, str] | None = None
    pipe: Connection = field(init=False)
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        self.pipe, theirs = self.context.Pipe(duplex=False)
        log = self.cell.plan.folder / "log.txt"
        job = (self.cell.request, theirs, log, _device(self.slot))
        self.process = self.context.Process(target=_work, args=job, name=self.cell.id)
        self.process.start()
        theirs.close()  # or the end of the cell would not be the end of the pipe

    def listen(self, watcher: Watcher) -> bool:
        """Take one message; False when the cell has ended."""
        try:
            kind, what = self.pipe.recv()
        except (EOFError, OSError):
            return False
        if kind == "report":
            watcher.reported(self.cell, what)
        elif kind == "say":
            watcher.said(self.cell, what)
        else:
            self.result = (kind, what)
        return True

    def outcome(self) -> str | None:
        """None if the run ended well, else why not, in one line."""
        self.process.join(GRACE)
        self.signal(signal.SIGKILL)  # a killed run's scorer, if there is one
        self.process.join()
        if self.result is not None:
            return None if self.result[0] == "done" else self.result[1]
        code = self.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"{how}; the same command goes on from its last snapshot"

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def _device(slot: int) -> str | None:
    """The GPU of a slot where CUDA_VISIBLE_DEVICES names several: they are dealt out in turn."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[slot % len(visible)] if len(visible) > 1 else None


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.signal(signal.SIGTERM)
        worker.process.terminate()  # it may not lead its group yet
    for worker in workers:
        worker.process.join(GRACE)
        worker.signal(signal.SIGKILL)
        worker.process.kill()
        worker.process.join()


# --- the cell's process


def _work(request: Request, pipe: Connection, log: Path, device: str | None) -> None:
    """What `harness run` does with a request, told through a pipe instead of a terminal."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _redirect(log)
    try:
        from harness.request import prepare
        from harness.run import execute, finished

        plan = prepare(request)
        if plan.id != log.parent.name:
            raise HarnessError(
                "its strategy, suite, model or data changed after the matrix was planned; start it again"
            )
        path = finished(plan) or execute(plan, _reporter(pipe), lambda line: pipe.send(("say", line)))
        pipe.send(("done", str(path)))
    except HarnessError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {error} (a bug; see {log.parent.name}/{log.name})"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _redirect(log: Path) -> None:
    """Send what libraries print to a file: the terminal belongs to the table."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)


def _reporter(pipe: Connection) -> Callable[[Progress], None]:
    tokens, seconds, last = 0, 0.0, 0.0

    def watch(state: Progress) -> None:
        nonlocal tokens, seconds, last
        tokens, seconds = tokens + state.tokens, seconds + state.seconds
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            pipe.send(("report", Report(state.billed / state.cap, state.loss, tokens / seconds)))

    return watch
