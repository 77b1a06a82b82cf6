"""What a strategy's file says, read without running it: its documentation, its imports, the names that it uses."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import HarnessError

# fmt: off
PURE = {
    "__future__", "abc", "bisect", "collections", "contextlib", "copy", "dataclasses", "decimal", "enum",
    "fractions", "functools", "hashlib", "heapq", "itertools", "math", "numbers", "operator", "re", "statistics", "string",
    "textwrap", "types", "typing", "typing_extensions"
}
KNOWN = PURE | {
    "harness", "harness.api", "strategies", "strategies._numerics", "collections.abc", "numpy", "numpy.fft",
    "numpy.linalg", "numpy.polynomial", "numpy.random", "numpy.typing", "torch", "torch.fft", "torch.linalg",
    "torch.nn", "torch.nn.functional", "torch.special"
}
# fmt: on
MAY = (
    "harness.api, strategies._numerics, numpy, torch, and pure parts of the standard library such as math or itertools"
)
BUILTINS = {
    **dict.fromkeys(("open", "input", "print", "breakpoint"), "a strategy has no files and no terminal; use lab.log"),
    **dict.fromkeys(("exec", "eval", "compile", "__import__"), "write the code out and import at the top"),
    **dict.fromkeys(("globals", "locals", "vars"), "name what you need; control state is local variables of run"),
    **dict.fromkeys(("id", "hash"), "they differ from process to process; use names or indices"),
}
SPECIAL = {"__init__", "__post_init__", "__name__", "__class__", "__doc__", "__call__", "__len__", "__getattr__"}
FRAMES = {"f_back", "f_globals", "f_locals", "tb_frame", "gi_frame", "cr_frame", "f_builtins"}
ENDS = {"BaseException", "BudgetExhausted", "NoRoom", "GeneratorExit"}
CITED = re.compile(r"arXiv[:\s]*\d{4}\.\d{4,5}|doi\.org/|github\.com/|\bours\b|\bbaseline\b", re.I)


def findings(path: Path) -> dict[str, list[str]]:
    """Messages by check: documented, imports, private, ends. Modules that the file names are imported to look at them."""
    text, tree = parsed(path)
    return {
        "documented": [] if path.name == "_numerics.py" else list(_undocumented(tree, text.splitlines())),
        "imports": list(dict.fromkeys(_imports(tree))),
        "private": list(dict.fromkeys(_reaches(tree))),
        "ends": list(dict.fromkeys(_catches(tree))),
    }


def parsed(path: Path) -> tuple[str, ast.Module]:
    """The text of a file and its syntax tree. Raises HarnessError, with the line, for what is no Python."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, ast.parse(text, path.name)
    except OSError as error:
        why = error.strerror or str(error)
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except SyntaxError as error:
        why = f"line {error.lineno}: {error.msg}" if error.lineno else error.msg
    except (ValueError, RecursionError) as error:  # a null character, parentheses beyond all depth
        why = str(error)
    raise HarnessError(f"strategy file {path.name!r} cannot be read: {why}")


# --- documentation


def _undocumented(tree: ast.Module, lines: list[str]) -> Iterator[str]:
    doc = ast.get_docstring(tree) or ""
    if len(doc.partition("\n")[0]) < 20:
        yield "the module's docstring begins with one sentence on what the method does"
    if not CITED.search(doc):
        yield "the module's docstring gives the paper (arXiv 0000.00000), or says 'ours' or 'baseline'"
    if "Deviations:" not in doc:
        yield "the module's docstring has 'Deviations:' with what differs from the paper, or none"
    for cls in (n for n in tree.body if isinstance(n, ast.ClassDef)):
        if not any(isinstance(n, ast.FunctionDef) and n.name in ("run", "wrap") for n in cls.body):
            continue
        said = ast.get_docstring(cls) or ""
        for field in (n for n in cls.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)):
            name = field.target.id  # type: ignore[union-attr]
            around = lines[field.lineno - 2 : field.end_lineno]
            beside = any("#" in line for line in around[1:]) or around[0].lstrip().startswith("#")
            if not beside and f"`{name}`" not in doc + said:
                yield f"field {name!r} has a comment: what it is, with the paper's symbol or equation"


# --- imports


def allowed(module: str) -> bool:
    """Whether a strategy may import this module."""
    return module in KNOWN


def imported(name: str, names: tuple[str, ...], level: int = 0) -> Iterator[str]:
    """The modules that `from NAME import NAMES` (or `import NAME`, without names) brings in."""
    base = f"strategies.{name}".rstrip(".") if level else name
    yield base
    found = sys.modules.get(base)
    for each in names:
        inner = getattr(found, each, None)
        if base in ("harness", "strategies") or f"{base}.{each}" in sys.modules:
            yield f"{base}.{each}"
        elif isinstance(inner, ModuleType):
            yield inner.__name__


def _imports(tree: ast.Module) -> Iterator[str]:
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [a.name for a in node.names]
            for a in node.names:
                known[a.asname or a.name.split(".")[0]] = _module(a.name if a.asname else a.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            modules = list(imported(node.module or "", tuple(a.name for a in node.names), node.level))
            for a in node.names:
                known[a.asname or a.name] = getattr(_module(modules[0]), a.name, None)
        else:
            continue
        for module in modules:
            if not allowed(module):
                yield f"line {node.lineno} imports {module}; it may import {MAY}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(thing := _value(node, known), ModuleType):
            public = thing.__name__ in KNOWN or thing.__name__.split(".")[0] in PURE
            if not public:
                yield f"line {node.lineno} reaches module {thing.__name__} through another; it may use {MAY}"


def _module(name: str) -> Any:
    if not allowed(name):
        return sys.modules.get(name)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """What a chain of attributes of an imported name stands for."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, known), node.attr, None)
    return None


# --- names


def _reaches(tree: ast.Module) -> Iterator[str]:
    own = {"self", "cls"} | {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name, of = node.attr, node.value
            mine = isinstance(of, ast.Name) and of.id in own
            module = isinstance(of, ast.Name) and name.startswith("_") and of.id == "strategies"
            private = name.startswith("_") and not mine and not module and name not in SPECIAL
            hidden = name.startswith("__") and name not in SPECIAL
            if private or hidden or name in FRAMES:
                yield f"line {node.lineno} takes {name!r} of another object; what it may ask is in harness/api.py"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in BUILTINS:
            yield f"line {node.lineno} uses {node.id}(): {BUILTINS[node.id]}"
        elif isinstance(node, ast.Global):
            yield f"line {node.lineno} has global names; control state is local variables of run"


def _catches(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = _names(node.type) if node.type is not None else {"BaseException"}
            if ends := sorted(caught & ENDS):
                yield f"line {node.lineno} catches {ends[0]}; {LET}"
        elif (
            isinstance(node, ast.Call) and "suppress" in _names(node.func) and any(_names(a) & ENDS for a in node.args)
        ):
            yield f"line {node.lineno} suppresses the end of the budget; {LET}"


def _names(node: ast.expr) -> set[str]:
    """All names and attributes in an expression."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return found | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


LET = "let BudgetExhausted pass: it ends the run, and the last lab.answer() counts"
