"""Checkpoints of one run: copies in host memory, and safetensors on disk with checksums once a snapshot refers to them.

Going back costs a copy, not a read, and what a training drops again before the next snapshot never reaches the disk: a
crash before then goes back to the snapshot before, which did not know it. What host memory has no room for is written at
once. Names are those of weights (`base` is the model's own folder and never stored; `verb:step` otherwise).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness import ranks
from harness.errors import RunFailed
from harness.paths import digest, file_digest, write_atomic

Tensors = dict[str, torch.Tensor]
MEMORY_BYTES = 4 * 2**30  # of copies in host memory; more where a quarter of what is free is more
ENGINE = ("model", "optimizer")  # groups of the engine's own tensors
LIMIT = 64  # checkpoints of one run on disk at a time


def intact(path: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest if all its files are as they were written, else None."""
    try:
        saved: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        same = all(file_digest(path / f"{g}.safetensors") == sha for g, sha in saved["sha256"].items())
        return saved if same and digest(saved["state"]) == saved["state_sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def folder_name(name: str) -> str:
    """`3:12` as a folder's name."""
    return name.replace(":", "-")


def n_bytes(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def held_bytes(tensors: Tensors) -> int:
    """What they take of host memory: torch makes each pinned block a power of two bytes large."""
    sizes = ((t.numel() * t.element_size(), t.is_pinned()) for t in tensors.values())
    return sum(1 << (n - 1).bit_length() if pinned and n else n for n, pinned in sizes)


def host_bytes() -> int:
    """Room for copies of one run's checkpoints in host memory."""
    return max(MEMORY_BYTES, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


def host_copy(tensors: Iterable[tuple[str, torch.Tensor]], wait: bool = True) -> Tensors:
    """Copies in host memory by name. From a GPU all go at once into pinned memory: five times faster, there and back.

    They are of this moment in any case: what the GPU is asked to do next comes after them on its stream. Without `wait`
    they may still be on their way, and whoever reads them calls `arrived` first.
    """
    found = {}
    for name, tensor in tensors:
        room = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        found[name] = room.copy_(tensor.detach(), non_blocking=True)
    if wait:
        arrived()
    return found


def arrived() -> None:
    """Wait until the copies that were asked for lie in host memory."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # it is not where HARNESS_DEVICE=cpu leaves a GPU alone
        torch.cuda.synchronize()


def light(groups: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """What ranks without files get of a checkpoint or snapshot: all groups, those of the engine empty."""
    return {name: {} if name.partition(".")[0] in ENGINE else tensors for name, tensors in groups.items()}


class Store:
    """A folder of checkpoints. Each holds named groups of tensors (`model`, `optimizer`) and a JSON state.

    Rank 0 has the folder. The stores of the other ranks know which checkpoints there are; what is in one comes from rank 0
    when it is loaded, but for the engine's tensors, which stay there.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder = folder
        self.peak, self.room = 0, host_bytes()
        self._memory: dict[str, tuple[dict[str, Tensors], dict[str, Any]]] = {}
        self._unwritten: set[str] = set()  # in memory alone
        # What a snapshot refers to stays on disk until a later snapshot no longer does.
        self._durable: set[str] = set()
        self._garbage: set[str] = set()
        self._elsewhere: set[str] = set()  # what rank 0 has, on another rank
        if not ranks.main():
            return
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self.folder / folder_name(name)

    def names(self) -> list[str]:
        """Checkpoints that can be gone back to."""
        return sorted(self._found() - self._garbage)

    def _found(self) -> set[str]:
        if not ranks.main():
            return set(self._elsewhere)
        there = {p.name.replace("-", ":") for p in self.folder.iterdir() if not p.name.endswith(".partial")}
        return there | self._unwritten

    def _remove(self, name: str) -> None:
        if ranks.main():
            shutil.rmtree(self.path(name), ignore_errors=True)
        self._elsewhere.discard(name)

    def __contains__(self, name: str) -> bool:
        there = name in self._unwritten or self.path(name).is_dir() if ranks.main() else name in self._elsewhere
        return there and name not in self._garbage

    def holds(self, name: str, group: str) -> bool:
        """Whether a checkpoint that is there has this group of tensors."""
        return ranks.first(ranks.main() and self._holds(name, group))

    def _holds(self, name: str, group: str) -> bool:
        kept = self._memory.get(name)
        return group in kept[0] if kept else (self.path(name) / f"{group}.safetensors").is_file()

    def flush(self) -> None:
        """Before a snapshot that refers to them: what is in memory alone is written."""
        for name in sorted(self._unwritten):
            self._write(name, *self._memory[name])
            self._unwritten.discard(name)

    def settle(self) -> None:
        """A snapshot has been written: what it does not refer to may go."""
        for name in self._garbage:
            self._remove(name)
        self._garbage = set()
        self._durable = set(self.names())

    def resume(self, live: set[str]) -> None:
        """After a crash: exactly what the snapshot refers to is there, anything newer is made again."""
        self._elsewhere = set() if ranks.main() else set(live)
        for name in self.names():
            if name not in live:
                self._remove(name)
        self._durable = set(live)

    def save(self, name: str, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
        """Keep a checkpoint, in memory if there is room. Raises RunFailed beyond `LIMIT` and where the disk is full.

        Its tensors may still be on their way off a GPU (`host_copy`): nothing is read here but sizes.
        """
        if name not in self and len(self.names()) >= LIMIT:
            raise RunFailed(f"this run holds {LIMIT} checkpoints already; a strategy keeps fewer")
        self._garbage.discard(name)  # what an older snapshot knows by this name stays until this is written over it
        if not ranks.main():
            self._elsewhere.add(name)
            self.peak = max(self.peak, len(self.names()))
            return
        size = sum(held_bytes(g) for g in groups.values())
        held = sum(held_bytes(g) for kept, _ in self._memory.values() for g in kept.values())
        if held + size <= self.room:
            self._memory[name] = (groups, state)
            self._unwritten.add(name)
        else:
            self._write(name, groups, state)
        self.peak = max(self.peak, len(self.names()))

    def _write(self, name: str, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
        """Write a checkpoint whole: it appears under its name only when all its files are on disk."""
        size = sum(n_bytes(g) for g in groups.values())
        if shutil.disk_usage(self.folder).free < 2 * size:
            raise RunFailed(f"no free disk: a checkpoint needs {size / 1e6:.0f} MB; make room and run the same command")
        partial = self.folder / (self.path(name).name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        arrived()
        sums = {}
        for group, tensors in groups.items():
            save_file({k: t.contiguous() for k, t in tensors.items()}, partial / f"{group}.safetensors")
            sums[group] = file_digest(partial / f"{group}.safetensors")
        manifest = {"sha256": sums, "state": state, "state_sha256": digest(state)}
        write_atomic(partial / "state.json", json.dumps(manifest))
        shutil.rmtree(self.path(name), ignore_errors=True)
        partial.rename(self.path(name))

    def load(self, name: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Groups and state of a checkpoint, from memory or from disk after its checksums held; on rank 0 all of it."""
        if not ranks.main():
            return ranks.first(({}, {}))
        groups, state = self._load(name)
        ranks.first((light(groups), state))
        return groups, state

    def _load(self, name: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
        if name in self._memory:
            arrived()
            return self._memory[name]
        path = self.path(name)
        if not path.is_dir():
            raise RunFailed(
                f"checkpoint {name} was released: a train's checkpoints last until the next train; use lab.checkpoint()"
            )
        saved = intact(path)
        if saved is None:
            raise RunFailed(f"checkpoint {name} is damaged (a checksum differs); run the same command again")
        groups = {group: load_file(path / f"{group}.safetensors") for group in saved["sha256"]}
        return groups, saved["state"]

    def drop(self, name: str) -> None:
        self._memory.pop(name, None)
        self._unwritten.discard(name)
        if name in self._durable:
            self._garbage.add(name)
        else:
            self._remove(name)
