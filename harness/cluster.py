"""The Ray executor of a matrix: every cell is one Ray task, which starts the process that a local cell runs in.

The task holds the CPUs and GPUs of the run and passes on what its process says; the run itself is in that process, as on
one machine (process.py). A cell whose node or process is lost is started again, anywhere, and goes on by its own durable
replay; Ray's own retries are off, so that the person sees it. Run directories lie on storage that all nodes share, and
its locks keep an attempt that is not quite dead yet from writing beside the next one.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, TextIO

from harness import __version__
from harness.errors import HarnessError
from harness.executor import Watcher
from harness.matrix import Cell
from harness.process import CellProcess, End, Job, Message, context, stop
from harness.workers import cores

TRIES = 3  # attempts in a row that are lost before they got further than the ones before
EVERY = 2.0  # seconds between two reports of a cell: a thousand of them come to one place
PATIENCE = 300.0  # seconds for a lock; a file server's lease is over after 90, a node cut off ends its work after 60
QUEUED = 1000  # tasks given to Ray at a time beside those there is room for: an autoscaler looks at what waits
CLOSING = 15.0  # seconds for tasks to end their processes when the matrix is interrupted
ENVIRONMENT = ("HARNESS_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "MKL_", "CUBLAS_", "VLLM_", "PYTHONSAFEPATH")


def library() -> Any:
    """Ray. Raises HarnessError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise HarnessError(
            "executor 'ray': Ray is not installed; pip install 'sft-harness[ray]', or --executor local"
        ) from None
    return ray


@dataclass(frozen=True)
class Surroundings:
    """What a task takes over from the command, so that a cell is the run it would be there."""

    version: str
    folder: str
    main: str | None  # the main module, which the processes of local cells import too
    environment: Mapping[str, str]

    @classmethod
    def here(cls, cpus: int, gpus: float) -> Surroundings:
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        found = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}
        found |= {"PYTHONSAFEPATH": "1", "HARNESS_THREADS": found.get("HARNESS_THREADS", str(cpus))}
        if not gpus:  # Ray leaves the GPUs of a node visible to tasks that asked for none
            found |= {"HARNESS_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return cls(__version__, os.getcwd(), spec.name if spec else None, found)

    def enter(self) -> None:
        """In a task's process. Raises HarnessError where this node is not like the one that planned the matrix."""
        if self.version != __version__:
            raise HarnessError(f"it has harness {__version__}, and the matrix was planned by {self.version}")
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise HarnessError(f"folder {self.folder!r}: {error.strerror}; it must be on every node") from None
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's
        os.environ.update(self.environment)

    @contextmanager
    def main_module(self) -> Iterator[None]:
        """A process started meanwhile imports the command's main module, not that of Ray's workers."""
        workers = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        sys.modules["__main__"].__spec__ = importlib.util.find_spec(self.main) if self.main else None
        try:
            yield
        finally:
            sys.modules["__main__"] = workers


def attempt(job: Job, given: Surroundings) -> Iterator[Message]:
    """The Ray task: ("started", node), the messages of the cell's process, ("alive", None) meanwhile, ("end", End)."""
    node = platform.node()
    yield "started", node
    process: CellProcess | None = None
    try:
        given.enter()
        if not job.folder.is_dir():
            raise HarnessError(
                f"folder {str(job.folder)!r} is not there: --runs must be on storage that all nodes share"
            )
        with given.main_module():
            process = CellProcess(job, context())
        while True:
            if not process.pipe.poll(1.0):
                yield "alive", None  # where a cancelled task is told so
            elif (message := process.listen()) is None:
                break
            else:
                yield message
        yield "end", process.end()
    except HarnessError as error:
        yield "end", End(f"on node {node}: {error}")
    finally:
        if process is not None:
            stop([process])


@dataclass
class Trail:
    """What one cell has been through: its attempts that were lost since it last got further."""

    cell: Cell
    share: float = 0.0
    before: float = 0.0
    fruitless: int = 0
    node: str = field(default="")

    def lose(self) -> bool:
        """Whether to try again."""
        self.fruitless = 1 if self.share > self.before else self.fruitless + 1
        self.before = max(self.before, self.share)
        return self.fruitless < TRIES


class Cluster:
    """A Ray cluster: the one at `address`, else RAY_ADDRESS, else one that runs on this machine, else a new one here.

    A run takes `cpus` CPUs and `gpus` GPUs, which may be a part of one; None: a GPU each where the cluster has any.
    """

    def __init__(self, address: str | None, jobs: int | None, cpus: int | None, gpus: float | None) -> None:
        self.ray = library()
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.jobs, self.gpus = jobs, gpus or 0.0
        self.cpus = cpus or int(os.environ.get("HARNESS_THREADS") or 1)
        self._any_gpu = gpus is None and os.environ.get("HARNESS_DEVICE") != "cpu"

    def __enter__(self) -> Self:
        self._connect()
        if self._any_gpu and self.ray.cluster_resources().get("GPU"):
            self.gpus = 1.0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ray.shutdown()

    def _connect(self) -> None:
        if self.address is not None and self.address.startswith("ray://"):
            raise HarnessError(
                f"ray address {self.address!r}: expected HOST:PORT of a cluster that this machine is a node of; "
                "`ray start --address HOST:PORT --num-cpus 0` makes it one that runs nothing"
            )
        if self.address not in (None, "auto", "local"):
            _reach(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            self.ray.init(address=self.address or "auto", **quiet)
        except (ConnectionError, RuntimeError, ValueError, self.ray.exceptions.RayError) as error:
            if self.address not in (None, "local"):
                raise HarnessError(f"ray address {self.address!r}: {_line(error)}") from None
            self.ray.init(
                address="local", num_cpus=cores(), include_dashboard=False, object_store_memory=80_000_000, **quiet
            )
            if not self.width:  # it will not grow
                has = f"{cores()} CPUs, {self.ray.cluster_resources().get('GPU', 0):g} GPUs"
                raise HarnessError(f"no run of {self._each} fits on this machine ({has})") from None

    @property
    def room(self) -> list[int]:
        """How many runs each node could hold."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        need = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        return [min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in need.items()) for node in nodes]

    @property
    def width(self) -> int:
        return min(sum(self.room), self.jobs or sys.maxsize)

    @property
    def _each(self) -> str:
        return f"{self.cpus} CPU{'s' * (self.cpus != 1)}" + (f" and {self.gpus:g} GPU" if self.gpus else "")

    @property
    def capacity(self) -> str:
        nodes, each = sum(n > 0 for n in self.room), self._each
        if not nodes:
            return f"none at a time yet (no node of the Ray cluster has {each})"
        return f"{self.width} at a time on {nodes} Ray node{'s' * (nodes != 1)}, {each} each"

    def run(self, cells: Sequence[Cell], watcher: Watcher) -> None:
        """Run all cells. When interrupted, those under way are ended; they go on another time."""
        task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(attempt)
        task = task.options(num_returns="streaming", scheduling_strategy="SPREAD")
        given = Surroundings.here(self.cpus, self.gpus)
        waiting = deque(Trail(cell) for cell in cells)
        under_way: dict[Any, Trail] = {}
        with redirect_stderr(_WithoutRay(sys.stderr)):
            try:
                while waiting or under_way:
                    room = (self.jobs or self.width + QUEUED) - len(under_way) if waiting else 0
                    for trail in [waiting.popleft() for _ in range(min(room, len(waiting)))]:
                        trail.cell.plan.folder.mkdir(parents=True, exist_ok=True)
                        job = Job(trail.cell.request, trail.cell.id, every=EVERY, patience=PATIENCE)
                        under_way[task.remote(job, given)] = trail
                    for stream in self._ready(under_way):
                        if (end := self._hear(stream, under_way[stream], watcher)) is None:
                            continue
                        trail = under_way.pop(stream)
                        if not end.died:
                            watcher.ended(trail.cell, end.error or _missing(trail))
                        elif trail.lose():
                            watcher.lost(trail.cell, str(end.error))
                            waiting.appendleft(trail)
                        else:
                            times = f"{TRIES} times without getting further"
                            watcher.ended(trail.cell, f"{end.error}, {times}; the same command goes on")
                    watcher.tick()
            finally:
                self._end(list(under_way))

    def _ready(self, streams: Any) -> list[Any]:
        found: list[Any] = self.ray.wait(list(streams), num_returns=len(streams), timeout=0.25)[0]
        return found

    def _hear(self, stream: Any, trail: Trail, watcher: Watcher) -> End | None:
        """Pass one message on; how the attempt ended, if it has."""
        failures = self.ray.exceptions
        try:
            kind, what = self.ray.get(next(stream))
        except failures.RayTaskError as error:
            return End(f"on node {trail.node}: {_line(error.cause or error)}")
        except failures.NodeDiedError:
            return End(f"node {trail.node} was lost", died=True)
        except failures.OutOfMemoryError:
            return End(f"node {trail.node} ran out of memory", died=True)
        except (failures.RayError, StopIteration) as error:
            return End(f"its worker on node {trail.node} was lost ({type(error).__name__})", died=True)
        if kind == "started":
            trail.node = what
            watcher.started(trail.cell, what)
        elif kind == "report":
            trail.share = max(trail.share, what.share)
            watcher.reported(trail.cell, what)
        elif kind == "say":
            watcher.said(trail.cell, what)
        elif kind == "end":
            end: End = what
            return End(f"{end.error} on node {trail.node}", died=True) if end.died else end
        return None

    def _end(self, streams: list[Any]) -> None:
        """Have the tasks end their processes; what is left ends with its connection to this one."""
        for stream in streams:
            with suppress(Exception):
                self.ray.cancel(stream)
        until = time.monotonic() + CLOSING
        while streams and time.monotonic() < until:
            ready = self._ready(streams)
            streams = [s for s in streams if s not in ready or next(s, None) is not None]


def _missing(trail: Trail) -> str | None:
    """Why a run that says it is done is not, seen from here."""
    folder: Path = trail.cell.plan.folder
    os.listdir(folder)  # an NFS client looks again for what it has not found before
    if trail.cell.record is not None:
        return None
    return f"it ended on node {trail.node}, but its record is not in {str(folder)!r}: is that storage which all nodes share?"


def _reach(address: str) -> None:
    """Ray itself tries for many minutes. Raises HarnessError where nobody listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise HarnessError(f"ray address {address!r}: expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise HarnessError(f"ray address {address!r}: no cluster answers there ({error.strerror or error})") from None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


class _WithoutRay:
    """stderr without the pages that Ray's threads print when a node is lost; its own log files keep them."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
