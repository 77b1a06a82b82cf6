"""The proof of docs/flops.md: every kind of pass, on every family, inside PyTorch's own counter.

Two steps. The `hardware` column equals what the counter sees (eager attention, which it counts as a full square). The
`model` column differs from it by what the corrections of docs/flops.md say, written out here from the configuration.
"""

import dataclasses
import json
from itertools import pairwise

import pytest
import torch
import transformers as tf
from torch.utils.flop_counter import FlopCounterMode

import harness.packing as packing
import harness.reading as reading
from harness import attention
from harness.data import Item
from harness.engine import MICRO_TOKENS, Engine
from harness.flops import Arch
from harness.generate import generate
from harness.gradients import Gradients
from harness.lora import LoraSpec
from harness.probe import distributions, logprobs
from harness.suite import Optimizer
from tests.conftest import make_model
from tests.test_engine import items_

FAMILIES = ["qwen2", "llama", "gpt2", *(pytest.param(f, marks=pytest.mark.slow) for f in ("qwen3", "mistral"))]
LORA = LoraSpec(4, 8.0)
MODES = {
    "full": (None, False),
    "full+checkpointing": (None, True),
    "lora": (LORA, False),
    "lora+checkpointing": (LORA, True),
}
ONE = items_(1, 3, 30, 30)
MANY = items_(23, 4, 6, 60)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """Three layers, more query than KV heads, and a head size that is not h / q where the family has one."""
    path, family = tmp_path_factory.mktemp("m") / request.param, request.param
    make_model(path, "gpt2" if family == "gpt2" else "qwen2")
    config = json.loads((path / "config.json").read_text())
    config |= (
        {"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3, "model_type": family, "layer_types": None}
    )
    config |= {"head_dim": 12} if family == "qwen3" else {}
    kind = tf.AutoConfig.for_model(family)
    model = tf.AutoModelForCausalLM.from_config(type(kind)(**{k: v for k, v in config.items() if v is not None}))
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engines(folder):
    """Engines by mode, each made once, with attention that the counter can see."""
    made = {}

    def get(mode):
        if mode not in made:
            arch = Arch.from_config(json.loads((folder / "config.json").read_text()))
            engine = made[mode] = Engine(folder, arch, Optimizer(), 0, *MODES[mode])
            engine.lm.set_attn_implementation("sdpa")
            expected = engine.step(MANY, 0.0).nll
            engine.lm.set_attn_implementation("eager")
            assert engine.step(MANY, 0.0).nll == pytest.approx(expected, rel=1e-4)
        return made[mode]

    return get


@pytest.fixture(params=MODES)
def engine(request, engines):
    return engines(request.param)


@pytest.fixture
def plain(engines):
    return engines("full")


@pytest.fixture(scope="module", autouse=True)
def additive():
    """Eager attention wants an additive mask; packing makes a boolean one."""
    original = packing._pack

    def pack(*args):
        made = original(*args)
        return dataclasses.replace(made, mask=torch.zeros(made.mask.shape).masked_fill(~made.mask, -1e9))

    packing._pack = pack
    yield
    packing._pack = original


def counted(function):
    with FlopCounterMode(display=False) as counter:
        result = function()
    return counter.get_total_flops(), result


def agree(seen, analytic):
    print(f"counter / analytic = {seen / analytic:.5f}")
    assert seen == pytest.approx(analytic, rel=0.01)


def upper(engine, tokens):
    """One forward pass' attention above the diagonal: 4 L q d for each of T(T-1)/2 pairs that causality forbids."""
    config = engine.lm.config
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return 4 * config.num_hidden_layers * width * tokens * (tokens - 1) // 2


def sizes(engine):
    """(elements of the blocks' frozen or trained matrices, of all adapters, of the head), from the live tensors."""
    named = {n: p.numel() for n, p in engine.lm.named_parameters() if p.ndim == 2}
    blocks = {n: k for n, k in named.items() if ".layers." in n or ".h." in n}
    adapters = sum(k for n, k in blocks.items() if "lora_" in n)
    return sum(blocks.values()) - adapters, adapters, engine.lm.get_output_embeddings().weight.numel()


def test_a_training_step_of_one_document(engine):
    (item,) = ONE
    seen, step = counted(lambda: engine.step(ONE, 0.0))
    again = engine.arch.recomputed(1, item.tokens) if engine.checkpointing else 0
    agree(seen, step.cost.hardware)
    assert step.cost.hardware - step.cost.model == 3 * upper(engine, item.tokens) + again
    agree(seen - 3 * upper(engine, item.tokens) - again, step.cost.model)


def test_a_training_step_is_the_formula_of_the_docs(engine):
    (item,) = ONE
    t, s = item.tokens, item.supervised
    w, p, h = sizes(engine)
    attention = 3 * (engine.arch.padded_forward(1, t, 0) - 2 * (w + p) * t - upper(engine, t))
    if engine.lora:
        bottom = [n for n, _ in engine.lm.named_parameters() if any(x in n for x in (".0.self_attn.", ".0.attn."))]
        first = [n for n in bottom if any(x in n for x in ("q_proj", "k_proj", "v_proj", "c_attn"))]
        tensors = dict(engine.lm.named_parameters())
        skipped = sum(tensors[n].numel() for n in first if tensors[n].ndim == 2 and "lora_B" not in n)
        expected = 4 * w * t + 4 * h * s + 6 * p * t + attention - 2 * skipped * t
    else:
        expected = 6 * w * t + 6 * h * s + attention
    assert engine.arch.train_step(t, s) == expected


def test_recomputation_is_a_forward_pass_of_the_blocks_but_for_their_last_products(engines):
    for mode in ("full", "lora"):
        without, with_ = engines(mode), engines(f"{mode}+checkpointing")
        extra = counted(lambda e=with_: e.step(ONE, 0.0))[0] - counted(lambda e=without: e.step(ONE, 0.0))[0]
        agree(extra, with_.arch.recomputed(1, ONE[0].tokens))


def test_a_packed_step_of_several_micro_batches(engine, monkeypatch):
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 300)
    packed = list(engine.packs(MANY))
    assert len(packed) > 2
    seen, step = counted(lambda: engine.step(MANY, 0.0))
    agree(seen, step.cost.hardware)
    assert step.cost.model == sum(engine.step([item], 0.0).cost.model for item in MANY)
    # Padding and pairs of different documents are hardware only.
    positions, pairs = sum(p.ids.numel() for p in packed), sum(p.ids.shape[0] * p.ids.shape[1] ** 2 for p in packed)
    assert positions > sum(i.tokens for i in MANY)
    assert pairs > sum(i.tokens**2 for i in MANY)


def products(q, k, v, starts, longest, scale):
    """Attention of flat rows in products that the counter sees: each document's whole square."""
    repeat = q.shape[1] // k.shape[1]
    parts = []
    for a, b in pairwise(starts.tolist()):
        one, two, three = q[a:b], k[a:b].repeat_interleave(repeat, 1), v[a:b].repeat_interleave(repeat, 1)
        scores = torch.einsum("ihd,jhd->hij", one, two) * (scale or q.shape[-1] ** -0.5)
        scores = scores.masked_fill(~torch.ones(b - a, b - a, dtype=torch.bool).tril(), -1e9)
        parts.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), three))
    return torch.cat(parts)


@pytest.mark.parametrize("mode", MODES)
def test_flat_rows_have_no_padding_and_every_document_its_own_square(folder, monkeypatch, mode):
    engine = Engine(
        folder, Arch.from_config(json.loads((folder / "config.json").read_text())), Optimizer(), 0, *MODES[mode]
    )
    engine.flat = True
    engine.lm.set_attn_implementation(attention.NAME)
    expected = engine.step(MANY, 0.0).nll
    monkeypatch.setattr(attention, "one_by_one", products)
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 300)
    packed = list(engine.packs(MANY))
    assert len(packed) > 2
    seen, step = counted(lambda: engine.step(MANY, 0.0))
    assert step.nll == pytest.approx(expected, rel=1e-4)
    agree(seen, step.cost.hardware)
    assert sum(p.ids.numel() for p in packed) == sum(i.tokens for i in MANY)
    again = sum(engine.arch.recomputed(1, i.tokens) for i in MANY) if engine.checkpointing else 0
    assert step.cost.hardware - step.cost.model == sum(3 * upper(engine, i.tokens) for i in MANY) + again
    seen, (_, hardware) = counted(lambda: engine.evaluate(MANY))
    agree(seen, hardware)


def test_looks_and_probes(engine):
    (item,) = ONE
    model = engine.arch.forward(item.tokens, item.supervised)
    for probe in (engine.evaluate, lambda x: logprobs(engine, x), lambda x: distributions(engine, x, 5)):
        seen, (_, hardware) = counted(lambda probe=probe: probe(ONE))
        agree(seen, hardware)
        assert hardware - model == upper(engine, item.tokens)
        seen, (_, hardware) = counted(lambda probe=probe: probe(MANY))
        agree(seen, hardware)


@pytest.mark.parametrize("modules", ["last:1", "last:2", "sketch:1", "sketch:2", "all"])
def test_gradients_of_single_examples(engine, modules, monkeypatch):
    monkeypatch.setattr(reading, "WIDTH", 8)
    blocks = int(modules.partition(":")[2] or 3)
    (item,) = ONE
    seen, handle = counted(lambda: (h := Gradients(engine, ONE, modules), h.rows())[0])
    agree(seen, handle.hardware)
    square = upper(engine, item.tokens) * (3 + 2 * blocks) // 3
    assert handle.hardware - handle.cost().model == square
    agree(seen - square, handle.cost().model)
    # Many at a time: packs are padded, and so are documents of similar length whose products are taken together.
    seen, handle = counted(lambda: (h := Gradients(engine, MANY, modules), h.rows())[0])
    agree(seen, handle.hardware)
    assert handle.cost().model == sum(Gradients(engine, [item], modules).cost().model for item in MANY)


def test_products_of_gradients(engine):
    """Whatever is kept, rows or factors, and whichever way products are taken."""
    short = items_(9, 2, 7, 11)
    for items in (MANY, short, [*short[:2], *MANY[:2]]):
        for normalize in (False, True):
            handle, other = Gradients(engine, items, "last:1", normalize), Gradients(engine, short, "last:1")
            for use in (
                handle.compute,
                other.compute,
                handle.gram,
                lambda h=handle, o=other: h.gram(o),
                handle.task_gram,
                handle.mean,
                handle.rows,
                lambda h=handle: h.rows(5),
            ):
                before = handle.hardware + other.hardware
                seen, _ = counted(use)
                made = handle.hardware + other.hardware - before
                assert seen == made == 0 or agree(seen, made) is None


def test_gradients_of_named_parameters(plain):
    prefix = {"gpt2": "transformer.h.1."}.get(plain.arch.family, "model.layers.1.")
    names = [n for n, _ in plain.lm.named_parameters() if n.startswith(prefix)]
    for asked in [
        [prefix],
        [n for n in names if "mlp" in n],
        [n for n in names if "norm" in n or "ln_" in n],
        *[[n] for n in names],
    ]:
        partial = any(x in asked[0] for x in ("q_", "k_", "v_proj")) and len(asked) == 1
        seen, handle = counted(lambda asked=asked: (h := Gradients(plain, ONE, asked), h.rows())[0])
        if partial:  # for q, k or v alone, less than the whole attention is differentiated: the count is a bound
            assert 0.9 * handle.hardware < seen < 1.001 * handle.hardware
        else:
            agree(seen, handle.hardware)


def test_a_projection(plain):
    """In full documents are as long as here, a matrix is read as 2 p q D; its factors are read as 2 T (p + q) D."""
    long, short = (Gradients(plain, items_(9, 2, low, low), "last:1") for low in (60, 8))
    for handle in (long, short):
        handle.compute()
        before = handle.hardware
        seen, _ = counted(lambda h=handle: h.rows(16))
        agree(seen, handle.hardware - before)
        assert handle.cost(16).model - handle.cost().model == 2 * handle.size * 16 * 9
    assert seen < handle.projection_cost(16).model


def test_generation(engine):
    prompt, new = ONE[0].ids[:17], 9
    seen, (_, cost) = counted(lambda: generate(engine, [prompt], new, eos=[]))
    agree(seen, cost.hardware)
    assert cost.model == engine.arch.generate(17, new)
    assert cost.hardware - cost.model == upper(engine, 17)
    agree(seen - upper(engine, 17), cost.model)
    seen, (_, cost) = counted(
        lambda: generate(engine, [prompt, prompt[:9], prompt], new, 1.0, n=2, eos=list(range(99)))
    )
    agree(seen, cost.hardware)


def test_statistics_for_example_weights_are_a_forward_pass_of_hardware(plain, monkeypatch):
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 300)
    seen, step = counted(lambda: plain.step(MANY, 0.0, None, lambda batch: batch.nll))
    agree(seen, step.cost.hardware)
    assert step.cost.model == plain.training_cost(MANY).model


def test_documents_of_one_token_prompt_are_counted_too(plain):
    item = Item("a/0", "a", (5, 6), 1)
    seen, step = counted(lambda: plain.step([item], 0.0))
    agree(seen, step.cost.hardware)
    assert step.cost.hardware == step.cost.model
