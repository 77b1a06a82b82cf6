"""lm-eval's task files: where one lies, and what it says."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.suite import Suite


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


def check(suite: Suite) -> None:
    """Refuse a suite whose task files or scorer's libraries are not there: they are needed when all training is done."""
    for task in suite.scored.values():
        if task.include:
            path(suite.folder, task.include)
    extra = suite.scoring.extra
    missing = [name for name in _needed(extra) if not _installed(name)] if extra else []
    if missing:
        raise HarnessError(
            f"suite {suite.name}: its scorer needs {', '.join(missing)}: pip install 'sft-harness[{extra}]'"
        )


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
