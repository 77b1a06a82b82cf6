"""lm-eval's task files: where one lies, and what it says."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from harness import interpreter
from harness.errors import HarnessError
from harness.interpreter import Interpreter
from harness.suite import Suite

HERE = Interpreter()


def path(folder: Path, include: str) -> Path:
    """A task file beside a suite, or below lm_eval/tasks. Raises HarnessError if it is in neither place."""
    spec = importlib.util.find_spec("lm_eval")
    places = [folder, *(Path(p) / "tasks" for p in (spec.submodule_search_locations if spec else None) or ())]
    for place in places:
        if (place / include).is_file():
            return place / include
    raise HarnessError(f"scoring.include {include!r}: no such file beside the suite or below lm_eval/tasks")


@cache
def config(file: Path) -> dict[str, Any]:
    """A task file with all that it includes, and with the functions that it names."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(file))


def check(suite: Suite, other: Interpreter | None = None) -> None:
    """Refuse a suite whose task files or scorer's libraries are not there: they are needed when all training is done.

    `other`: the interpreter that scores, where that is not this one.
    """
    for task in suite.scored.values():
        if task.include:
            path(suite.folder, task.include)
    if missing := lacking(suite):
        raise HarnessError(f"{missing}: pip install 'sft-harness[{suite.scoring.extra}]'")
    if other is not None and (missing := lacking(suite, other)):
        raise HarnessError(f"{missing}, in the environment of {other.path!r}, too")


def lacking(suite: Suite, python: Interpreter = HERE) -> str | None:
    """What the suite's scorer needs and an interpreter does not have, as half a line; None where nothing is missing."""
    names = _needed(suite.scoring.extra) if suite.scoring.extra else []
    absent = [n for n in names if not _installed(n)] if python.own else interpreter.lacking(python.path, names)
    return f"suite {suite.name}: its scorer needs {', '.join(absent)}" if absent else None


def _needed(extra: str) -> list[str]:
    """Distributions of an extra of this package."""
    try:
        lines = importlib.metadata.requires("sft-harness") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    marked = [line for line in lines if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", line)]
    return [re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0] for line in marked]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
