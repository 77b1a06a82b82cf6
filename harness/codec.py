"""Verbs' arguments and results as plain values: checks, JSON forms, and what may be logged."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.api import Checkpoint, HarnessError, History, Look


def one_of(what: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise HarnessError(f"{what} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


def plain(value: object) -> Any:
    """Arrays and numbers as JSON; a number that is not finite becomes null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise HarnessError(f"log: a {type(value).__name__} is not JSON; give numbers, strings, lists or arrays")


def history_to_json(history: History) -> dict[str, Any]:
    looks = [[k.step, k.epoch, dict(k.values), k.value, k.kept.weights if k.kept else None] for k in history.looks]
    return {
        "looks": looks,
        "steps": history.steps,
        "epochs": history.epochs,
        "train_loss": dict(history.train_loss),
        "cut": history.cut,
    } | ({"paused": history.paused} if history.paused else {})


def history_from_json(raw: Mapping[str, Any]) -> History:
    looks = tuple(Look(s, e, v, p, Checkpoint(c) if c else None) for s, e, v, p, c in raw["looks"])
    return History(looks, raw["steps"], raw["epochs"], raw["train_loss"], raw["cut"], raw.get("paused"))


def qualified(function: Callable[..., Any] | None) -> str | None:
    """A callback's module and qualified name; the run's identity holds the digest of its source."""
    if function is None:
        return None
    if not callable(function):
        raise HarnessError(f"a callback is {function!r}; expected a function")
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def arrays_to_json(arrays: Sequence[np.ndarray[Any, Any]]) -> list[Any]:
    """Arrays exactly, compressed: one [dtype, shape, text] each."""
    return [
        [a.dtype.str, list(a.shape), base64.b64encode(zlib.compress(np.ascontiguousarray(a).tobytes(), 1)).decode()]
        for a in map(np.asarray, arrays)
    ]


def arrays_from_json(raw: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """The arrays of `arrays_to_json`, bit for bit."""
    return [
        np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype).reshape(shape).copy()
        for dtype, shape, text in raw
    ]
