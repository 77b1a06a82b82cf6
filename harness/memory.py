"""`lab.examples` and `lab.state` as a strategy's `run` sees them: reads are journalled, writes are verbs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.api import Example, HarnessError
from harness.codec import arrays_from_json, arrays_to_json
from harness.paths import digest
from harness.table import Array

if TYPE_CHECKING:
    from harness.mixtures import Mixtures


class ExampleTable:
    """`harness.api.Table` over a lab's columns."""

    def __init__(self, lab: Mixtures) -> None:
        self._lab = lab

    def get(self, column: str, examples: Sequence[Example]) -> Array:
        table, ids = self._lab._core.table, [e.id for e in examples]
        rows = table.rows(ids)
        return self._lab._verb(
            "examples.get",
            [column, digest(ids)],
            lambda: table.read(column, rows).copy(),
            lambda found: arrays_to_json([found]),
            lambda raw: arrays_from_json(raw)[0],
        )

    def set(self, column: str, examples: Sequence[Example], values: Any) -> None:
        table, ids = self._lab._core.table, [e.id for e in examples]
        rows, found = table.rows(ids), np.asarray(values, np.float32)
        args = [column, digest(ids), digest(found.tobytes().hex())]
        self._lab._write("examples.set", args, lambda: table.write(column, rows, found))

    def top(self, column: str, k: int, *, tasks: Iterable[str] | None = None, smallest: bool = False) -> list[Example]:
        if k < 0:
            raise HarnessError(f"examples.top: k is {k}, expected at least 0")
        lab, names = self._lab, self._tasks(tasks)
        table = lab._core.table
        args = [column, k, names, smallest]
        return lab._examples(
            "examples.top", args, lambda: table.ids(table.top(column, k, table.of(names), smallest).tolist())
        )

    def where(
        self, column: str, *, above: float = -math.inf, below: float = math.inf, tasks: Iterable[str] | None = None
    ) -> list[Example]:
        lab, names = self._lab, self._tasks(tasks)
        table = lab._core.table
        args = [column, str(float(above)), str(float(below)), names]
        return lab._examples(
            "examples.where", args, lambda: table.ids(table.where(column, above, below, table.of(names)).tolist())
        )

    def _tasks(self, tasks: Iterable[str] | None) -> list[str]:
        names = sorted(self._lab._core.info if tasks is None else tasks)
        self._lab._known(names)
        return names


class LabState(MutableMapping[str, Array]):
    """Named arrays; what comes out is a copy, so a change has to be put back."""

    def __init__(self, lab: Mixtures) -> None:
        self._lab = lab

    def __getitem__(self, name: str) -> Array:
        memory = self._lab._core.memory
        found = self._lab._verb(
            "state.get",
            [name],
            lambda: [memory[name].copy()] if name in memory else [],
            arrays_to_json,
            arrays_from_json,
        )
        if not found:
            raise KeyError(name)
        return found[0]

    def __setitem__(self, name: str, value: Any) -> None:
        array, memory = np.array(value), self._lab._core.memory
        args = [name, array.dtype.str, list(array.shape), digest(array.tobytes().hex())]
        self._lab._write("state.set", args, lambda: memory.__setitem__(name, array))

    def __delitem__(self, name: str) -> None:
        memory = self._lab._core.memory
        self._lab._write("state.delete", [name], lambda: memory.__delitem__(name))

    def _names(self) -> list[str]:
        return self._lab._verb("state.names", [], lambda: sorted(self._lab._core.memory), lambda r: r, lambda r: r)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())
