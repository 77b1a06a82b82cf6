"""What a benchmark ran on: the processor or GPU by its name, never a host, a user or a path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path


def hardware() -> dict[str, str | int]:
    """`kind` (cpu or cuda), the device's name, cores, memory in bytes."""
    import torch

    if torch.cuda.is_available() and os.environ.get("HARNESS_DEVICE") != "cpu":
        found = torch.cuda.get_device_properties(0)
        return {"kind": "cuda", "name": found.name, "cores": os.cpu_count() or 1, "memory": found.total_memory}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"kind": "cpu", "name": _processor(), "cores": os.cpu_count() or 1, "memory": memory}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
