"""Generation against transformers' own, and its draws against their distribution."""

import json
import random

import pytest
import torch

from harness.engine import MICRO_TOKENS, Engine
from harness.errors import BudgetExhausted, RunFailed
from harness.flops import Arch
from harness.generate import choose, generate
from harness.ledger import Cost
from harness.lora import LoraSpec
from harness.suite import Optimizer
from tests.conftest import make_model
from tests.test_engine import items_

RNG = random.Random(0)
PROMPTS = [tuple(RNG.randrange(300) for _ in range(n)) for n in (5, 9, 5, 12, 9, 5, 1)]


@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2", "lora"])
def engine(request, tmp_path_factory):
    family = "qwen2" if request.param == "lora" else request.param
    folder = make_model(tmp_path_factory.mktemp("m") / family, family)
    arch = Arch.from_config(json.loads((folder / "config.json").read_text()))
    lora = LoraSpec(4, 8.0) if request.param == "lora" else None
    engine = Engine(folder, arch, Optimizer(), 0, lora=lora, checkpointing=lora is not None)
    for _ in range(3):  # away from random weights, whose argmax repeats
        engine.step(items_(8, 1), 1e-2)
    return engine


def theirs(engine, prompt, limit, eos):
    """transformers' greedy continuation of one prompt."""
    ids = torch.tensor([prompt])
    engine.lm.eval()
    out = engine.lm.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=eos,
        pad_token_id=eos,
    )  # fmt: skip
    engine.lm.train()
    return out[0, len(prompt) :].tolist()


def test_greedy_equals_transformers(engine, monkeypatch):
    eos = engine.tokenizer.eos_token_id
    free = [theirs(engine, p, 12, eos) for p in PROMPTS]
    found, _ = generate(engine, PROMPTS, 12)
    assert found == [[f] for f in free]
    stopper = max({t for f in free for t in f[1:-1]}, key=lambda t: sum(t in f for f in free))
    expected = [theirs(engine, p, 12, stopper) for p in PROMPTS]
    assert any(len(e) < 12 for e in expected)
    found, _ = generate(engine, PROMPTS, 12, eos=stopper)
    assert found == [[e] for e in expected]
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 1)  # one sequence at a time
    assert generate(engine, PROMPTS, 12, eos=stopper)[0] == found


def test_cost_is_that_of_each_sequence_and_is_metered_pass_by_pass(engine):
    free, _ = generate(engine, PROMPTS, 8, n=2)
    stopper, seen = free[0][0][3], []
    found, cost = generate(engine, PROMPTS, 8, n=2, eos=[stopper], meter=seen.append)
    lengths = [len(s) for group in found for s in group]
    assert min(lengths) < max(lengths)
    pairs = [(len(p), len(s)) for p, group in zip(PROMPTS, found, strict=True) for s in group]
    assert cost.model == sum(engine.arch.generate(p, r) for p, r in pairs)
    assert cost.tokens == sum(p + r - 1 for p, r in pairs)
    assert sum(seen, Cost()) == cost
    assert cost.hardware > cost.model


def test_a_meter_stops_it_and_the_engine_goes_on(engine):
    passes = []

    def meter(cost):
        passes.append(cost)
        if len(passes) == 3:
            raise BudgetExhausted("no more")

    with pytest.raises(BudgetExhausted):
        generate(engine, PROMPTS, 12, eos=[], meter=meter)
    assert engine.lm.training
    engine.step(items_(4), 0.0)


def test_samples_are_seeded_and_do_not_depend_on_company(engine):
    def sample(prompts, seed=1, n=2):
        return generate(engine, prompts, 10, 1.0, 0.9, n, seed)[0]

    whole = sample(PROMPTS)
    assert sample(PROMPTS) == whole
    assert sample(PROMPTS, seed=2) != whole
    assert sample(PROMPTS[2:4]) == whole[2:4]
    assert sample(PROMPTS[::-1]) == whole[::-1]
    assert [g[:1] for g in whole] == sample(PROMPTS, n=1)
    assert any(g[0] != g[1] for g in whole)
    twice = sample([PROMPTS[0], PROMPTS[0]], n=1)
    assert [t[0] for t in twice] == whole[0]


def test_cold_and_narrow_sampling_is_greedy(engine):
    greedy, _ = generate(engine, PROMPTS, 6)
    assert generate(engine, PROMPTS, 6, 1e-4)[0] == greedy
    assert generate(engine, PROMPTS, 6, 1.0, 1e-9)[0] == greedy


def test_stop_sees_the_new_tokens(engine):
    found, _ = generate(engine, PROMPTS, 9, eos=[], stop=lambda new: len(new) == 4)
    assert all(len(s) == 4 for group in found for s in group)


def test_draws_follow_the_distribution_within_the_nucleus():
    p = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])
    draws = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    logits = p.log().expand(10_000, -1)
    counts = [torch.bincount(choose(logits, 1.0, top, draws), minlength=5) / 10_000 for top in (1.0, 0.6, 0.39)]
    assert counts[0].tolist() == pytest.approx(p.tolist(), abs=2e-4)
    assert counts[1].tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7, 0], abs=2e-4)  # 0.4 alone does not hold 0.6
    assert counts[2].tolist() == [0, 1, 0, 0, 0]
    hot = torch.bincount(choose(logits, 2.0, 1.0, draws), minlength=5) / 10_000
    assert hot.tolist() == pytest.approx((p.sqrt() / p.sqrt().sum()).tolist(), abs=2e-4)
    edge = choose(p.log()[None], 1.0, 1.0, torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert edge.tolist() == [2]


def test_what_cannot_be_generated_is_refused(engine):
    cases = [
        ({"max_new_tokens": 0}, "at least 1"),
        ({"n": 0}, "at least 1"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"top_p": 0.0}, "top_p=0"),
        ({"max_new_tokens": 1000}, "256 positions"),
        ({"prompts": [()]}, "no tokens"),
    ]
    for kwargs, message in cases:
        with pytest.raises(RunFailed, match=message):
            generate(**({"engine": engine, "prompts": PROMPTS, "max_new_tokens": 4} | kwargs))
    assert generate(engine, [], 4) == ([], Cost())
