"""LoRA and gradient checkpointing: what is trained, kept, restored, merged and counted."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.engine import Engine
from harness.flops import Arch
from harness.lora import LoraSpec
from harness.suite import Optimizer
from tests.conftest import make_model
from tests.test_engine import items_

ITEMS = items_(9, 3)
FAMILIES = ["qwen2", "llama", "gpt2"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("m") / request.param, request.param)


def make(folder, seed=0, lora=LoraSpec(4, 8.0), **kwargs):  # noqa: B008
    arch = Arch.from_config(json.loads((folder / "config.json").read_text()))
    return Engine(folder, arch, Optimizer(), seed, lora=lora, **kwargs)


def test_only_adapters_on_every_matrix_of_the_blocks_are_trained(folder):
    engine = make(folder)
    before = {n: p.detach().clone() for n, p in engine.lm.named_parameters()}
    for _ in range(2):
        engine.step(ITEMS, 1e-2)
    changed = {n for n, p in engine.lm.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(engine.weights()) == {n for n in before if "lora_" in n}
    assert sum(w.numel() for w in engine.weights().values()) == engine.arch.adapters
    assert len(changed) == 2 * engine.arch.layers * len(engine.arch.matrices)


def test_an_untrained_adapter_changes_nothing_and_its_gradient_is_autograds(folder):
    engine, plain = make(folder), make(folder, lora=None)
    assert [s.nll for s in engine.evaluate(ITEMS)[0]] == pytest.approx([s.nll for s in plain.evaluate(ITEMS)[0]])
    engine.step(ITEMS, 1e-2)
    total = sum(i.supervised for i in ITEMS)
    loss = torch.zeros(())
    for item in ITEMS:
        ids = torch.tensor([item.ids])
        logits = engine.lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
        loss = loss + torch.nn.functional.cross_entropy(logits, ids[0, -item.supervised :], reduction="sum")
    (loss / total).backward()
    norm = torch.cat([p.grad.flatten() for p in engine.lm.parameters() if p.grad is not None]).norm().item()
    engine.optimizer.zero_grad()
    assert engine.step(ITEMS, 0.0).grad_norm == pytest.approx(norm, rel=1e-4)


def test_the_seed_draws_the_adapters_whatever_happened_before(folder):
    first = make(folder).weights()
    torch.rand(7)
    same, other = make(folder).weights(), make(folder, seed=1).weights()
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_adapters_and_moments_round_trip_and_the_base_comes_back(folder):
    engine = make(folder)
    base = [s.nll for s in engine.evaluate(ITEMS)[0]]
    engine.step(ITEMS, 1e-2)
    weights, moments = engine.weights(), engine.moments()
    expected = [engine.step(ITEMS, 1e-2).nll for _ in range(3)]
    engine.load_weights(weights)
    engine.load_moments(moments)
    assert [engine.step(ITEMS, 1e-2).nll for _ in range(3)] == expected
    engine.load_base()
    assert [s.nll for s in engine.evaluate(ITEMS)[0]] == base
    fresh = make(folder)
    fresh.load_weights(weights)
    fresh.load_moments(moments)
    assert [fresh.step(ITEMS, 1e-2).nll for _ in range(3)] == expected


def test_the_saved_model_is_plain_and_merged_and_the_live_one_goes_on(folder, tmp_path):
    engine = make(folder)
    for _ in range(3):
        engine.step(ITEMS, 1e-2)
    weights = engine.weights()
    engine.save_pretrained(tmp_path / "out")
    assert all(torch.equal(w, weights[n]) for n, w in engine.weights().items())
    saved, source = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (tmp_path / "out", folder))
    assert set(saved.state_dict()) == set(source.state_dict())
    assert type(saved) is type(source)
    ids = torch.tensor([ITEMS[0].ids])
    ours, theirs, base = (m(input_ids=ids).logits for m in (engine.lm, saved, source))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, base, atol=1e-2)
    engine.step(ITEMS, 1e-2)


@pytest.mark.parametrize("lora", [None, LoraSpec(4, 8.0)])
def test_checkpointing_changes_hardware_flops_only(folder, lora):
    runs = []
    for checkpointing in (False, True):
        engine = make(folder, lora=lora, checkpointing=checkpointing)
        steps = [engine.step(ITEMS, 1e-3) for _ in range(3)]
        runs.append((engine, steps))
    (plain, a), (saving, b) = runs
    assert [s.nll for s in a] == [s.nll for s in b]
    assert [s.cost.model for s in a] == [s.cost.model for s in b]
    assert b[0].cost.hardware > a[0].cost.hardware
    assert saving.evaluate(ITEMS)[0] == plain.evaluate(ITEMS)[0]
    assert any(getattr(m, "gradient_checkpointing", False) for m in saving.lm.modules())
