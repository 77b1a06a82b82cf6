"""Packing: documents of different lengths into rows under a block-causal mask, rows into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from harness.data import Item

ROW = 128  # tokens of a packed row, unless a document is longer


@dataclass(frozen=True)
class Pack:
    """One micro-batch. ids, positions: (R, C); mask: (R, 1, C, C) bool; gather: (S,) flat positions that predict
    `targets` (S,); owner: (S,) index of the item within the micro-batch's `items`.

    Laid flat, R = 1 and nothing is padded: `starts` (D + 1,) int32 are the documents' bounds, `longest` the tokens of the
    longest, and the mask is (1, 1, 1, 1), which nobody reads. `pairs`: (query, key) pairs that attention multiplies.
    """

    items: tuple[int, ...]
    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    gather: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    pairs: int = 0
    starts: torch.Tensor | None = None
    longest: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        return self.ids.shape[0], self.ids.shape[1]

    def to(self, device: torch.device) -> Pack:
        """The same micro-batch on another device."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            # From pinned memory the copies run beside what is made next.
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        ids, positions, mask, gather = move(self.ids), move(self.positions), move(self.mask), move(self.gather)
        starts = None if self.starts is None else move(self.starts)
        return replace(
            self,
            ids=ids,
            positions=positions,
            mask=mask,
            gather=gather,
            targets=move(self.targets),
            owner=move(self.owner),
            starts=starts,
        )


def plan_rows(lengths: Sequence[int], width: int = ROW) -> list[list[int]]:
    """Rows of item indices whose lengths sum to at most max(width, longest), as evenly filled as first-fit finds.

    As many rows as the widest would need at least; among their widths the narrowest of a few that suffices.
    """
    widest = max(width, *lengths)
    rows = math.ceil(sum(lengths) / widest)
    even = max(math.ceil(sum(lengths) / rows), *lengths)
    for slack in (0, 1, 2, 4, 8, 16):
        if even + slack < widest and len(fitted := _first_fit(lengths, even + slack)) <= rows:
            return fitted
    return _first_fit(lengths, widest)


def _first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """First-fit decreasing into rows of `width`."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for r, free in enumerate(room):
            if lengths[i] <= free:
                rows[r].append(i)
                room[r] -= lengths[i]
                break
        else:
            rows.append([i])
            room.append(width - lengths[i])
    return rows


def packs(items: Sequence[Item], micro_tokens: int, pad: int, flat: bool = False) -> Iterator[Pack]:
    """Micro-batches of packed rows; a row never splits a document, padding sits at the end of rows.

    `flat`: each micro-batch is one row without padding, for attention that knows where documents begin.
    """
    if flat:
        for row in plan_rows([item.tokens for item in items], micro_tokens) if items else []:
            yield _flat(items, row)
        return
    rows = plan_rows([item.tokens for item in items]) if items else []
    fills = [sum(items[i].tokens for i in row) for row in rows]
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop + 1 - start) * max(fills[start : stop + 1]) <= micro_tokens:
            stop += 1
        yield _pack(items, rows[start:stop], max(fills[start:stop]), pad)
        start = stop


def _pack(items: Sequence[Item], rows: list[list[int]], width: int, pad: int) -> Pack:
    shape, pairs = (len(rows), width), len(rows) * width**2
    ids, positions = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    document = torch.full(shape, -1)
    gather, targets, owner = [], [], []
    members: list[int] = []
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            item, n = items[i], items[i].tokens
            ids[r, at : at + n] = torch.tensor(item.ids[:-1])
            positions[r, at : at + n] = torch.arange(n)
            document[r, at : at + n] = len(members)
            first = r * width + at + n - item.supervised
            gather.append(torch.arange(first, first + item.supervised))
            targets.append(torch.tensor(item.ids[-item.supervised :]))
            owner.append(torch.full((item.supervised,), len(members)))
            members.append(i)
            at += n
    same = document[:, :, None] == document[:, None, :]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    # Padding attends to earlier padding and itself (document -1), so that no row of the softmax is empty.
    mask = (same & causal)[:, None]
    return Pack(tuple(members), ids, positions, mask, torch.cat(gather), torch.cat(targets), torch.cat(owner), pairs)


def _flat(items: Sequence[Item], row: list[int]) -> Pack:
    lengths = [items[i].tokens for i in row]
    ends = torch.tensor(lengths).cumsum(0)
    supervised = [items[i].supervised for i in row]
    gather = [torch.arange(end - s, end) for end, s in zip(ends.tolist(), supervised, strict=True)]
    return Pack(
        tuple(row),
        torch.tensor([[token for i in row for token in items[i].ids[:-1]]]),
        torch.cat([torch.arange(n) for n in lengths])[None],
        torch.ones(1, 1, 1, 1, dtype=torch.bool),
        torch.cat(gather),
        torch.tensor([token for i in row for token in items[i].ids[-items[i].supervised :]]),
        torch.repeat_interleave(torch.arange(len(row)), torch.tensor(supervised)),
        sum(n * n for n in lengths),
        torch.cat([torch.zeros(1, dtype=torch.long), ends]).to(torch.int32),
        max(lengths),
    )


def by_owner(values: torch.Tensor, owner: torch.Tensor, n: int) -> torch.Tensor:
    """Sums of per-token values (S,) by the item that owns them, of the n of a micro-batch, in float64 on the host."""
    sums = torch.zeros(n, dtype=torch.float64)
    return sums.index_add_(0, owner.cpu(), values.double().cpu())
