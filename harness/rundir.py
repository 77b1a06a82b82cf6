"""A run's directory: who holds it, whether the run is done, where an interrupted one goes on, and what was asked for."""

from __future__ import annotations

import errno
import fcntl
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness import durable, environment, ranks, record
from harness.errors import HarnessError, RunFailed
from harness.paths import write_atomic
from harness.request import Plan


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Any:
    """Hold a run directory; a second process on it is refused, after `wait` seconds. The lock dies with its process.

    On storage that machines share it is the file server's, which keeps a dead machine's lock until its lease is over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle: IO[str] = (folder / "lock").open("w")  # close-on-exec, so that a child cannot outlive its parent with it
    with handle:
        until = time.monotonic() + wait
        while not _take(handle, folder):
            if time.monotonic() >= until:
                raise RunFailed(f"another process is working on run {folder.name}")
            time.sleep(0.2)
        yield


def _take(handle: IO[str], folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        why = f"the storage of {str(folder.parent)!r} has no file locks ({error.strerror})"
        raise HarnessError(f"{why}; without them two processes could write one run") from None
    return True


def finished(plan: Plan) -> Path | None:
    """The record of an identical run that ended well, unless --force."""
    path = plan.folder / "record.json"
    if not ranks.main():
        return ranks.first(None)
    return ranks.first(_finished(plan, path))


def _finished(plan: Plan, path: Path) -> Path | None:
    if plan.request.force or not path.exists():
        return None
    try:
        return path if record.read(path).status != "failed" else None
    except HarnessError:
        return None  # a record that cannot be read is not one: the run goes on from its journal


def durable_point(plan: Plan, say: Callable[[str], None]) -> durable.Point | None:
    """Where an interrupted run goes on, with journal and ledger cut back to it; None to start from the first verb."""
    folder = plan.folder
    if plan.request.force:  # scores that were kept are of this request too
        for name in ("lm_eval", "items"):
            shutil.rmtree(folder / name, ignore_errors=True)
    begun = (folder / "journal.jsonl").exists() and not plan.request.force
    point = durable.load(folder) if begun else None
    if point is not None:
        durable.cut(folder, point)
        say(f"run {plan.id} goes on after {point.verbs} finished verbs")
        return point
    if begun:
        say(f"run {plan.id} was interrupted before a good snapshot: it starts again from its first verb")
    shutil.rmtree(folder / "snapshot", ignore_errors=True)
    for name in ("journal.jsonl", "ledger.jsonl"):
        (folder / name).unlink(missing_ok=True)
    return None


def code(folder: Path, resumed: bool) -> record.Git:
    """The clone that the run is made from, now that it begins; of one that goes on, dirty if it ever was or has moved."""
    path, now = folder / "code.json", environment.git()
    if resumed and path.exists():
        before = record.Git.model_validate_json(path.read_text(encoding="utf-8"))
        now = record.Git(commit=now.commit, dirty=environment.ever_dirty(before, now))
    write_atomic(path, now.model_dump_json() + "\n")
    return now


def settings(plan: Plan) -> dict[str, Any]:
    """The resolved request: enough to repeat the run."""
    r = plan.request
    return {
        "strategy": r.strategy,
        "model": r.model,
        "suite": plan.suite_name,
        "seed": r.seed,
        "budget": r.budget,
        "lr": plan.identity.lr,
        "options": dict(plan.identity.passed),
        "hyperparameters": plan.identity.hyperparameters,
        "mode": r.mode,
        "limit": r.limit,
        "suite_resolved": plan.suite.model_dump(mode="json"),
    }
