"""The process that a cell of a matrix runs in, from outside and from inside; any executor starts them with this.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness import ranks
from harness.core import Progress
from harness.errors import HarnessError
from harness.executor import Report
from harness.request import Request

PRELOAD = [
    *("harness.run", "harness.lab", "harness.setup", "harness.score", "harness.rehearsal"),
    "transformers.modeling_utils",
]
EVERY = 0.3  # seconds between two reports of a cell
GRACE = 5.0  # seconds from asking a cell to end to ending it

Message = tuple[str, Any]  # ("report", Report), ("say", line), ("done", path of the record) or ("failed", reason)


@dataclass(frozen=True)
class Job:
    """One attempt at a run: `id` as it was planned, the GPU it is dealt, seconds between reports and for its lock."""

    request: Request
    id: str
    device: str | None = None
    every: float = EVERY
    patience: float = 0.0

    @property
    def folder(self) -> Path:
        return self.request.runs / self.id


@dataclass(frozen=True)
class End:
    """How a cell's process ended: None or why not, in one line; `died`: it was killed before it could tell."""

    error: str | None
    died: bool = False


def context() -> Any:
    """How this machine starts the processes of cells; every process of one matrix in the same way."""
    if sys.platform != "linux" or ranks.gpu():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


class CellProcess:
    """One cell's process, seen from outside."""

    def __init__(self, job: Job, context: Any) -> None:
        self.result: tuple[str, str] | None = None
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(job, theirs), name=job.id)
        self.process.start()
        theirs.close()  # or the end of the cell would not be the end of the pipe

    def listen(self) -> Message | None:
        """Wait for one message; None when the cell has ended."""
        try:
            kind, what = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if kind in ("done", "failed"):
            self.result = (kind, what)
        return kind, what

    def end(self) -> End:
        """After its last message."""
        self.process.join(GRACE)
        self.signal(signal.SIGKILL)  # a killed run's scorer, if there is one
        self.process.join()
        if self.result is not None:
            return End(None if self.result[0] == "done" else self.result[1])
        code = self.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return End(how, died=True)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def stop(processes: Sequence[CellProcess]) -> None:
    """End them all, and what they have started."""
    for cell in processes:
        cell.signal(signal.SIGTERM)
        cell.process.terminate()  # it may not lead its group yet
    for cell in processes:
        cell.process.join(GRACE)
        cell.signal(signal.SIGKILL)
        cell.process.kill()
        cell.process.join()


# --- inside


def work(job: Job, pipe: Connection) -> None:
    """What `harness run` does with a request, told through a pipe instead of a terminal."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if job.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.device
    log = job.folder / "log.txt"
    _redirect(log)
    try:
        from harness.rehearsal import before
        from harness.request import prepare
        from harness.run import execute
        from harness.rundir import finished

        plan = prepare(job.request)
        if plan.id != job.id:
            raise HarnessError(
                "its strategy, suite, model or data changed after the matrix was planned; start it again"
            )
        say = lambda line: pipe.send(("say", line))  # noqa: E731
        path = finished(plan)
        if path is None:
            before(plan)
            path = execute(plan, _reporter(pipe, job.every), say, job.patience)
        pipe.send(("done", str(path)))
    except HarnessError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {error} (a bug; see {job.id}/{log.name})"))


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


def _reporter(pipe: Connection, every: float) -> Callable[[Progress], None]:
    tokens, seconds, last = 0, 0.0, 0.0

    def watch(state: Progress) -> None:
        nonlocal tokens, seconds, last
        tokens, seconds = tokens + state.tokens, seconds + state.seconds
        if time.monotonic() - last >= every:
            last = time.monotonic()
            pipe.send(("report", Report(state.billed / state.cap, state.loss, tokens / seconds)))

    return watch
