"""The same function over many things, in forked processes where there are many."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
FEW = 64  # below this many a process costs more than it saves

_work: tuple[Callable[[Any], Any], Sequence[Any]] | None = None  # what forked children see; a closure cannot be sent


def each(function: Callable[[T], R], things: Sequence[T], few: int = FEW) -> Iterator[R]:
    """`map` in order. Children share the parent's memory as it was; only results travel, so they must pickle."""
    if len(things) < few or jobs() < 2:
        yield from map(function, things)
        return
    global _work
    _work = function, things
    try:
        with multiprocessing.get_context("fork").Pool(min(jobs(), len(things))) as pool:
            yield from pool.imap(_at, range(len(things)), chunksize=max(1, min(64, len(things) // (4 * jobs()))))
    finally:
        _work = None


def streamed(function: Callable[[T], R], things: Iterable[T], about: int) -> Iterator[R]:
    """`map` in order over things that take time to make: of many (`about` so many), they are made while others are worked on.

    Things and results travel, and so does the name of the function, which must be a module's.
    """
    if about < FEW or jobs() < 2:
        yield from map(function, things)
        return
    with multiprocessing.get_context("fork").Pool(jobs()) as pool:
        yield from pool.imap(function, things, chunksize=32)


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


def _at(k: int) -> Any:
    assert _work is not None
    function, things = _work
    return function(things[k])
