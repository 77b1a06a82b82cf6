"""Looks through the model without a gradient: log-probabilities of the gold tokens, and distributions over tokens.

Each rank looks at its share of the items; None stands for what is another rank's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from harness.data import Item
from harness.engine import LOGIT_ROWS, Engine
from harness.errors import RunFailed
from harness.values import Array, Distribution


@torch.no_grad()
def _logp(engine: Engine, items: Sequence[Item]) -> Iterator[tuple[Array, torch.Tensor, torch.Tensor, int]]:
    """Chunks of (item of each token, gold ids, log-probabilities (C, V) in fp32, hardware FLOPs of a new pack).

    The tokens of one item come in their order.
    """
    model, head = engine.whole, engine.lm.get_output_embeddings()
    for pack in engine.share(items):
        hardware = engine.arch.padded_forward(*pack.shape, len(pack.targets), pack.pairs)
        owner = np.array(pack.items)[pack.owner.cpu().numpy()]
        with engine.accelerator.autocast():
            hidden = model.hidden(pack)
        for start in range(0, len(hidden), LOGIT_ROWS):
            part = slice(start, start + LOGIT_ROWS)
            with engine.accelerator.autocast():
                scores = head(hidden[part])
            yield owner[part], pack.targets[part], scores.float().log_softmax(-1), hardware
            hardware = 0


class _Rows:
    """Per-item arrays filled from chunks of tokens that come in order within an item."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.parts: list[list[Array]] = [[] for _ in items]

    def add(self, owner: Array, values: torch.Tensor) -> None:
        cuts = np.flatnonzero(np.diff(owner)) + 1
        starts = [0, *cuts.tolist()]
        for start, part in zip(starts, np.split(values.cpu().numpy(), cuts), strict=True):
            self.parts[owner[start]].append(part)

    def arrays(self) -> list[Array | None]:
        """None for an item that is another rank's."""
        return [np.concatenate(parts) if parts else None for parts in self.parts]


def logprobs(engine: Engine, items: Sequence[Item]) -> tuple[list[Array | None], int]:
    """Log-probability of each supervised token, (S_i,) fp32 by item; second: the hardware FLOPs."""
    rows, hardware = _Rows(items), 0
    for owner, gold, logp, cost in _logp(engine, items):
        rows.add(owner, logp.gather(1, gold[:, None])[:, 0])
        hardware += cost
    return rows.arrays(), hardware


def distributions(
    engine: Engine, items: Sequence[Item], top_k: int = 64, support: Sequence[Array] | None = None
) -> tuple[list[Distribution | None], int]:
    """The `top_k` most likely tokens at each supervised token, or exactly those of `support` ((S_i, k) ids by item)."""
    vocabulary = int(engine.lm.get_output_embeddings().weight.shape[0])
    wanted = None if support is None else _support(items, support, vocabulary)
    ids, values, tails, hardware = _Rows(items), _Rows(items), _Rows(items), 0
    at = [0] * len(items)
    for owner, _, logp, cost in _logp(engine, items):
        if wanted is None:
            columns = logp.topk(min(top_k, vocabulary), dim=-1).indices
        else:
            rows = []
            for i in owner.tolist():
                rows.append(wanted[i][at[i]])
                at[i] += 1
            columns = torch.from_numpy(np.stack(rows)).to(logp.device)
        ids.add(owner, columns)
        values.add(owner, logp.gather(1, columns))
        tails.add(owner, logp.scatter(1, columns, -torch.inf).exp().sum(-1))
        hardware += cost
    three = zip(ids.arrays(), values.arrays(), tails.arrays(), strict=True)
    mine = [Distribution(i, v, t) if i is not None and v is not None and t is not None else None for i, v, t in three]
    return mine, hardware


def _support(items: Sequence[Item], support: Sequence[Array], vocabulary: int) -> list[Array]:
    """Checked token ids by item, all of one k."""
    found = [np.asarray(s) for s in support]
    if len(found) != len(items):
        raise RunFailed(f"distributions: support has {len(found)} arrays for {len(items)} examples")
    k = found[0].shape[-1] if found and found[0].ndim == 2 else 0
    for item, s in zip(items, found, strict=True):
        if s.shape != (item.supervised, k) or k < 1 or not np.issubdtype(s.dtype, np.integer):
            raise RunFailed(f"distributions: support of {item.id} must be integers of shape ({item.supervised}, k)")
        if s.min() < 0 or s.max() >= vocabulary:
            raise RunFailed(f"distributions: support of {item.id} names a token outside 0..{vocabulary - 1}")
    return [s.astype(np.int64) for s in found]
