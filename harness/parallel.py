"""The same function over many things, in forked processes where there are many."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from harness.errors import RunFailed

T = TypeVar("T")
R = TypeVar("R")
FEW = 64  # below this many a process costs more than it saves
CHUNK = 32  # of what is streamed

_work: tuple[Callable[[Any], Any], Sequence[Any]] | None = None  # what forked children see; a closure cannot be sent


def each(function: Callable[[T], R], things: Sequence[T], few: int = FEW) -> Iterator[R]:
    """`map` in order. Children share the parent's memory as it was; only results travel, so they must pickle."""
    if len(things) < few or jobs() < 2:
        yield from map(function, things)
        return
    global _work
    _work = function, things
    try:
        with _processes(min(jobs(), len(things))) as pool:
            yield from pool.map(_at, range(len(things)), chunksize=max(1, min(64, len(things) // (4 * jobs()))))
    finally:
        _work = None


def streamed(function: Callable[[T], R], things: Iterable[T], about: int) -> Iterator[R]:
    """`map` in order over things that take time to make: of many (`about` so many), they are made while others are worked on.

    Things and results travel, and so does the name of the function, which must be a module's.
    """
    if about < FEW or jobs() < 2:
        yield from map(function, things)
        return
    rest = iter(things)
    begun: deque[Future[list[R]]] = deque()
    with _processes(jobs()) as pool:
        while some := list(islice(rest, CHUNK)):
            begun.append(pool.submit(_all, function, some))
            if len(begun) > 4 * jobs():  # no more in memory than keeps all at work
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()


def jobs() -> int:
    """Processes to use: one where a fork is not safe."""
    return min(len(os.sched_getaffinity(0)), 16) if sys.platform.startswith("linux") else 1


@contextmanager
def collected() -> Iterator[None]:
    """Without the garbage collector, which would walk over every record again and again; what was made then stays as it is."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


@contextmanager
def _processes(n: int) -> Iterator[ProcessPoolExecutor]:
    """Forks that end by being told, not by a signal: a handler that the parent has (Ray's, a launcher's) is theirs as well.

    RunFailed: one of them was killed; `multiprocessing.Pool` would wait for its results for ever.
    """
    pool = ProcessPoolExecutor(n, multiprocessing.get_context("fork"), initializer=_forked)
    try:
        with pool:
            try:
                yield pool
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except BrokenProcessPool:
        raise RunFailed("a worker process was killed from outside; is memory short?") from None


def _forked() -> None:
    """A child's signals: Ctrl-C is the parent's to answer, SIGTERM ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _at(k: int) -> Any:
    assert _work is not None
    function, things = _work
    return function(things[k])


def _all(function: Callable[[T], R], things: Sequence[T]) -> list[R]:
    return [function(thing) for thing in things]
