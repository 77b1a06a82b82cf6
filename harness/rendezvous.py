"""Where the ranks of one attempt leave each other word: a part of the launcher's store that no earlier attempt wrote in.

torchrun keeps one store through its restarts (torch 2.13 shares it with the workers), with all that the killed ranks had
written: addresses of processes that are gone, and last words. Its count of restarts is each node's own, and says nothing.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from harness.errors import HarnessError

PAUSE = 0.02  # seconds between two looks of rank 0


def fresh(store: Any, rank: int, size: int, limit: timedelta) -> Any:
    """A part of the store that the `size` ranks of this attempt share and nobody else has: a `PrefixStore`.

    Every rank asks under a word that nobody has used; rank 0 answers whatever was asked, also by the dead, until each rank
    has come. Raises HarnessError where one does not within `limit`.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    mine = f"{rank}-{os.getpid()}-{time.time_ns()}"
    if rank == 0:
        _answer(store, mine, size, limit)
        return PrefixStore(f"attempt {mine}", store)
    store.set(f"asked {rank}", mine)
    try:
        store.wait([f"answer {mine}"], limit)
    except RuntimeError as error:
        raise HarnessError(f"rank 0 did not answer within {limit.total_seconds():g} s: {error}") from None
    attempt = store.get(f"answer {mine}").decode()
    store.set(f"{attempt} has {rank}", "")
    return PrefixStore(f"attempt {attempt}", store)


def _answer(store: Any, attempt: str, size: int, limit: timedelta) -> None:
    missing, until = set(range(1, size)), time.monotonic() + limit.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"asked {rank}"]):
                store.set(f"answer {store.get(f'asked {rank}').decode()}", attempt)
        missing = {rank for rank in missing if not store.check([f"{attempt} has {rank}"])}
        if missing and time.monotonic() > until:
            names = ", ".join(map(str, sorted(missing)))
            raise HarnessError(f"ranks that did not come within {limit.total_seconds():g} s: {names}")
        if missing:
            time.sleep(PAUSE)
