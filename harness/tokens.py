"""What a strategy's callbacks see of a training step: supervised tokens (`objective`), the batch (`example_weights`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.data import Item
from harness.errors import RunFailed
from harness.ports import Scope
from harness.table import Rows

References = Mapping[Any, Sequence[np.ndarray[Any, Any]]]


class Frame:
    """What all micro-batches of one step share: the effective batch, references, learning rate, progress, the table."""

    def __init__(
        self,
        items: Sequence[Item],
        references: References | None,
        lr: float,
        progress: float,
        scope: Scope | None = None,
    ) -> None:
        self.ids = tuple(item.id for item in items)
        self.names = tuple(item.task for item in items)
        self.supervised = tuple(item.supervised for item in items)
        self.tasks = tuple(sorted(set(self.names)))
        # Read now: what this step's callbacks write is not seen by its objective.
        rows = Rows(scope.table, self.ids) if scope else {}
        self._columns: dict[str, np.ndarray[Any, Any]] = {name: rows[name] for name in rows}
        self.codes = [self.tasks.index(name) for name in self.names]
        self.references, self.lr, self.progress, self.scope = references or {}, lr, progress, scope
        # Asked for once a step, however often the step is begun again: the callback may have written to the table.
        self.weights: torch.Tensor | None = None
        self.hardware = 0  # FLOPs of the pass that they came from, if it was one of its own

    def reference(self, name: Any, members: Sequence[int]) -> np.ndarray[Any, Any]:
        """The arrays of a reference for these items, joined; raises RunFailed if they do not fit the batch."""
        if name not in self.references:
            raise RunFailed(f"objective: no reference {str(name)!r} was given; train(references=[...]) names them")
        rows = self.references[name]
        if len(rows) != len(self.ids):
            raise RunFailed(f"reference {str(name)!r} has {len(rows)} arrays for {len(self.ids)} examples")
        for i in members:
            if len(rows[i]) != self.supervised[i]:
                raise RunFailed(
                    f"reference {str(name)!r} of example {self.ids[i]}: {len(rows[i])} values, not per token"
                )
        return np.concatenate([np.asarray(rows[i], dtype=np.float32) for i in members])

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """A column of the table (n,) as it was before this step; NaN where nobody wrote."""
        return self._columns.get(name, np.full(len(self.ids), np.nan, np.float32))


class Tokens:
    """The S supervised tokens of a micro-batch, each with its example and task. An objective returns a loss (S,).

    An objective is pointwise: a token's loss depends on that token (and its example), not on which others are here,
    because how an effective batch falls into micro-batches is the engine's affair.
    """

    def __init__(
        self,
        scores: torch.Tensor,
        targets: torch.Tensor,
        owner: torch.Tensor,
        members: Sequence[int],
        frame: Frame,
        others: Mapping[Any, torch.Tensor] | None = None,
        nll: torch.Tensor | None = None,
    ) -> None:
        self._scores, self._targets, self._members, self._frame = scores, targets, tuple(members), frame
        self._others = others or {}
        # Given where the plain loss was taken in parts: then there are no scores, and nobody who asks for them.
        self.nll = nn.functional.cross_entropy(scores.float(), targets, reduction="none") if nll is None else nll
        self._owner = owner
        self.ids, self.tasks, self.lr, self.progress = frame.ids, frame.tasks, frame.lr, frame.progress

    def __len__(self) -> int:
        return len(self._targets)

    @cached_property
    def example(self) -> torch.Tensor:
        """Index into `ids` (S,)."""
        return torch.tensor(self._members, device=self._owner.device)[self._owner]

    @property
    def logp(self) -> torch.Tensor:
        """Log-probability of the gold token (S,), differentiable."""
        return -self.nll

    @cached_property
    def p(self) -> torch.Tensor:
        """Probability of the gold token (S,), detached."""
        return self.nll.detach().neg().exp()

    @property
    def targets(self) -> torch.Tensor:
        """Ids of the gold tokens (S,)."""
        return self._targets

    @cached_property
    def logits(self) -> torch.Tensor:
        """Logits (S, V), fp32, differentiable."""
        return self._scores.float()

    @cached_property
    def task(self) -> torch.Tensor:
        """Index into `tasks` (S,)."""
        return torch.tensor(self._frame.codes, device=self._targets.device)[self.example]

    def entropy(self, top_k: int | None = None) -> torch.Tensor:
        """Entropy (S,) in nats, differentiable; with `top_k`, of the k most likely tokens renormalised."""
        scores = self._scores  # no fp32 copy of all logits for the sake of a few
        logits = self.logits if top_k is None else scores.topk(min(top_k, scores.shape[-1]), dim=-1).values.float()
        logp = logits.log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)

    def reference(self, name: Any) -> torch.Tensor:
        """Log-probabilities of the gold tokens (S,) under a checkpoint of `train(references=...)`, detached."""
        return torch.from_numpy(self._frame.reference(name, self._members)).to(self._targets.device)

    def reference_logits(self, name: Any) -> torch.Tensor:
        """Logits (S, V), fp32, under a checkpoint of `train(reference_logits=...)`, detached."""
        if name not in self._others:
            raise RunFailed(f"objective: no logits of {str(name)!r}; train(reference_logits=[...]) names them")
        return self._others[name].float()

    def column(self, name: str) -> torch.Tensor:
        """A column of `lab.examples` at each token's example (S,), detached; what this step writes is not seen."""
        values = torch.from_numpy(self._frame.column(name))
        return values.to(self._targets.device)[self.example]


@dataclass(frozen=True)
class Batch:
    """Statistics of a whole effective batch of n examples: mean token NLL and supervised tokens of each.

    `table["name"]` reads and writes columns of `lab.examples` at these examples, `state` is `lab.state`; `rng` is keyed by
    seed, verb and step. What a callback must remember lives there and nowhere else.
    """

    ids: tuple[str, ...]
    task: tuple[str, ...]
    nll: np.ndarray[Any, np.dtype[np.float64]]
    tokens: np.ndarray[Any, np.dtype[np.int64]]
    table: Any = None
    state: Any = None
    rng: Any = None
    lr: float = math.nan
    progress: float = math.nan

    def __len__(self) -> int:
        return len(self.ids)


Objective = Callable[[Tokens], torch.Tensor]
ExampleWeights = Callable[[Batch], Any]


def token_losses(tokens: Tokens, objective: Objective | None) -> torch.Tensor:
    """The objective's losses (S,). Raises RunFailed unless they are one differentiable number a token."""
    if objective is None:
        return tokens.nll
    losses = objective(tokens)
    if not isinstance(losses, torch.Tensor) or losses.shape != tokens.nll.shape:
        found = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise RunFailed(f"objective returned {found}; expected one loss per supervised token, ({len(tokens)},)")
    if not losses.requires_grad:
        raise RunFailed("objective returned losses without a gradient; build them from t.nll, t.logp or t.logits")
    return losses


def weights_of(callback: ExampleWeights, frame: Frame, sums: torch.Tensor) -> torch.Tensor:
    """The callback's weights (n,) from the summed NLL of each example. Raises RunFailed unless finite and >= 0."""
    if not bool(torch.isfinite(sums).all()):
        raise RunFailed("the loss is not finite")
    counts = np.array(frame.supervised, dtype=np.int64)
    batch = Batch(frame.ids, frame.names, sums.numpy() / counts, counts, lr=frame.lr, progress=frame.progress)
    if scope := frame.scope:
        batch = replace(batch, table=Rows(scope.table, frame.ids), state=scope.state, rng=scope.rng)
    found = callback(batch)
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().numpy()
    try:
        weights = np.array(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise RunFailed(f"example_weights returned {type(found).__name__}; expected {len(frame.ids)} numbers") from None
    if weights.shape != counts.shape:
        raise RunFailed(f"example_weights returned shape {weights.shape}; expected ({len(frame.ids)},)")
    bad = [i for i, w in enumerate(weights) if not (math.isfinite(w) and w >= 0)]
    if bad:
        raise RunFailed(
            f"example_weights gave {weights[bad[0]]} to example {frame.ids[bad[0]]}; expected finite numbers >= 0"
        )
    return torch.from_numpy(weights)
