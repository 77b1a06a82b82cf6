"""Errors by what they mean to the person at the terminal: each carries one line, and the exit status it leads to."""

from __future__ import annotations

import errno
import sysconfig
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class HarnessError(Exception):
    """The request was wrong (exit 2): the message names the value, what was expected and the nearest valid name."""

    exit_code = 2


class RunFailed(HarnessError):
    """The run could not go on (exit 1): a NaN loss, a full disk, a scorer that failed. The journal is kept."""

    exit_code = 1


class NonDeterministicStrategy(RunFailed):
    """A replayed strategy asked for another verb or other arguments than the journal holds."""


def disk_is_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it followed, says that nothing more could be written: no space, a quota, a limit."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    while error is not None:
        # safetensors, written in Rust, gives the number in its message only.
        if getattr(error, "errno", None) in full or any(f"(os error {n})" in str(error) for n in full):
            return True
        error = error.__cause__ or error.__context__
    return False


def raised_at(error: BaseException) -> str:
    """`line 12 of mine.py`, the last that an error came through, but for this package's, installed ones and Python's own."""
    others = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(others) and "-packages" not in frame.filename:
            return f"line {frame.lineno} of {Path(frame.filename).name}"
    return ""


class BudgetExhausted(BaseException):
    """The next billed verb does not fit under the cap of `account` (a fork's, or the run's).

    Not an `Exception`, so that a strategy's own `except Exception` cannot swallow it; the run ends cleanly and its last
    `answer` counts. A fork that has used up its own budget ends at its `with`.
    """

    def __init__(self, account: object = None, message: str = "the budget is used up") -> None:
        super().__init__(message)
        self.account = account


def unknown(kind: str, name: str, valid: Iterable[str]) -> HarnessError:
    """An error for a name that does not exist, with the nearest one that does."""
    names = sorted(valid)
    folded = {n.lower(): n for n in names}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"known: {', '.join(names)}"
    return HarnessError(f"unknown {kind} {name!r}; {hint}")


class NoRoom(BaseException):
    """Work inside a running `train` does not fit under its cap: the training is cut there. Not an Exception, see above."""

    def __init__(self, flops: int) -> None:
        super().__init__(f"{flops} FLOPs do not fit")
        self.flops = flops
