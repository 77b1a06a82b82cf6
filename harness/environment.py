"""What a record says of the machine: versions, device, threads, revisions - never a host, a user or a path."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness import ranks, record
from harness.models import Model
from harness.paths import digest
from harness.suite import Suite

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "lm_eval", "peft", "numpy", "safetensors")


def describe(
    suite: Suite, model: Model, revisions: Mapping[str, str | None], begun: record.Git, size: int = 1
) -> record.Environment:
    """The environment of this process, one of `size` ranks. `revisions` are those of the data sets as they were read,
    `begun` the clone as it was when the run began.
    """
    import torch

    device = torch.cuda.get_device_name(0) if ranks.gpu() else f"cpu ({platform.machine()})"
    return record.Environment(
        git=since(begun),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        python=platform.python_version(),
        device=device,
        threads=torch.get_num_threads(),
        ranks=size if size > 1 else None,
        model_revision=model.revision,
        data_revisions=suite.hubs | dict(revisions),
        template_sha256=suite.template_sha256,
    )


def arithmetic() -> str:
    """A digest of what the last bits of a sum on this machine's CPU depend on: its kind, threads, torch."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = [line for line in lines if line.startswith(("model name", "CPU part"))][:1]
    except OSError:
        kind = [platform.processor()]
    return digest(
        [kind, platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), torch.__version__]
    )[:8]


def since(begun: record.Git) -> record.Git:
    """The commit of the clone at a run's begin: dirty unless it was clean then and is now, at the same commit.

    A person who commits, or undoes an edit, while a run computes does not change what it has computed.
    """
    return record.Git(commit=begun.commit, dirty=ever_dirty(begun, git()))


def ever_dirty(*states: record.Git) -> bool | None:
    """Whether the clone was dirty in any of these states, or not at one commit; None where one is not known."""
    if None in (s.dirty for s in states):
        return None
    return any(s.dirty for s in states) or len({s.commit for s in states}) > 1


def git(folder: Path = HERE) -> record.Git:
    """Commit and dirtiness of the clone that this package runs from, files that are in no commit included; both None when
    it is installed from a wheel or a copy without .git, and None what git does not tell in time.
    """

    def ask(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = ask("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.parent:
        return record.Git(commit=None, dirty=None)
    changed = ask("status", "--porcelain", "--untracked-files=normal")  # whatever the user's own settings hide
    return record.Git(commit=ask("rev-parse", "HEAD"), dirty=None if changed is None else changed != "")
