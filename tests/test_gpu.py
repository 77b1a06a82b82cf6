"""What only a GPU can show: its attention kernel, its memory, its copies. `benchmarks/gpu.sh` runs these."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness import attention, supervised
from harness.checkpoint import Store
from harness.engine import MICRO_TOKENS, Engine
from harness.suite import Optimizer
from tests.conftest import make_model
from tests.test_engine import items_
from tests.test_fitting import arch_of, gradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BF16 = 2e-2  # relative: losses and gradients in bf16 by two orders of sums


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("g") / "qwen2")


@pytest.fixture
def make(folder, monkeypatch):
    """Engines on the GPU, in bf16 over fp32 weights."""
    monkeypatch.setenv("HARNESS_DEVICE", "cuda")

    def engine(masked=False, **asked):
        made = Engine(folder, arch_of(folder), Optimizer(), 0, **asked)
        assert made.device.type == "cuda"
        if masked:
            made.flat = False
            made.lm.set_attn_implementation("sdpa")
        return made

    return engine


def close(a, b, tolerance=BF16):
    """Losses by item, and the direction and length of the gradient."""
    assert a[0] == pytest.approx(b[0], rel=tolerance)
    assert float((a[1] - b[1]).norm() / b[1].norm()) < 2.5 * tolerance


def test_the_kernel_for_variable_lengths_is_used_and_equals_the_masked_one(make):
    assert attention.usable(torch.device("cuda", torch.cuda.current_device()))
    items = items_(40, 1)
    flat = make()
    assert flat.flat
    close(gradient(flat, items), gradient(make(masked=True), items))
    ours, theirs = flat.evaluate(items)[0], make(masked=True).evaluate(items)[0]
    assert [s.nll for s in ours] == pytest.approx([s.nll for s in theirs], rel=BF16)


def test_losses_agree_with_the_cpu_in_fp32(make, folder, monkeypatch):
    """The second of the three levels of reproducibility: numbers to a tolerance."""
    items = items_(24, 2)
    gpu = gradient(make(), items)
    monkeypatch.setenv("HARNESS_DEVICE", "cpu")
    # accelerate's state is the process's own: the reference is computed by hand, on the host.
    lm = supervised.load(folder, torch.device("cpu"))
    for item, nll in zip(items, gpu[0], strict=True):
        ids = torch.tensor([item.ids])
        logits = lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, -item.supervised :], reduction="sum")
        assert nll == pytest.approx(expected.item(), rel=BF16)


def test_losses_in_parts_take_less_memory_and_change_nothing(make, monkeypatch):
    items = items_(400, 3, 30, 60)
    engine = make()
    whole = gradient(engine, items)
    torch.cuda.reset_peak_memory_stats()
    gradient(engine, items)
    high = torch.cuda.max_memory_allocated()
    monkeypatch.setitem(supervised.LOSS_BYTES, "cuda", 64 * 4 * engine.vocabulary)
    torch.cuda.reset_peak_memory_stats()
    parts = gradient(engine, items)
    assert torch.cuda.max_memory_allocated() <= high
    close(parts, whole)


def test_a_real_lack_of_memory_halves_the_micro_batch(make, monkeypatch):
    items = items_(600, 4, 60, 90)
    engine = make()
    monkeypatch.setitem(MICRO_TOKENS, "cuda", 2048)
    expected = gradient(engine, items)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    gradient(engine, items)
    room = torch.cuda.max_memory_allocated() * 2 + 64 * 2**20
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    monkeypatch.setitem(MICRO_TOKENS, "cuda", 2**20)
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))
    try:
        close(gradient(engine, items), expected)
        assert engine.shrunk or torch.cuda.max_memory_allocated() <= room
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_hardware_flops_equal_the_counter(make):
    """Eager attention, whose every product the counter sees; see docs/flops.md."""
    engine = make(masked=True)
    engine.lm.set_attn_implementation("eager")
    items = items_(24, 5)
    pack = next(iter(engine.packs(items)))
    additive = torch.zeros(pack.mask.shape, device=pack.mask.device).masked_fill(~pack.mask, -1e9)
    object.__setattr__(pack, "mask", additive)
    with FlopCounterMode(display=False) as counter, engine.accelerator.autocast():
        engine.model(pack).float().sum().backward()
    assert counter.get_total_flops() == pytest.approx(engine._gradient_cost(pack, again=False), rel=0.01)
    engine.optimizer.zero_grad()


def test_copies_lie_in_pinned_memory_and_are_of_their_moment(make):
    engine = make()
    items = items_(16, 6)
    engine.step(items, 1e-3)
    kept, moments = engine.weights(), engine.moments()
    assert all(t.is_pinned() and t.device.type == "cpu" for t in kept.values())
    before = {n: t.clone() for n, t in kept.items()}
    expected = engine.step(items, 1e-2)
    assert all(torch.equal(before[n], t) for n, t in kept.items())
    engine.load_weights(kept)
    engine.load_moments(moments)
    assert np.array(engine.step(items, 1e-2).nll) == pytest.approx(np.array(expected.nll), rel=1e-3)


def test_a_checkpoint_that_is_still_on_its_way_is_of_its_moment(make, tmp_path):
    """Steps that are asked for before its copies have arrived come after them."""
    engine, store = make(), Store(tmp_path / "c")
    items = items_(16, 8)
    engine.step(items, 1e-3)
    expected = engine.weights()
    store.save("1:1", {"model": engine.weights(wait=False), "optimizer": engine.moments(wait=False)}, {})
    for _ in range(3):
        engine.step(items, 1e-2)
    found = store.load("1:1")[0]["model"]
    assert all(torch.equal(expected[n], t) for n, t in found.items())
    assert any(not torch.equal(found[n], t) for n, t in engine.weights().items())


def test_bf16_moments_take_half_the_device(make):
    items, taken = items_(16, 7), []
    for narrow in (False, True):
        engine = make(bf16_moments=narrow)
        engine.step(items, 1e-3)
        taken.append(sum(v.nbytes for row in engine.optimizer.state.values() for v in row.values() if v.ndim))
    assert taken[1] * 2 == taken[0]


def test_compiled_blocks_equal_the_others_on_batches_of_many_shapes(make, monkeypatch):
    plain = make()
    expected = [gradient(plain, items_(20 + seed, seed)) for seed in range(6)]
    monkeypatch.setenv("HARNESS_COMPILE", "1")
    try:
        engine = make()
        assert engine.compiled
        for seed in range(6):
            close(gradient(engine, items_(20 + seed, seed)), expected[seed])
        assert torch._dynamo.config.recompile_limit == supervised.RECOMPILATIONS
    finally:
        torch.compiler.set_stance("default")
        torch._dynamo.reset()


def test_a_released_engine_leaves_the_device(make):
    first = make()
    first.step(items_(16, 8), 1e-3)  # what cuBLAS takes once for a process
    first.release()
    before = torch.cuda.memory_allocated()
    engine = make()
    engine.step(items_(16, 8), 1e-3)
    assert torch.cuda.memory_allocated() > before
    engine.release()
    assert torch.cuda.memory_allocated() <= before + 2**20
