"""Work that does not fit into memory is done again in smaller parts: half the micro-batch, then recomputed activations.

How an effective batch is cut changes sums only in their order: losses agree to 1e-6 and gradients to 1e-5 (relative, fp32).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from harness.errors import RunFailed

Found = TypeVar("Found")
MICRO_TOKENS = {"cpu": 4096, "cuda": 32768}  # tokens of one micro-batch, to begin with
SMALLEST = 64  # tokens: nothing is gained below


class Fitted(Protocol):
    """What the engine lets be changed."""

    checkpointing: bool
    shrunk: int | None

    @property
    def device(self) -> torch.device: ...
    def recompute(self) -> None: ...


def out_of_memory(error: BaseException) -> bool:
    """A GPU's allocator or the host's had no room."""
    full = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in full)
    )


def micro_tokens(engine: Fitted) -> int:
    """Tokens of a micro-batch now."""
    return min(MICRO_TOKENS[engine.device.type], engine.shrunk or MICRO_TOKENS[engine.device.type])


def refitted(engine: Fitted, longest: int, work: Callable[[], Found], undo: Callable[[], None]) -> Found:
    """`work`, done again after `undo` as often as it takes to find a size that fits; the size stays for what follows.

    `longest`: tokens of the longest item, which cannot be divided. Raises RunFailed when not even that one fits.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        # Outside of `except`: the traceback holds every activation of the failed pass.
        undo()
        _empty()
        if not shrink(engine, longest):
            raise RunFailed(f"out of memory with one example of {longest} tokens at a time: {said}")


def shrink(engine: Fitted, longest: int) -> bool:
    """Half the micro-batch; if it is one item already, activations are recomputed from now on. False: nothing is left."""
    now = micro_tokens(engine)
    if now > max(longest, SMALLEST):
        engine.shrunk = max(now // 2, SMALLEST)
        return True
    if not engine.checkpointing:
        engine.recompute()
        return True
    return False


def _empty() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def described(engine: Any) -> dict[str, Any]:
    """What was found, for people: the micro-batch and whether activations are recomputed."""
    return {"micro_tokens": micro_tokens(engine), "checkpointing": engine.checkpointing}
