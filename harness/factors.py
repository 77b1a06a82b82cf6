"""Per-example gradients of one parameter, seen as a matrix (p, q): kept as rows, or as the factors they are made of.

The gradient of a matrix by one document is a sum over its tokens, sum_t left_t right_t', of what entered its module and
what came back to its output. n examples with T tokens in all take T (p + q) numbers as factors and n p q as rows.
Products of factors need no rows: <i, j> = sum_{t in i, u in j} <left_t, left_u> <right_t, right_u>, the ghost product.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor

ELEMENTS = 2**24  # of a tensor that exists for a moment
TOKENS = 2**12  # taken together
SIDE = 32  # of a block of inner products


class Meter:
    """Counts the FLOPs of matrix products."""

    def __init__(self) -> None:
        self.flops = 0

    def product(self, *sizes: int) -> None:
        """A product of (..., a, b) by (..., b, c): 2 a b c each."""
        self.flops += 2 * int(np.prod([int(s) for s in sizes], dtype=object))


class Spans:
    """Where n examples' tokens lie in a flat table: example i's at starts[i] ... starts[i] + lengths[i] - 1."""

    def __init__(self, lengths: Any, starts: Any = None) -> None:
        self.lengths = np.asarray(lengths)
        self.starts = np.cumsum(self.lengths) - self.lengths if starts is None else np.asarray(starts)
        self.tokens = int(self.lengths.sum())

    @cached_property
    def flat(self) -> Tensor:
        """(T,) places of all tokens, example by example."""
        return torch.from_numpy(
            np.concatenate([np.arange(a, a + k) for a, k in zip(self.starts, self.lengths, strict=True)])
        )

    @cached_property
    def owner(self) -> Tensor:
        """(T,) the example of each."""
        return torch.from_numpy(np.repeat(np.arange(len(self.lengths)), self.lengths))

    @cached_property
    def batches(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Examples of similar length: their numbers (k,), the places of their tokens (k, w), and a mask (k, w, 1) of 0 and 1.

        A quarter of the places at most is padding.
        """
        found, group, real = [], list[int](), 0
        order = np.argsort(self.lengths, kind="stable").tolist()
        for i, following in zip(order, [*order[1:], None], strict=True):
            group.append(i)
            real += int(self.lengths[i])
            padded = 0 if following is None else (len(group) + 1) * int(self.lengths[following])
            if following is None or padded > TOKENS or 3 * padded > 4 * (real + int(self.lengths[following])):
                steps = np.arange(self.lengths[i])
                inside = steps < self.lengths[group][:, None]
                index = np.where(inside, self.starts[group][:, None] + steps, 0)
                found.append((torch.tensor(group), torch.from_numpy(index), torch.from_numpy(inside)[..., None]))
                group, real = [], 0
        return found

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of examples with at most TOKENS tokens, or one."""
        start = 0
        while start < len(self.lengths):
            stop = start + max(1, int(np.searchsorted(np.cumsum(self.lengths[start:]), TOKENS, side="right")))
            yield start, stop
            start = stop


def outer(
    left: Tensor, right: Tensor, spans: Spans, meter: Meter, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of examples, and their gradients (k, p q) on the device: left' right over each one's tokens."""
    for ids, index, mask in spans.batches:
        meter.product(*index.shape, left.shape[1], right.shape[1])
        # Beside a GPU one factor, or both, may lie in a file.
        a, b = (factor[index.to(factor.device)].to(device) for factor in (left, right))
        yield ids, ((a * mask.to(device)).mT @ b).flatten(1)


class Rows:
    """The gradients themselves, (n, p q)."""

    def __init__(self, rows: Tensor, p: int, q: int, device: torch.device) -> None:
        self.rows, self.p, self.q, self.device = rows, p, q, device

    def block(self, start: int, stop: int, meter: Meter) -> Tensor:
        """Rows start ... stop - 1 of each matrix, (n, (stop - start) q)."""
        return self.rows[:, start * self.q : stop * self.q].to(self.device)

    def squares(self, meter: Meter) -> Tensor:
        """(n,) squared lengths."""
        parts = [self.block(a, b, meter).square().sum(1) for a, b in cut(self.p, len(self.rows) * self.q)]
        return torch.stack(parts).sum(0)

    def sketch(self, r: Tensor, s: Tensor, meter: Meter) -> Tensor:
        """(n, D): r_k' G s_k for r (p, D) and s (q, D)."""
        n, rows = len(self.rows), self.rows.to(self.device).reshape(-1, self.q)
        meter.product(*rows.shape, r.shape[1])
        parts = cut(r.shape[1], len(rows))
        return torch.cat([((rows @ s[:, a:b]).view(n, self.p, -1) * r[:, a:b]).sum(1) for a, b in parts], 1)

    def mean(self, ids: Tensor, share: Tensor, meter: Meter) -> Tensor:
        """(p q,): the sum of these examples' gradients by their shares (k,)."""
        meter.product(len(ids), self.p, self.q)
        return (share[None] @ self.rows[ids.to(self.rows.device)].to(self.device))[0]


class Factors:
    """What the gradients are products of: left (T, p) and right (T, q)."""

    def __init__(self, left: Tensor, right: Tensor, spans: Spans, device: torch.device) -> None:
        self.left, self.right, self.spans, self.device = left, right, spans, device
        self.p, self.q = left.shape[1], right.shape[1]

    def block(self, start: int, stop: int, meter: Meter) -> Tensor:
        """Rows start ... stop - 1 of each matrix, (n, (stop - start) q)."""
        out = torch.empty(len(self.spans.lengths), (stop - start) * self.q, device=self.device)
        for ids, rows in outer(self.left[:, start:stop], self.right, self.spans, meter, self.device):
            out[ids.to(self.device)] = rows
        return out

    def squares(self, meter: Meter) -> Tensor:
        """(n,) squared lengths."""
        out = torch.empty(len(self.spans.lengths), device=self.device)
        for ids, index, mask in self.spans.batches:
            a, b = self.left[index].to(self.device) * mask.to(self.device), self.right[index].to(self.device)
            meter.product(*index.shape, index.shape[1], self.p + self.q)
            out[ids.to(self.device)] = ((a @ a.mT) * (b @ b.mT)).sum((1, 2))
        return out

    def sketch(self, r: Tensor, s: Tensor, meter: Meter) -> Tensor:
        """(n, D): r_k' G s_k for r (p, D) and s (q, D)."""
        out = torch.zeros(len(self.spans.lengths), r.shape[1], device=self.device)
        meter.product(self.spans.tokens, r.shape[1], self.p + self.q)
        for a, b in cut(self.spans.tokens, r.shape[1]):
            part = (self.left[a:b].to(self.device) @ r) * (self.right[a:b].to(self.device) @ s)
            out.index_add_(0, self.spans.owner[a:b].to(self.device), part)
        return out

    def mean(self, ids: Tensor, share: Tensor, meter: Meter) -> Tensor:
        """(p q,): the sum of these examples' gradients by their shares (k,)."""
        weight = torch.zeros(len(self.spans.lengths), device=self.device)
        weight[ids.to(self.device)] = share
        weight = weight[self.spans.owner.to(self.device)][:, None]
        (mine,) = torch.nonzero(weight[:, 0].cpu(), as_tuple=True)
        meter.product(len(mine), self.p, self.q)
        left = self.left[mine].to(self.device) * weight[mine.to(self.device)]
        return (left.mT @ self.right[mine].to(self.device)).flatten()


Part = Rows | Factors


def products(ours: Part, theirs: Part, meter: Meter) -> Tensor:
    """(n, m) inner products in float64: the ghost product where it is less work, else by blocks of rows."""
    p, q = ours.p, ours.q
    if isinstance(ours, Factors) and isinstance(theirs, Factors):
        t, u, n, m = ours.spans.tokens, theirs.spans.tokens, len(ours.spans.lengths), len(theirs.spans.lengths)
        if t * u * (p + q) < (t + u) * p * q + n * m * p * q:
            return _ghost(ours, theirs, meter)
    n, same = _examples(ours), theirs is ours
    found = torch.zeros(n, _examples(theirs), dtype=torch.float64, device=ours.device)
    for a, b in cut(p, q * (n + _examples(theirs))):
        x = ours.block(a, b, meter)
        y = x if same else theirs.block(a, b, meter)
        for start in range(0, n, SIDE if same else n):  # with each other: the lower half, in columns of blocks
            columns = slice(start, start + SIDE) if same else slice(None)
            meter.product(n - start, x.shape[1], len(y[columns]))
            found[start:, columns] += x[start:] @ y[columns].T
    return found.tril() + found.tril(-1).T if same else found


def _examples(part: Part) -> int:
    return len(part.rows if isinstance(part, Rows) else part.spans.lengths)


def _ghost(ours: Factors, theirs: Factors, meter: Meter) -> Tensor:
    device = ours.device
    found = torch.zeros(_examples(ours), _examples(theirs), dtype=torch.float64, device=device)
    for i, i_end in ours.spans.blocks():
        a, b, rows = _tokens(ours, i, i_end)
        for j, j_end in theirs.spans.blocks():
            if theirs is ours and j < i:
                found[i:i_end, j:j_end] = found[j:j_end, i:i_end].T
                continue
            x, y, columns = _tokens(theirs, j, j_end)
            meter.product(len(a), len(x), ours.p + ours.q)
            both = (a @ x.T) * (b @ y.T)
            half = torch.zeros(i_end - i, len(x), device=device).index_add_(0, rows, both)
            part = torch.zeros(i_end - i, j_end - j, device=device).index_add_(1, columns, half)
            found[i:i_end, j:j_end] = part.double()
    return found


def _tokens(part: Factors, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of these examples' tokens, and each token's example counted from `start`."""
    spans = part.spans
    where = slice(int(spans.starts[start]), int(spans.starts[stop - 1] + spans.lengths[stop - 1]))
    owner = (spans.owner[where] - start).to(part.device)
    return part.left[where].to(part.device), part.right[where].to(part.device), owner


def cut(length: int, width: int) -> list[tuple[int, int]]:
    """0 ... length in ranges of about ELEMENTS / width."""
    step = max(1, ELEMENTS // max(1, width))
    return list(pairwise([*range(0, length, step), length]))


def signs(shape: tuple[int, int], *names: Any) -> Tensor:
    """Random signs that depend on these names only."""
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).float() * 2 - 1


class Store:
    """Room for numbers: on the device, and from `limit` bytes on in temporary files."""

    def __init__(self, device: torch.device, limit: int) -> None:
        self.device, self.left = device, limit

    def room(self, *shape: int) -> Tensor:
        """An uninitialised float32 tensor."""
        self.left -= 4 * int(np.prod(shape, dtype=object))
        if self.left >= 0:
            return torch.empty(shape, device=self.device)
        with tempfile.TemporaryFile() as file:
            return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=shape))
