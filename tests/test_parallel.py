"""Work in forked processes: as `map`, without waiting for ever for a process that does not end or is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from textwrap import dedent

import pytest

from harness import parallel
from harness.errors import RunFailed


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "jobs", lambda: 2)


def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
def test_results_are_those_of_map_in_order(n: int) -> None:
    assert list(parallel.each(lambda x: 2 * x, range(n))) == list(map(double, range(n)))  # a closure cannot be sent
    assert list(parallel.streamed(double, iter(range(n)), n)) == list(map(double, range(n)))


def test_work_is_done_in_other_processes() -> None:
    assert os.getpid() not in set(parallel.each(lambda _: os.getpid(), range(100)))


def test_what_is_streamed_is_made_as_it_is_worked_on() -> None:
    made = 0

    def things() -> Iterator[int]:
        nonlocal made
        while made < 5000:
            made += 1
            yield made

    first = next(iter(parallel.streamed(double, things(), 5000)))
    assert first == 2
    assert made <= 10 * parallel.CHUNK


def fail(x: int) -> int:
    if x == 70:
        raise ValueError("seventy")
    return x


def killed(x: int) -> int:
    if x == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize(
    ("work", "error", "said"), [(fail, ValueError, "seventy"), (killed, RunFailed, "a worker process was killed")]
)
def test_an_error_and_a_killed_process_are_the_callers(
    work: Callable[[int], int], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        list(parallel.each(work, range(200)))
    with pytest.raises(error, match=said):
        list(parallel.streamed(work, range(200), 200))


def test_who_stops_listening_stops_the_work() -> None:
    done = multiprocessing.get_context("fork").Value("l", 0)

    def work(_: int) -> None:
        with done:
            done.value += 1
        time.sleep(0.01)

    found = parallel.each(work, range(100_000))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert 0 < done.value < 50_000


@pytest.mark.parametrize("ending", ["list(found)", "next(found); found.close()"])
def test_a_process_that_swallows_sigterm_leaves_no_child_behind(ending: str) -> None:
    """As after `ray.init`, whose handler forks have as well."""
    code = dedent(
        f"""
        import signal
        from harness import parallel
        signal.signal(signal.SIGTERM, lambda *_: None)
        parallel.jobs = lambda: 2
        for _ in range(20):
            found = parallel.each(lambda x: x, range(100))
            {ending}
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
