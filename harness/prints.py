"""Fingerprints: what an object, a process or a lab holds at one moment, as values that can be compared later."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from harness.session import Session

HOME = str(Path(__file__).resolve().parent)
DEPTH = 12
LIBRARIES = {*sys.stdlib_module_names, "harness", "numpy", "torch"}  # their functions and classes are taken as they are


def of_object(thing: Any, seen: set[int] | None = None, depth: int = 0) -> Any:
    """A value that changes when anything reachable from `thing` is changed in place; the lab and modules are opaque."""
    seen = set() if seen is None else seen
    if thing is None or isinstance(thing, bool | int | float | complex | str | bytes):
        return repr(thing)
    kind = type(thing)
    if id(thing) in seen or depth > DEPTH or isinstance(thing, ModuleType | BuiltinFunctionType) or _ours(kind):
        return kind.__qualname__
    if isinstance(thing, type | FunctionType) and str(thing.__module__).split(".")[0] in LIBRARIES:
        return thing.__qualname__
    seen = seen | {id(thing)}
    return [kind.__qualname__, _inside(thing, lambda x: of_object(x, seen, depth + 1))]


def _ours(kind: type[Any]) -> bool:
    """Whether a class is the harness's own, and not one of a strategy that ships with it."""
    return kind.__module__.startswith("harness.") and kind.__module__ != "harness.values"


def _inside(thing: Any, of: Any) -> Any:
    if isinstance(thing, np.ndarray):
        return [thing.dtype.str, thing.shape, hashlib.blake2b(np.ascontiguousarray(thing).tobytes()).hexdigest()]
    if isinstance(thing, torch.Tensor):
        return of_tensors({"": thing})
    if isinstance(thing, Mapping):
        return [[of(k), of(v)] for k, v in thing.items()]
    if isinstance(thing, set | frozenset):
        return sorted(map(str, map(of, thing)))
    if isinstance(thing, list | tuple):
        return [of(x) for x in thing]
    if isinstance(thing, MethodType):
        return [of(thing.__self__), of(thing.__func__)]
    if isinstance(thing, FunctionType):
        cells = [_cell(c) for c in thing.__closure__ or ()]
        return [of(x) for x in (thing.__defaults__, thing.__kwdefaults__, thing.__dict__, cells)]
    if isinstance(thing, GeneratorType):
        frame = thing.gi_frame
        return None if frame is None else [frame.f_lasti, of(dict(frame.f_locals))]
    if isinstance(thing, type):
        own = {k: v for k, v in vars(thing).items() if k not in ("__dict__", "__weakref__", "__doc__")}
        return [[k, of(v)] for k, v in own.items()]
    try:
        return of(thing.__reduce_ex__(2))
    except Exception:  # not to be copied: then its text, without addresses
        return re.sub(r"0x[0-9a-f]+", "", repr(thing))


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def of_tensors(tensors: Mapping[str, Any]) -> str:
    """Digest of tensors' bytes; not seen by a FLOP counter, and no work of its own."""
    total = hashlib.blake2b(digest_size=16)
    with _disable_current_modes(), torch.no_grad():
        for name, tensor in tensors.items():
            total.update(name.encode())
            if tensor is not None:
                total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def of_engine(engine: Any) -> dict[str, str]:
    """Weights, their gradients and the optimizer's state."""
    named = dict(engine.lm.named_parameters())
    moments = {f"{i}.{k}": v for i, row in enumerate(engine.optimizer.state.values()) for k, v in row.items()}
    return {
        "weights": of_tensors(named),
        "gradients": of_tensors({n: p.grad for n, p in named.items() if p.grad is not None}),
        "optimizer": of_tensors({k: v for k, v in moments.items() if isinstance(v, torch.Tensor)}),
    }


def of_lab(session: Session) -> dict[str, Any]:
    """All that a verb may change and nothing else should."""
    top, root = session.levels[-1].core, session.levels[0].core.ledger.root
    held: dict[str, Any] = of_engine(top.engine)
    for level in session.levels:
        state = level.core.state()
        del state["verb"], state["args"]
        held |= {f"{key} of lab {level.opened}": repr(value) for key, value in state.items()}
    held["example table"] = of_object(top.table.columns)
    held["state"] = of_object(top.memory.arrays)
    held["record"] = repr(top.trail.state())
    held["ledger"] = hashlib.blake2b(repr(root.entries).encode()).hexdigest()
    return held


def of_generators() -> dict[str, Any]:
    """The states of the generators that all code of this process shares."""
    return {
        "random": hash(random.getstate()),
        "numpy.random": of_object(np.random.get_state()),
        "torch": of_tensors({"": torch.get_rng_state()}),
    }


def of_process() -> dict[str, Any]:
    """Settings of this process that outlive a strategy's run."""
    return {
        "os.environ": dict(os.environ),
        "the working directory": os.getcwd(),
        "sys.path": list(sys.path),
        "signal handlers": [signal.getsignal(n) for n in range(1, 32)],
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's thread count": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "numpy's error settings": np.geterr(),
        "the recursion limit": sys.getrecursionlimit(),
        "the garbage collector": (gc.isenabled(), gc.get_threshold()),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "sys.stdout": (id(sys.stdout), id(sys.stderr)),
    }


def of_modules() -> dict[str, dict[str, int]]:
    """Which objects the names of shared modules and of the harness's classes stand for."""
    found: dict[str, dict[str, int]] = {}
    for name in ("builtins", "math", "random", "numpy", "torch", "dataclasses", "json", "time"):
        found[name] = {k: id(v) for k, v in vars(sys.modules[name]).items() if callable(v)}
    for module in [m for n, m in sys.modules.items() if n.startswith("harness.") and n != "harness.trial"]:
        names = {
            k: v for k, v in list(vars(module).items()) if not k.startswith("__") and not isinstance(v, ModuleType)
        }
        found[module.__name__] = {k: id(v) for k, v in names.items()}
        for name, cls in names.items():
            if isinstance(cls, type) and cls.__module__ == module.__name__:
                own = {
                    k: id(v) for k, v in vars(cls).items() if not k.startswith(("__pydantic", "__slotnames", "_abc"))
                }
                found[f"{module.__name__}.{name}"] = own
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, or that only one of the two has."""
    return sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
