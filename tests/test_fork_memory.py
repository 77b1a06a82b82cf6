"""Forks hold one model in the engine, the parent's weights in host memory, and leave nothing behind."""

import gc
import tracemalloc
from contextlib import suppress

import pytest
import torch

from tests.labs import make_lab

FORKS = 30


def storages():
    """Bytes of all tensors that are alive, by device; what shares a storage counts once."""
    gc.collect()
    seen = {}
    for x in gc.get_objects():
        if issubclass(type(x), torch.Tensor) and x.device.type != "meta":
            storage = x.untyped_storage()
            with suppress(RuntimeError):  # what torch.compile leaves of its tracing has no bytes
                seen[x.device.type, storage.data_ptr()] = storage.nbytes()
    totals = {"cpu": 0, "cuda": 0}
    for (device, _), size in seen.items():
        totals[device] += size
    return totals


def models():
    gc.collect()
    return sum(type(x).__name__.endswith("ForCausalLM") for x in gc.get_objects())


def proxy(lab, task, look=lambda child: None, budget="0.02 budget"):
    """What a proxy does: train on one task, look at items of all; it keeps no checkpoint, which would outlive it."""
    held = [e for t in lab.tasks for e in lab.sample(t, 2, "validation")]
    with lab.fork("proxy", budget=budget) as child:
        child.train(child.only(task), "2 step", keep="none")
        look(child)
        child.logprobs(held)
        child.distributions(held, top_k=4)
        child.train(child.only(task), keep="none")


def test_the_parents_weights_wait_in_host_memory_and_no_second_model_exists(tmp_path, toy, tiny):
    lab, _, engine, _ = make_lab(tmp_path, toy, tiny, budget=2)
    lab.train(lab.proportional(), "3 step", keep="none")
    before, moments, alone = engine.weights(), engine.moments(), models()
    parameters = [id(p) for p in engine.lm.parameters()]
    seen = []

    def look(child):
        held = child._session.levels[0].held
        seen.append(models())
        assert [id(p) for p in engine.lm.parameters()] == parameters
        for group, mine in (("model", before), ("optimizer", moments)):
            assert held[group].keys() == mine.keys()
            assert all(t.device.type == "cpu" and torch.equal(t, mine[k]) for k, t in held[group].items())
        assert any(not torch.equal(before[k], v) for k, v in engine.weights().items())
        with child.fork("probe", start="now") as inner:
            inner.train(inner.uniform(), "1 step", keep="none")
            assert len(inner._session.levels) == 3
            seen.append(models())

    proxy(lab, "copy", look, "0.5 budget")
    gc.collect()
    assert seen == [alone] * 2
    assert models() == alone
    assert not lab._session.levels[0].held
    assert all(torch.equal(before[k], v) for k, v in engine.weights().items())


def test_memory_is_flat_over_thirty_forks(tmp_path, toy, tiny):
    """Tensors to the byte; what Python holds grows by the bookings of a fork's verbs and by nothing of a model's size."""
    lab, core, engine, _ = make_lab(tmp_path, toy, tiny, budget=4)
    lab.train(lab.proportional(), "2 step", keep="none")
    model = sum(p.numel() * p.element_size() for p in engine.lm.parameters())
    tensors, python = [], []
    for k in range(FORKS):
        if k == FORKS - 4:
            tracemalloc.start()
        proxy(lab, ("copy", "flip", "next")[k % 3])
        if k in (2, 3, 4, FORKS - 1):
            tensors.append(storages()["cpu"])
        python.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(set(tensors)) == 1, tensors
    assert tensors[0] < 6 * model  # weights, two moments, and little besides
    assert (python[-1] - python[-3]) / 2 < model / 4, python
    assert len(core.store.names()) == 0
    assert len(lab._session.levels) == 1
    assert core.ledger.spent < core.ledger.cap


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fork_takes_no_more_of_the_device_than_training(tmp_path, toy, tiny, monkeypatch):
    monkeypatch.setenv("HARNESS_DEVICE", "cuda")
    lab, *_ = make_lab(tmp_path, toy, tiny, budget=4)
    lab.train(lab.proportional(), "2 step", keep="none")
    gc.collect()  # engines of earlier tests
    alone, peaks = torch.cuda.memory_allocated(), []
    for k in range(FORKS):
        torch.cuda.reset_peak_memory_stats()
        proxy(lab, ("copy", "flip", "next")[k % 3])
        peaks.append(torch.cuda.max_memory_allocated())
    gc.collect()
    assert torch.cuda.memory_allocated() == alone
    assert max(peaks[-3:]) <= max(peaks[:3]), peaks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fork_of_another_model_takes_this_ones_place_on_the_device(tmp_path, toy, tiny, monkeypatch):
    monkeypatch.setenv("HARNESS_DEVICE", "cuda")
    lab, _, engine, _ = make_lab(tmp_path, toy, tiny, budget=4)
    lab.train(lab.proportional(), "2 step", keep="none")
    gc.collect()
    alone = torch.cuda.memory_allocated()
    for k in range(3):
        with lab.fork("proxy", model=str(tiny), budget="0.1 budget") as child:
            assert {p.device.type for p in engine.lm.parameters()} == {"cpu"}
            assert {p.device.type for p in child._core.engine.lm.parameters()} == {"cuda"}
            child.train(child.uniform(), "2 step", keep="none")
            assert torch.cuda.memory_allocated() <= 1.1 * alone, k
        assert {p.device.type for p in child._core.engine.lm.parameters()} == {"cpu"}
        gc.collect()
        assert torch.cuda.memory_allocated() <= 1.1 * alone, k
    lab.train(lab.proportional(), "2 step", keep="none")
