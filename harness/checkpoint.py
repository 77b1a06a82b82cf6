"""Checkpoints of one run: safetensors on disk with checksums, written before the verb that made them counts as done.

A copy of the tensors stays in host memory while it fits, so that going back costs a copy, not a read. Names are those
of weights (`base` is the model's own folder and never stored; `verb:step` otherwise).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.errors import RunFailed
from harness.paths import file_digest

Tensors = dict[str, torch.Tensor]
MEMORY_BYTES = 4 * 2**30
LIMIT = 64  # checkpoints of one run on disk at a time


def n_bytes(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


class Store:
    """A folder of checkpoints. Each holds named groups of tensors (`model`, `optimizer`) and a JSON state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peak = 0
        self._memory: dict[str, tuple[dict[str, Tensors], dict[str, Any]]] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def path(self, name: str) -> Path:
        return self.folder / name.replace(":", "-")

    def names(self) -> list[str]:
        return sorted(p.name.replace("-", ":") for p in self.folder.iterdir())

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_dir()

    def save(self, name: str, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
        """Write a checkpoint whole: it appears under its name only when all its files are on disk."""
        size = sum(n_bytes(g) for g in groups.values())
        if len(self.names()) >= LIMIT:
            raise RunFailed(f"this run holds {LIMIT} checkpoints already; a strategy keeps fewer")
        if shutil.disk_usage(self.folder).free < 2 * size:
            raise RunFailed(f"no free disk: a checkpoint needs {size / 1e6:.0f} MB; make room and run the same command")
        partial = self.folder / (self.path(name).name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        sums = {}
        for group, tensors in groups.items():
            save_file({k: t.contiguous() for k, t in tensors.items()}, partial / f"{group}.safetensors")
            sums[group] = file_digest(partial / f"{group}.safetensors")
        (partial / "state.json").write_text(json.dumps({"sha256": sums, "state": state}), encoding="utf-8")
        partial.rename(self.path(name))
        self.peak = max(self.peak, len(self.names()))
        held = sum(n_bytes(g) for groups, _ in self._memory.values() for g in groups.values())
        if held + size <= MEMORY_BYTES:
            self._memory[name] = (groups, state)

    def load(self, name: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Groups and state of a checkpoint, from memory or from disk after its checksums held."""
        if name in self._memory:
            return self._memory[name]
        path = self.path(name)
        if not path.is_dir():
            raise RunFailed(
                f"checkpoint {name} was released: a train's checkpoints last until the next train; use lab.checkpoint()"
            )
        saved = json.loads((path / "state.json").read_text(encoding="utf-8"))
        for group, expected in saved["sha256"].items():
            if file_digest(path / f"{group}.safetensors") != expected:
                raise RunFailed(f"checkpoint {name}: {group}.safetensors is damaged (its checksum differs)")
        groups = {group: load_file(path / f"{group}.safetensors") for group in saved["sha256"]}
        return groups, saved["state"]

    def drop(self, name: str) -> None:
        self._memory.pop(name, None)
        shutil.rmtree(self.path(name), ignore_errors=True)
