"""Fences around a strategy's code in a trial run: what it opens, imports and reaches for is noted, never prevented.

Whose doing something is, the stack says: the innermost frame of the strategy's files or of the harness. Audit events come
from the interpreter itself, so neither an alias nor a detour through another library hides them.
"""

from __future__ import annotations

import _thread
import builtins
import importlib
import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from harness.prints import HOME
from harness.protocol import Lab
from harness.source import MAY, allowed, imported
from harness.toy import TEST

Note = Callable[[str, str], None]

# Audit events by their beginnings, and what they mean.
EVENTS = {
    "open": "opens a file",
    "os.": "asks the operating system",
    "shutil.": "handles files",
    "tempfile.": "handles files",
    "glob.": "lists files",
    "pathlib.": "lists files",
    "mmap.": "maps a file",
    "fcntl.": "handles files",
    "sqlite3.": "opens a database",
    "subprocess.": "starts a process",
    "socket.": "uses the network",
    "urllib.": "uses the network",
    "http.": "uses the network",
    "_thread.": "starts a thread",
    "ctypes.": "reaches into memory",
    "gc.": "searches the process's objects",
    "sys._getframe": "looks at the stack",
    "sys._current_frames": "looks at the stack",
    "sys.set": "traces the interpreter",
    "object.__getattr__": "reads code or frames",
    "signal.": "uses signals",
    "time.sleep": "sleeps",
    "builtins.input": "reads the terminal",
    "syslog.": "writes a log",
    "marshal.": "handles code",
    "pickle.": "unpickles",
}
LEAVE = "a strategy sees the lab and its arrays, nothing else of the machine"
SPLIT = "test items are first read after run(lab), by the scorer"
# Libraries use these too: only when the strategy itself does, or asks `inspect` to.
DIRECT: dict[str, set[str]] = {"sys._getframe": {inspect.__file__}, "object.__getattr__": set()}
# Classes that a strategy is given; of all others it sees not even public names.
FACING = {
    "harness.lab": ["RunLab"],
    "harness.verbs": ["Verbs", "JournalledBudget"],
    "harness.mixtures": ["Mixtures"],
    "harness.probing": ["Probing", "Gradients"],
    "harness.probes": ["Handle"],
    "harness.memory": ["ExampleTable", "LabState"],
    "harness.table": ["Rows", "State"],
    "harness.fork": ["Fork"],
    "harness.tokens": ["Tokens", "Batch"],
    "harness.pool": ["Pool"],
}
# fmt: off
BEHIND = (
    "core", "engine", "workshop", "session", "journal", "ledger", "loop", "sampler", "checkpoint", "corpus",
    "trail", "looks", "gold", "durable", "packing", "gradients", "run", "lora", "grading",
)
# fmt: on


class Fences:
    """Notes what code of `files` does. `note(check, message)` takes each finding."""

    def __init__(self, files: set[str], note: Note) -> None:
        self.files, self.note = files, note
        self.up, self._busy = True, False
        self._import = builtins.__import__

    def raise_(self) -> None:
        """For the rest of this process."""
        sys.addaudithook(self._audit)
        builtins.__import__ = self._imported
        for module, name in ((_thread, "start_new_thread"), (threading, "_start_new_thread")):
            setattr(module, name, self._started(getattr(module, name)))
        for name in BEHIND:
            for cls in _classes(f"harness.{name}"):
                self._fence(cls, facing=False)
        for name, classes in FACING.items():
            for cls in _classes(name):
                if cls.__name__ in classes:
                    self._fence(cls, facing=True)

    # --- whose doing

    def mine(self, frame: FrameType | None) -> bool:
        """Whether the innermost frame of either is the strategy's and not the harness's."""
        while frame is not None:
            name = frame.f_code.co_filename
            if name in self.files:
                return True
            if name.startswith(HOME):
                return False
            frame = frame.f_back
        return False

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self._busy or not self.up:
            return
        what = EVENTS.get(event) or EVENTS.get(event.partition(".")[0] + ".")
        if what is None and event.startswith("sys.set"):
            what = EVENTS["sys.set"]
        if what is None:
            return
        self._busy = True  # looking at the stack is an event too
        try:
            frame = sys._getframe(1)
            direct = self.files | DIRECT[event] if event in DIRECT else {frame.f_code.co_filename}
            if frame.f_code.co_filename in direct and self.mine(frame) and not _harmless(event, args):
                detail = f" ({', '.join(str(a)[:60] for a in args[:1])})" if args and event == "open" else ""
                self.note("outside", f"{what}: {event}{detail}, {self.where(frame)}; {LEAVE}")
                if event == "open" and Path(str(args[0])).name.startswith(Path(TEST).stem):
                    self.note("test", f"it opens {Path(str(args[0])).name}, {self.where(frame)}; {SPLIT}")
        finally:
            self._busy = False

    def where(self, frame: FrameType | None) -> str:
        """The strategy's line that is being run."""
        while frame is not None and frame.f_code.co_filename not in self.files:
            frame = frame.f_back
        return f"line {frame.f_lineno} of {Path(frame.f_code.co_filename).name}" if frame else "somewhere"

    def _started(self, start: Callable[..., Any]) -> Callable[..., Any]:
        """Threads are no audit event before Python 3.12; the FLOP counter sees this thread only."""

        def started(*args: Any, **named: Any) -> Any:
            frame = sys._getframe(1)
            if self.up and self.mine(frame):
                self.note("outside", f"starts a thread, {self.where(frame)}; {LEAVE}")
            return start(*args, **named)

        return started

    # --- imports and attributes

    def _imported(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        inside = isinstance(
            fromlist, list
        )  # a library's C code, in its caller's name; a statement gives a tuple or None
        if self.up and not inside and globals and globals.get("__file__") in self.files:
            for module in imported(name, tuple(fromlist or ()), level):
                if not allowed(module):
                    self.note("imports", f"it imports {module}; it may import {MAY}")
        return self._import(name, globals, locals, fromlist, level)

    def _fence(self, cls: type[Any], facing: bool) -> None:
        """Note each attribute that the strategy's own code takes of an instance, unless it is meant to."""
        lab_only = cls.__module__ == "harness.lab"
        verbs = {n for n in vars(Lab) if not n.startswith("_")}
        fences = self

        def taken(self: Any, name: str) -> Any:
            if fences.up and sys._getframe(1).f_code.co_filename in fences.files and not name.startswith("__"):
                public = facing and not name.startswith("_") and (not lab_only or name in verbs)
                if not public:
                    fences.reached(type(self).__name__, name)
            return object.__getattribute__(self, name)

        def put(self: Any, name: str, value: Any) -> None:
            if fences.up and sys._getframe(1).f_code.co_filename in fences.files:
                fences.reached(type(self).__name__, name)
            object.__setattr__(self, name, value)

        for name, fence in (("__getattribute__", taken), ("__setattr__", put)):
            if getattr(cls, name) is getattr(object, name):
                setattr(cls, name, fence)

    def reached(self, kind: str, name: str) -> None:
        self.note(
            "private", f"it reaches for {name!r} of the harness's {kind}; all that it may ask is in harness/api.py"
        )


def _classes(module: str) -> list[type[Any]]:
    found = importlib.import_module(module)
    return [
        c
        for c in vars(found).values()
        if isinstance(c, type)
        and c.__module__ == module
        and not issubclass(c, BaseException | tuple)
        and not getattr(c, "_is_protocol", False)
    ]


def _harmless(event: str, args: tuple[Any, ...]) -> bool:
    """Reading code, as an import or a warning's text does; looking for a module is a listing of its folder."""
    if event == "open":
        path, mode, flags = (*args, None, None, None)[:3]
        if not isinstance(path, str | bytes) or (isinstance(mode, str) and set(mode) & set("wax+")):
            return False
        text = path.decode(errors="replace") if isinstance(path, bytes) else path
        return text.endswith((".py", ".pyc", ".so")) and not (isinstance(flags, int) and flags & 3)
    if event in ("os.listdir", "os.scandir"):
        return _importing(sys._getframe(2))
    return event in ("os.fspath", "os.add_dll_directory")


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
