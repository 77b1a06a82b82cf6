"""Generation with a KV cache: prompts of one length run together, so that padding changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness import ranks
from harness.engine import MICRO_TOKENS, Engine
from harness.errors import RunFailed
from harness.ledger import Cost

Meter = Callable[[Cost], None]


@dataclass
class _Row:
    """One sequence under way: its prompt, the numbers in [0, 1) that its draws use, and what came out so far."""

    prompt: tuple[int, ...]
    draws: torch.Tensor
    new: list[int] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True)
class _Rule:
    """How a next token is chosen and when a sequence ends."""

    limit: int
    temperature: float
    top_p: float
    ends: frozenset[int]
    stop: Callable[[list[int]], bool] | None

    def take(self, row: _Row, token: int) -> None:
        row.new.append(token)
        ended = token in self.ends or len(row.new) == self.limit
        row.done = ended or (self.stop is not None and self.stop(row.new))


def generate(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    n: int = 1,
    seed: int = 0,
    *,
    eos: int | Sequence[int] | None = None,
    stop: Callable[[list[int]], bool] | None = None,
    meter: Meter | None = None,
) -> tuple[list[list[list[int]]], Cost]:
    """`n` continuations of each prompt, the end token included where it came; second: what they cost.

    Temperature 0 is greedy. Otherwise draws come from the smallest set of tokens that holds `top_p` of the mass, and a
    prompt's draws depend on the seed and that prompt, not on what else is asked for. `eos`: the tokens that end a
    sequence (default: the tokenizer's); `stop` may end one early, given its new tokens. `meter` is called before each
    pass with its cost and may raise; its calls sum to the cost. A sequence of R new tokens costs `arch.generate(P, R)`;
    finished ones that still run beside others are hardware FLOPs only.
    """
    _check(engine, prompts, max_new_tokens, temperature, top_p, n)
    ends = engine.tokenizer.eos_token_id if eos is None else eos
    rule = _Rule(max_new_tokens, temperature, top_p, frozenset([ends] if isinstance(ends, int) else ends), stop)
    groups: list[list[_Row]] = []
    times: dict[tuple[int, ...], int] = {}
    for prompt in map(tuple, prompts):
        first = times.get(prompt, 0)
        times[prompt] = first + n
        groups.append([_Row(prompt, _draws(seed, prompt, first + j, max_new_tokens)) for j in range(n)])
    spent = Cost()
    lm, training = engine.lm, engine.lm.training
    lm.eval()  # in training mode, gradient checkpointing would switch the cache off
    try:
        batches = _batches([r for group in groups for r in group], max_new_tokens, MICRO_TOKENS[engine.device.type])
        for cost in _passes(engine, batches, rule):
            if meter:
                meter(cost)
            spent += cost
    finally:
        lm.train(training)
    return [[row.new for row in group] for group in groups], spent


def _check(
    engine: Engine, prompts: Sequence[Sequence[int]], limit: int, temperature: float, top_p: float, n: int
) -> None:
    if limit < 1 or n < 1:
        raise RunFailed(f"generate: max_new_tokens={limit}, n={n}; expected at least 1 of each")
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1:
        raise RunFailed(f"generate: temperature={temperature}, top_p={top_p}; expected >= 0 and in (0, 1]")
    longest = max((len(p) for p in prompts), default=1)
    if not all(len(p) for p in prompts):
        raise RunFailed("generate: a prompt has no tokens")
    room = engine.lm.config.max_position_embeddings
    if longest + limit - 1 > room:
        raise RunFailed(f"generate: a prompt of {longest} tokens and {limit} new ones; the model has {room} positions")


def _draws(seed: int, prompt: tuple[int, ...], sample: int, count: int) -> torch.Tensor:
    """Uniform numbers keyed by seed, prompt and which sample of that prompt it is."""
    key = hashlib.sha256(repr((seed, prompt, sample)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _batches(rows: Sequence[_Row], limit: int, micro_tokens: int) -> Iterator[list[_Row]]:
    """Rows of one prompt length, as many together as fit a micro-batch at their full length."""
    for length in sorted({len(row.prompt) for row in rows}):
        same = [row for row in rows if len(row.prompt) == length]
        size = max(1, micro_tokens // (length + limit))
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _passes(engine: Engine, batches: Iterator[list[_Row]], rule: _Rule) -> Iterator[Cost]:
    """Run all batches; the cost of every pass, in the order in which one process makes them.

    Ranks are dealt whole batches and run them to the end before a meter is told; beyond a cap that it finds, what was
    computed is thrown away.
    """
    if ranks.count() == 1:
        for batch in batches:
            yield from _decode(engine, batch, rule)
        return
    dealt = list(batches)
    found: list[tuple[list[Cost], list[list[int]]] | None] = [None] * len(dealt)
    for k in ranks.share([len(batch) * (len(batch[0].prompt) + rule.limit) for batch in dealt]):
        found[k] = (list(_decode(engine, dealt[k], rule)), [row.new for row in dealt[k]])
    for batch, (costs, texts) in zip(dealt, ranks.joined(found, 0)[0], strict=True):
        for row, new in zip(batch, texts, strict=True):
            row.new = new
        yield from costs


@torch.no_grad()
def _decode(engine: Engine, batch: list[_Row], rule: _Rule) -> Iterator[Cost]:
    """Run a batch to its end; before each pass, its cost is yielded."""
    arch, lm, prompt = engine.arch, engine.lm, len(batch[0].prompt)
    ids = torch.tensor([row.prompt for row in batch], device=engine.device)
    draws = torch.stack([row.draws for row in batch]).to(engine.device)
    cache: Any = None
    for t in range(rule.limit):
        live = [i for i, row in enumerate(batch) if not row.done]
        if not live:
            break
        once = arch.decode(prompt + t) if t else arch.prefill(prompt)
        square = once if t else arch.padded_forward(1, prompt, 1)
        yield Cost(once * len(live), square * len(batch), (1 if t else prompt) * len(live))
        with engine.accelerator.autocast():
            out = lm.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            logits = lm.get_output_embeddings()(out.last_hidden_state[:, -1])
        cache = out.past_key_values
        tokens = choose(logits.float(), rule.temperature, rule.top_p, draws[:, t])
        taken = tokens.tolist()  # one wait for the device, not one a row
        for i in live:
            rule.take(batch[i], taken[i])
        ids = tokens[:, None]


def choose(logits: torch.Tensor, temperature: float, top_p: float, draws: torch.Tensor) -> torch.Tensor:
    """Next tokens (B,) from logits (B, V): the argmax, or by inverse CDF within the nucleus at `draws` (B,) in [0, 1)."""
    if temperature == 0:
        return logits.argmax(-1)
    p, order = (logits.double() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    below = p.cumsum(-1) - p
    p = p.where(below < top_p, 0.0)
    total = p.cumsum(-1)
    at = torch.searchsorted(total, draws[:, None] * total[:, -1:], right=True)
    at = at.minimum((p > 0).sum(-1, keepdim=True) - 1)
    chosen: torch.Tensor = order.gather(1, at)[:, 0]
    return chosen
