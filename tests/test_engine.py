"""The engine against references worked out another way: one document at a time, autograd, a 20-line loop, a counter."""

import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from harness import engine as engine_module
from harness import environment, fitting
from harness.checkpoint import Store
from harness.data import Item
from harness.engine import Engine, packs, plan_rows
from harness.errors import HarnessError, RunFailed
from harness.flops import Arch
from harness.request import Request, prepare
from harness.suite import Optimizer
from tests.conftest import make_model
from tests.labs import make_lab


def items_(n, seed=0, low=8, high=40):
    rng = random.Random(seed)

    def make(i):
        return Item(f"a/{i}", "a", tuple(rng.randrange(300) for _ in range(rng.randint(low, high))), rng.randint(1, 6))

    return [make(i) for i in range(n)]


@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2"])
def engine(request, tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("m") / request.param, request.param)
    return Engine(folder, Arch.from_config(json.loads((folder / "config.json").read_text())), Optimizer(), 0)


def alone(lm, item):
    """NLL per supervised token of one document by itself, unpacked: (S,)."""
    ids = torch.tensor([item.ids])
    logits = lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
    return torch.nn.functional.cross_entropy(logits, ids[0, -item.supervised :], reduction="none"), logits


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_packing_loses_nothing_and_respects_the_width(lengths):
    rows = plan_rows(lengths)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= max(128, *lengths) for row in rows)


def test_padding_of_a_packed_batch_of_short_examples_is_below_ten_per_cent():
    for seed in range(20):
        items = items_(32, seed, 10, 35)
        real = sum(i.tokens for i in items)
        assert sum(p.ids.numel() for p in packs(items, 4096, 0)) < real / 0.9


def test_packed_losses_and_matches_equal_those_of_each_document_alone(engine):
    items = items_(13, 1)
    seen, _ = engine.evaluate(items)
    for item, s in zip(items, seen, strict=True):
        nll, logits = alone(engine.lm, item)
        assert s.nll == pytest.approx(nll.sum().item(), rel=1e-5)
        assert s.match == bool((logits.argmax(-1) == torch.tensor(item.ids[-item.supervised :])).all())


@pytest.mark.parametrize(
    ("family", "keys"), [("llama", ["attention_dropout"]), ("gpt2", ["attn_pdrop", "resid_pdrop", "embd_pdrop"])]
)
def test_a_checkpoints_dropout_is_left_out(family, keys, tmp_path):
    """It would make looks random, and a step that is begun again another one."""
    folder = make_model(tmp_path / family, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | dict.fromkeys(keys, 0.5)))
    made, items = Engine(folder, Arch.from_config(config), Optimizer(), 0), items_(5, 1)
    assert made.lm.training
    expected = [alone(made.lm.eval(), item)[0].sum().item() for item in items]
    made.lm.train()
    assert [s.nll for s in made.evaluate(items)[0]] == pytest.approx(expected, rel=1e-5)
    assert made.step(items, 0.0).nll == pytest.approx(expected, rel=1e-5)


def test_gradient_is_of_the_sum_over_supervised_tokens_of_the_effective_batch(engine, monkeypatch):
    """Also when the batch falls into several micro-batches of unequal size."""
    monkeypatch.setitem(__import__("harness.engine", fromlist=["x"]).MICRO_TOKENS, "cpu", 100)
    items = items_(17, 2)
    assert len(list(packs(items, 100, 0))) > 2
    engine.load_base()
    engine.fresh_optimizer()
    total = sum(i.supervised for i in items)
    loss = sum(alone(engine.lm, i)[0].sum() for i in items) / total
    loss.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in engine.lm.parameters() if p.grad is not None))
    engine.optimizer.zero_grad()
    step = engine.step(items, 0.0)
    assert sum(step.nll) / total == pytest.approx(loss.item(), rel=1e-5)
    assert step.grad_norm == pytest.approx(norm, rel=1e-4)


def test_losses_are_read_when_a_gpu_has_all_its_work(engine, monkeypatch):
    """A number that the host asks for is a wait for the device: none between a forward and a backward pass, or two packs."""
    monkeypatch.setitem(fitting.MICRO_TOKENS, "cpu", 256)
    order, items = [], items_(40, 11)
    backward, hidden, read = engine.accelerator.backward, engine.whole.hidden, engine_module.by_owner
    monkeypatch.setattr(engine.accelerator, "backward", lambda loss: order.append("backward") or backward(loss))
    monkeypatch.setattr(engine.whole, "hidden", lambda pack: order.append("forward") or hidden(pack))
    monkeypatch.setattr(engine_module, "by_owner", lambda *given: order.append("read") or read(*given))
    engine.step(items, 0.0)
    n = order.count("backward")
    assert n > 2
    assert order == ["forward", "backward"] * n + ["read"] * n
    order.clear()
    engine.evaluate(items)
    assert order == ["forward"] * n + ["read"] * 2 * n
    order.clear()
    few = items[:4]
    engine.step(few, 0.0, example_weights=lambda batch: [1.0] * len(batch))
    assert order == ["forward", "read", "backward"], "weights come from the losses"


def test_a_step_does_not_ask_for_whole_weights(engine, monkeypatch):
    """With cut weights (FSDP2) they would be brought together for every micro-batch."""
    engine.load_base()

    def whole(self):
        raise AssertionError("asked for")

    monkeypatch.setattr(type(engine.layout), "whole", property(whole))
    assert len(engine.step(items_(3), 1e-3).nll) == 3


def test_analytic_flops_equal_the_counter(engine):
    """One unpadded document: eager attention is counted as the full square, the causal half is our convention."""
    item = items_(1, 3, 30, 30)[0]
    lm = AutoModelForCausalLM.from_pretrained(engine.folder, attn_implementation="eager", dtype=torch.float32)
    arch, t, s = engine.arch, item.tokens, item.supervised
    ids = torch.tensor([item.ids[:-1]])
    with FlopCounterMode(display=False) as counter:
        hidden = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -s:]
        lm.get_output_embeddings()(hidden).sum().backward()
    counted = counter.get_total_flops()
    square = arch.padded_forward(1, t, s)
    correction = 3 * (square - arch.forward(t, s))
    assert counted - correction == pytest.approx(arch.train_step(t, s), rel=0.01)


def test_unknown_architectures_are_refused():
    with pytest.raises(HarnessError, match=r"'mamba'.*known: qwen2"):
        Arch.from_config({"model_type": "mamba"})


def test_generation_flops_are_the_sum_of_single_steps():
    arch = Arch("x", block=10, head=7, attention=3)
    steps = [2 * (10 + 7) + 4 * 3 * (5 + t) for t in range(1, 4)]
    assert arch.generate(5, 4) == 2 * 10 * 5 + 2 * 7 + 2 * 3 * 5 * 6 + sum(steps)


def test_weights_and_moments_round_trip(engine, tmp_path):
    items = items_(8, 4)
    engine.load_base()
    engine.fresh_optimizer()
    engine.step(items, 1e-3)
    store = Store(tmp_path / "c")
    store.save("0:1", {"model": engine.weights(), "optimizer": engine.moments()}, {"x": 1})
    expected = [engine.step(items, 1e-3).nll for _ in range(3)]
    store.flush()
    store._memory.clear()  # from disk
    groups, state = store.load("0:1")
    engine.load_weights(groups["model"])
    engine.load_moments(groups["optimizer"])
    assert [engine.step(items, 1e-3).nll for _ in range(3)] == expected
    assert state == {"x": 1}


def test_a_damaged_checkpoint_is_detected(engine, tmp_path):
    store = Store(tmp_path / "c")
    store.save("0:1", {"model": engine.weights()}, {})
    store.flush()
    store._memory.clear()
    file = store.path("0:1") / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RunFailed, match="damaged"):
        store.load("0:1")


def test_a_record_names_the_device_that_was_used(toy, tiny, tmp_path, monkeypatch):
    plan = prepare(Request(suite=str(toy), model=str(tiny), runs=tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")

    def device():
        return environment.describe(plan.suite, plan.model, plan.revisions, environment.git()).device

    monkeypatch.setenv("HARNESS_DEVICE", "cpu")
    assert device().startswith("cpu")
    monkeypatch.delenv("HARNESS_DEVICE")
    assert device() == "a GPU"


def reference_losses(folder, plan, steps):
    """Plain SFT written out: shuffled passes, padded batches, one mean over the batch's supervised tokens."""
    from harness.sampler import Sampler

    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    t = plan.suite.train
    optimizer = torch.optim.AdamW(lm.parameters(), lr=plan.identity.lr, weight_decay=0.0)
    everything = {i.id: i for group in plan.train.values() for i in group}
    n, losses, spent = len(everything), [], 0
    order = Sampler(plan.request.seed, {k: len(v) for k, v in plan.train.items()})
    from harness.api import Mixture

    mixture = Mixture({k: len(v) / n for k, v in plan.train.items()}, {k: len(v) for k, v in plan.train.items()})
    for _ in range(steps):
        batch = [everything[i] for i in order.draw(mixture, t.effective_batch)]
        width = max(i.tokens for i in batch)
        ids = torch.tensor([list(i.ids[:-1]) + [0] * (width - i.tokens) for i in batch])
        labels = torch.full((len(batch), width), -100)
        for row, i in zip(labels, batch, strict=True):
            row[i.tokens - i.supervised : i.tokens] = torch.tensor(i.ids[-i.supervised :])
        loss = torch.nn.functional.cross_entropy(lm(input_ids=ids).logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        cost = sum(plan.arch.train_step(i.tokens, i.supervised) for i in batch)
        middle = (spent + cost / 2) / plan.identity.budget.flops
        optimizer.param_groups[0]["lr"] = plan.identity.lr * min(1.0, middle / t.schedule.warmup)
        spent += cost
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_proportional_equals_the_reference_loop_loss_for_loss(toy, tiny, tmp_path):
    lab, core, _, plan = make_lab(tmp_path, toy, tiny)
    seen = []
    core.watch = lambda p: seen.append(p.loss)
    lab.train(lab.proportional())
    assert len(seen) >= 40
    assert seen == pytest.approx(reference_losses(tiny, plan, len(seen)), rel=2e-4)
