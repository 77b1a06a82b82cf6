"""What changes how a step is computed and not what it computes: sizes that fit, losses in parts, flat rows, narrow moments."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from harness import fitting, supervised
from harness.attention import NAME, one_by_one
from harness.engine import MICRO_TOKENS, Engine
from harness.errors import RunFailed
from harness.flops import Arch
from harness.lora import LoraSpec
from harness.moments import NarrowAdamW, narrow
from harness.packing import packs
from harness.suite import Optimizer, load_suite
from harness.workshop import Workshop
from tests.conftest import make_model
from tests.test_engine import items_

OOM = "CUDA out of memory. Tried to allocate 2.00 GiB"


def arch_of(folder):
    return Arch.from_config(json.loads((folder / "config.json").read_text()))


@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2"])
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("f") / request.param, request.param)


def gradient(engine, items, **asked):
    """Losses by item, and the whole gradient of one effective batch, which is then forgotten."""
    kept = []
    clip, engine.accelerator.clip_grad_norm_ = (
        engine.accelerator.clip_grad_norm_,
        lambda parameters, bound: (kept.extend(p.grad.clone() for p in parameters if p.grad is not None), 1.0)[1],
    )
    try:
        step = engine.step(items, 0.0, **asked)
    finally:
        engine.accelerator.clip_grad_norm_ = clip
    return np.array(step.nll), torch.cat([g.flatten() for g in kept]), step.cost.hardware


def same(a, b):
    """The tolerance that `fitting` states."""
    assert a[0] == pytest.approx(b[0], rel=1e-6)
    assert float((a[1] - b[1]).norm() / b[1].norm()) < 1e-5


def runs_out(engine, monkeypatch, limit, recomputed=0):
    """The model has room for micro-batches of `limit` tokens only (of `recomputed` with recomputed activations)."""
    forward, sizes = engine.model.forward, []

    def full(pack, rows=0):
        sizes.append(pack.ids.numel())
        if sizes[-1] > (max(limit, recomputed) if engine.checkpointing else limit):
            raise torch.OutOfMemoryError(OOM)
        return forward(pack, rows) if rows else forward(pack)

    monkeypatch.setattr(engine.model, "forward", full)
    return sizes


def test_running_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(folder, monkeypatch):
    items = items_(24, 5)
    engine = Engine(folder, arch_of(folder), Optimizer(), 0)
    expected = gradient(engine, items)
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 1024)
    sizes = runs_out(engine, monkeypatch, 300)
    same(gradient(engine, items), expected)
    assert engine.shrunk == 256
    assert not engine.checkpointing
    failed = [n for n in sizes if n > 300]
    assert failed
    del sizes[:]
    same(gradient(engine, items), expected)  # the size that was found stays
    assert all(n <= 300 for n in sizes)


def test_a_failure_in_the_middle_of_a_batch_leaves_no_gradient_behind(folder, monkeypatch):
    """The second micro-batch fails after the first one's backward pass."""
    items = items_(24, 6)
    engine = Engine(folder, arch_of(folder), Optimizer(), 0)
    expected = gradient(engine, items)
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 256)
    forward, calls = engine.model.forward, []

    def full(pack, rows=0):
        calls.append(len(pack.items))
        if len(calls) == 2:
            raise torch.OutOfMemoryError(OOM)
        return forward(pack)

    monkeypatch.setattr(engine.model, "forward", full)
    same(gradient(engine, items), expected)
    assert sum(calls[2:]) == len(items)


def test_activations_are_recomputed_when_one_example_is_too_large_then_it_is_an_error(folder, monkeypatch):
    items = items_(6, 7, 90, 100)
    engine = Engine(folder, arch_of(folder), Optimizer(), 0)
    before = gradient(engine, items)
    with monkeypatch.context() as patched:
        runs_out(engine, patched, 10, recomputed=128)
        found = gradient(engine, items)
    same(found, before)
    assert engine.checkpointing
    assert found[2] > before[2]  # hardware FLOPs
    engine.shrunk = None
    weights = engine.weights()
    with monkeypatch.context() as patched:
        runs_out(engine, patched, 10)
        with pytest.raises(
            RunFailed, match=r"out of memory with one example of \d+ tokens at a time: CUDA out of memory"
        ):
            engine.step(items, 1.0)
    assert all(torch.equal(weights[n], t) for n, t in engine.weights().items())
    assert all(p.grad is None for p in engine.lm.parameters())


def test_looks_are_refitted_too_and_other_errors_are_not(folder, monkeypatch):
    engine = Workshop(folder, arch_of(folder), Optimizer(), 0)
    items = items_(12, 8)
    expected, logp = engine.evaluate(items), engine.logprobs(items)[0]
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 512)
    hidden = engine.model.hidden

    def full(pack):
        if pack.ids.numel() > 150:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return hidden(pack)

    monkeypatch.setattr(engine.model, "hidden", full)
    assert [s.nll for s in engine.evaluate(items)[0]] == pytest.approx([s.nll for s in expected[0]], rel=1e-6)
    engine.shrunk = None
    for a, b in zip(engine.logprobs(items)[0], logp, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    monkeypatch.setattr(engine.model, "hidden", lambda pack: (_ for _ in ()).throw(RuntimeError("a shape is wrong")))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        engine.evaluate(items)


def test_a_callback_is_asked_once_a_step_however_often_the_step_is_begun_again(folder, monkeypatch):
    items, calls = items_(24, 9), []

    def weighting(batch):
        calls.append(batch.nll.copy())
        return np.arange(len(batch)) / len(batch)

    engine = Engine(folder, arch_of(folder), Optimizer(), 0)
    expected = gradient(engine, items, example_weights=weighting)
    assert len(calls) == 1
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 512)
    runs_out(engine, monkeypatch, 200)
    begun_again = gradient(engine, items, example_weights=weighting)
    same(begun_again, expected)
    assert len(calls) == 2
    at_once = gradient(engine, items, example_weights=weighting)  # in parts that fit from the beginning
    assert begun_again[2] == pytest.approx(at_once[2], rel=0.02), "hardware FLOPs of the weights' own pass count"


@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_losses_in_parts_equal_the_whole_one(folder, monkeypatch, rows):
    """Loss and gradient by autograd through all logits at once, and the FLOPs of computing them twice."""
    items = items_(13, 10)
    engine = Engine(folder, arch_of(folder), Optimizer(), 0)
    whole = gradient(engine, items)
    monkeypatch.setitem(supervised.LOSS_BYTES, "cpu", rows * 4 * engine.vocabulary)
    parts = gradient(engine, items)
    same(parts, whole)
    supervised_tokens = sum(i.supervised for i in items)
    again = 2 * engine.arch.head * supervised_tokens if rows < supervised_tokens else 0
    assert parts[2] == whole[2] + again
    same(
        gradient(engine, items, objective=lambda t: t.p * t.nll),
        gradient(engine, items, objective=lambda t: t.p * t.nll),
    )


@pytest.mark.parametrize("mode", ["full", "lora", "checkpointing"])
def test_flat_rows_equal_packed_rows(folder, monkeypatch, mode):
    """Documents laid end to end under attention that knows their bounds; on a GPU a kernel does what is done by hand here."""
    arch, lora = arch_of(folder), LoraSpec(4, 8.0) if mode == "lora" else None
    items = items_(17, 11)
    packed = Workshop(folder, arch, Optimizer(), 0, lora)
    flat = Workshop(folder, arch, Optimizer(), 0, lora, checkpointing=mode == "checkpointing")
    flat.flat = True
    flat.lm.set_attn_implementation(NAME)
    ours, theirs = gradient(flat, items), gradient(packed, items)
    same(ours, theirs)
    assert flat.evaluate(items)[0] == [
        pytest.approx(s) if not hasattr(s, "nll") else type(s)(pytest.approx(s.nll, rel=1e-5), s.supervised, s.match)
        for s in packed.evaluate(items)[0]
    ]
    grams = [e.gradients(items, "last:1", False, 0).gram() for e in (flat, packed)]
    assert grams[0] == pytest.approx(grams[1], rel=1e-3, abs=1e-6)
    prompts = [[5, 6, 7], [8, 9, 10, 11]]
    one, two = (e.generate(prompts, 4, 0.0, 1.0, 1, 0, lambda cost: None, None) for e in (flat, packed))
    assert one == two
    if mode == "full":  # real tokens, and each document's own square
        t, s = sum(i.tokens for i in items), sum(i.supervised for i in items)
        squares = sum(i.tokens**2 for i in items)
        assert ours[2] == 3 * (2 * arch.block * t + 2 * arch.head * s + 4 * arch.attention * squares)


def test_flat_micro_batches_hold_every_document_once_and_no_more_tokens_than_asked():
    items = items_(40, 12)
    found = list(packs(items, 200, 0, flat=True))
    assert sorted(i for p in found for i in p.items) == list(range(40))
    assert all(p.ids.shape == (1, sum(items[i].tokens for i in p.items)) for p in found)
    assert all(p.ids.numel() <= 200 for p in found)
    for p in found:
        assert [b - a for a, b in pairwise(p.starts.tolist())] == [items[i].tokens for i in p.items]
        predicted = p.ids.flatten()[p.gather[1:]]  # a target is the next token's input, within a document
        inside = p.gather[1:] == p.gather[:-1] + 1
        assert torch.equal(predicted[inside], p.targets[:-1][inside])


def test_attention_by_documents_with_fewer_key_heads_equals_a_mask():
    torch.manual_seed(0)
    q, k, v = torch.randn(30, 4, 8), torch.randn(30, 2, 8), torch.randn(30, 2, 8)
    starts = torch.tensor([0, 1, 13, 30], dtype=torch.int32)
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor([1, 12, 17]))
    mask = (owner[:, None] == owner) & torch.ones(30, 30, dtype=torch.bool).tril()
    wide = [x.repeat_interleave(4 // x.shape[1], 1).transpose(0, 1) for x in (q, k, v)]
    scores = (wide[0] @ wide[1].mT * 0.3).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ wide[2]).transpose(0, 1)
    assert torch.allclose(one_by_one(q, k, v, starts, 17, 0.3), expected, atol=1e-6)


def test_compiled_blocks_compile_a_bounded_number_of_times(folder, monkeypatch):
    """The plumbing, by a compiler that only traces: shapes vary, hooks outside of `compiled` are still seen."""
    monkeypatch.setenv("HARNESS_COMPILE", "1")
    graphs, torch_compiler = [], torch.compiler

    def trace(graph, inputs):
        graphs.append(graph)
        return graph.forward

    engine = Engine(folder, arch_of(folder), Optimizer(), 0)
    expected = [gradient(engine, items_(9, seed)) for seed in range(6)]
    try:
        assert supervised.compile_blocks(engine.lm, torch.device("cpu"), trace)
        engine.compiled = True
        for seed in range(6):
            same(gradient(engine, items_(9, seed)), expected[seed])
        assert 0 < len(graphs) <= supervised.RECOMPILATIONS * 3
        made, seen = len(graphs), []
        handle = next(m for m in engine.lm.modules() if type(m).__name__ in ("Linear", "Conv1D")).register_forward_hook(
            lambda *args: seen.append(1)
        )
        engine.evaluate(items_(3, 1))
        handle.remove()
        assert seen
        assert len(graphs) == made
    finally:
        torch_compiler.set_stance("default")
        torch._dynamo.reset()


def test_recomputed_activations_are_those_of_the_compiled_blocks(folder, monkeypatch):
    """By a compiler that keeps other tensors for the backward pass than eager blocks do, as inductor does."""
    monkeypatch.setenv("HARNESS_COMPILE", "1")
    engine = Engine(folder, arch_of(folder), Optimizer(), 0, checkpointing=True)
    expected = gradient(engine, items_(9, 1))
    try:
        assert supervised.compile_blocks(engine.lm, torch.device("cpu"), "aot_eager")
        engine.compiled = True
        same(gradient(engine, items_(9, 1)), expected)
    finally:
        torch.compiler.set_stance("default")
        torch._dynamo.reset()


def test_a_library_without_room_for_its_handle_is_out_of_memory():
    said = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert fitting.out_of_memory(RuntimeError(said))
    assert not fitting.out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"))


def test_rounding_to_bf16_at_random_has_the_value_as_its_mean():
    values = torch.tensor([1.0, 1.001, -1.003, 3e-8, -2.7e5, 0.0])
    draws = torch.stack([narrow(values, torch.Generator().manual_seed(s)).double() for s in range(4000)])
    spread = values.abs().double() * 2**-8
    assert bool(((draws.mean(0) - values.double()).abs() <= 4 * spread / 4000**0.5 + 1e-30).all())
    assert bool((draws[:, 0] == 1).all())
    assert bool((draws[:, 5] == 0).all())


def quadratic(optimizer, parameter, steps, start=0):
    """Noisy gradients of a sum of squares with its minimum at 1."""
    for t in range(start, start + steps):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(t))
        parameter.grad = 2 * (parameter.detach() - 1) + 0.1 * noise
        optimizer.step()
    return parameter.detach().clone()


def test_bf16_moments_train_as_fp32_moments_do_and_take_half_the_room():
    rates = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    one, two = (torch.nn.Parameter(torch.linspace(-2, 2, 512)) for _ in range(2))
    ours, theirs = NarrowAdamW([one], **rates, seed=3), torch.optim.AdamW([two], **rates)
    for steps in (1, 400):
        a, b = quadratic(ours, one, steps), quadratic(theirs, two, steps)
        assert float((a - b).abs().max()) < 0.03
    square = ours.state[one]["exp_avg_sq"]
    assert square.dtype == torch.bfloat16
    assert square.element_size() * 2 == theirs.state[two]["exp_avg_sq"].element_size()
    # The second moment follows: its mean over parameters is that of fp32 to a per cent.
    assert float(square.float().mean()) == pytest.approx(float(theirs.state[two]["exp_avg_sq"].mean()), rel=0.01)


def test_training_with_bf16_moments_goes_on_bitwise_and_a_suite_asks_for_it(tiny, toy):
    items = items_(8, 13)
    engine = Engine(tiny, arch_of(tiny), Optimizer(), 4, bf16_moments=True)
    engine.step(items, 1e-3)
    weights, moments = engine.weights(), engine.moments()
    assert {t.dtype for k, t in moments.items() if not k.endswith("step")} == {torch.bfloat16}
    expected = [engine.step(items, 1e-3).nll for _ in range(3)]
    engine.load_weights(weights)
    engine.load_moments(moments)
    assert [engine.step(items, 1e-3).nll for _ in range(3)] == expected
    suite = load_suite(str(toy))
    asked = suite.model_copy(update={"train": suite.train.model_copy(update={"bf16_moments": True})})
    assert asked.sha256("full") != suite.sha256("full")


def test_what_fits_is_said():
    class Small:
        shrunk, checkpointing, device = 128, True, torch.device("cpu")

    assert fitting.described(Small()) == {"micro_tokens": 128, "checkpointing": True}
