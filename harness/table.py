"""Per-example columns and named arrays: what a method remembers, checkpointed and rolled back with the weights.

A column is float32, one number a training example, NaN where nobody wrote; the lab itself keeps `nll` (mean token NLL at
the last visit) and `visits`. A million examples with five columns of a strategy's own take 28 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from harness.errors import HarnessError

Array = np.ndarray[Any, Any]
KEPT = ("nll", "visits")
STATE_BYTES = 64_000_000


class Columns:
    """The table of one lab. Rows are training examples: tasks by name, each in its source's order."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.offset: dict[str, int] = {}
        at = 0
        for task in sorted(sizes):
            self.offset[task] = at
            at += sizes[task]
        self.sizes, self.length = dict(sizes), at
        self.columns: dict[str, Array] = {}
        self.clear()

    def clear(self) -> None:
        self.columns = {
            "nll": np.full(self.length, np.nan, np.float32),
            "visits": np.zeros(self.length, np.float32),
        }

    def row(self, id_: str) -> int:
        task, _, index = id_.rpartition("/")
        if task not in self.offset or not index.isdecimal() or int(index) >= self.sizes[task]:
            raise HarnessError(f"{id_!r} is not a training example; the table has no row for it")
        return self.offset[task] + int(index)

    def rows(self, ids: Sequence[str]) -> Array:
        return np.array([self.row(i) for i in ids], dtype=np.int64)

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Names of rows."""
        tasks = sorted(self.offset)
        starts = np.array([self.offset[t] for t in tasks])
        where = np.searchsorted(starts, np.asarray(rows, dtype=np.int64), side="right") - 1
        return [f"{tasks[k]}/{int(r) - int(starts[k])}" for r, k in zip(rows, where, strict=True)]

    def read(self, column: str, rows: Array) -> Array:
        """(n,) float32; NaN where nobody wrote."""
        if column not in self.columns:
            return np.full(len(rows), np.nan, np.float32)
        return self.columns[column][rows]

    def write(self, column: str, rows: Array, values: Any) -> None:
        """Set a column of one's own at these rows; a row that is named twice keeps the last value."""
        if column in KEPT:
            raise HarnessError(f"column {column!r} is kept by the lab; write one of your own")
        found = np.asarray(values, dtype=np.float32)
        if found.shape not in ((), rows.shape):
            raise HarnessError(f"column {column!r}: values of shape {found.shape} for {len(rows)} examples")
        if column not in self.columns:
            self.columns[column] = np.full(self.length, np.nan, np.float32)
        self.columns[column][rows] = found

    def visit(self, ids: Sequence[str], nll: Sequence[float]) -> None:
        """A training step saw these examples with these mean losses."""
        rows = self.rows(ids)
        self.columns["nll"][rows] = np.asarray(nll, np.float32)
        np.add.at(self.columns["visits"], rows, 1.0)

    def of(self, tasks: Sequence[str]) -> Array:
        """All rows of these tasks."""
        parts = [np.arange(self.offset[t], self.offset[t] + self.sizes[t]) for t in sorted(tasks)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def top(self, column: str, k: int, rows: Array, smallest: bool) -> Array:
        """The k rows with the largest values; ties by row, NaN never."""
        values = self.read(column, rows).astype(np.float64)
        rows, values = rows[~np.isnan(values)], values[~np.isnan(values)]
        order = np.lexsort((rows, values if smallest else -values))
        found: Array = rows[order[:k]]
        return found

    def where(self, column: str, above: float, below: float, rows: Array) -> Array:
        """The rows with above < value < below, in order; NaN never."""
        values = self.read(column, rows)
        found: Array = rows[(values > above) & (values < below)]
        return found

    def tensors(self) -> dict[str, Array]:
        """A copy, for checkpoints and snapshots."""
        return {name: values.copy() for name, values in self.columns.items()}

    def load(self, saved: Mapping[str, Array]) -> None:
        self.columns = {name: np.array(values, np.float32) for name, values in saved.items()}


class Rows(MutableMapping[str, Array]):
    """Columns at the examples of one batch: `rows["ema"]` is a copy (n,), `rows["ema"] = values` writes."""

    def __init__(self, columns: Columns, ids: Sequence[str]) -> None:
        self._columns, self._rows = columns, columns.rows(ids)

    def __getitem__(self, column: str) -> Array:
        return self._columns.read(column, self._rows)

    def __setitem__(self, column: str, values: Any) -> None:
        self._columns.write(column, self._rows, values)

    def __delitem__(self, column: str) -> None:
        raise HarnessError("a column is not deleted; write NaN")

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.columns)

    def __len__(self) -> int:
        return len(self._columns.columns)

    def __contains__(self, column: object) -> bool:
        return column in self._columns.columns


class State(MutableMapping[str, Array]):
    """Named arrays of a method, such as a running mean or a vector of task weights. Bounded in bytes."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __setitem__(self, name: str, value: Any) -> None:
        array = np.array(value)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise HarnessError(f"state {name!r}: expected numbers, found {type(value).__name__}")
        held = sum(a.nbytes for key, a in self.arrays.items() if key != name)
        if held + array.nbytes > STATE_BYTES:
            raise HarnessError(f"state {name!r}: more than {STATE_BYTES:,} bytes in all")
        self.arrays[name] = array.astype(array.dtype.newbyteorder("="))

    def __delitem__(self, name: str) -> None:
        del self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def tensors(self) -> dict[str, Array]:
        return {name: np.array(value) for name, value in self.arrays.items()}

    def load(self, saved: Mapping[str, Array]) -> None:
        self.arrays = {name: np.array(value) for name, value in saved.items()}
