"""Objectives and example weights against autograd over one document at a time."""

import json

import numpy as np
import pytest
import torch

from harness.engine import MICRO_TOKENS, Engine, packs
from harness.errors import RunFailed
from harness.flops import Arch
from harness.suite import Optimizer
from harness.tokens import Frame
from tests.conftest import make_model
from tests.test_engine import items_

ITEMS = items_(17, 2)
TOTAL = sum(i.supervised for i in ITEMS)


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def engine(request, tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("m") / request.param, request.param)
    return Engine(folder, Arch.from_config(json.loads((folder / "config.json").read_text())), Optimizer(), 0)


@pytest.fixture
def split(monkeypatch):
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 100)
    assert len(list(packs(ITEMS, 100, 0))) > 2


def gradient(engine, *args):
    """The gradient that a step would apply, flat, before clipping; the weights stay as they are."""
    engine._backward(ITEMS, Frame(ITEMS, args[2], 0.1, 0.5), args[0], args[1])
    flat = torch.cat([p.grad.flatten() for p in engine.lm.parameters()])
    engine.optimizer.zero_grad()
    return flat


def reference(engine, per_token, weights=None):
    """Gradient of sum of w * per_token(logits, gold) over documents run alone / supervised tokens of the batch."""
    loss = torch.zeros(())
    for k, item in enumerate(ITEMS):
        ids = torch.tensor([item.ids])
        logits = engine.lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
        loss = loss + (1 if weights is None else weights[k]) * per_token(logits, ids[0, -item.supervised :], item).sum()
    (loss / TOTAL).backward()
    flat = torch.cat([p.grad.flatten() for p in engine.lm.parameters()])
    engine.optimizer.zero_grad()
    return flat


def logp(logits, gold, item=None):
    return logits.log_softmax(-1).gather(1, gold[:, None])[:, 0]


def close(a, b):
    return float((a - b).norm() / b.norm()) < 1e-4


def entropy(logits, gold, item, k=None):
    p = (logits if k is None else logits.topk(k).values).softmax(-1)
    return -(p * p.log()).sum(-1)


OBJECTIVES = {
    "nll": (lambda t: t.nll, lambda z, y, i: -logp(z, y)),
    "dft is the gradient of -p": (lambda t: t.p * t.nll, lambda z, y, i: -logp(z, y).exp()),
    "logp": (lambda t: -(t.logp**2), lambda z, y, i: -(logp(z, y) ** 2)),
    "entropy": (lambda t: t.entropy(), entropy),
    "entropy of the top 5": (lambda t: t.entropy(5), lambda z, y, i: entropy(z, y, i, 5)),
    "logits": (lambda t: t.logits[:, 3] ** 2, lambda z, y, i: z[:, 3] ** 2),
    "example": (lambda t: t.nll * t.example, lambda z, y, i: -logp(z, y) * ITEMS.index(i)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_of_an_objective_is_autograds_and_does_not_depend_on_the_split(engine, name, monkeypatch):
    ours, theirs = OBJECTIVES[name]
    expected = reference(engine, theirs)
    assert close(gradient(engine, ours, None, None), expected)
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 100)
    assert close(gradient(engine, ours, None, None), expected)


def test_example_weights_see_the_whole_batch_whatever_the_split(engine, monkeypatch):
    seen = []

    def weigh(batch):
        seen.append(batch)
        return np.exp(batch.nll - batch.nll.mean()) / batch.tokens

    whole = gradient(engine, None, weigh, None)
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 100)
    parts = gradient(engine, None, weigh, None)
    assert len(seen) == 2
    assert seen[0].ids == seen[1].ids == tuple(i.id for i in ITEMS)
    assert seen[0].task == ("a",) * len(ITEMS)
    assert seen[0].tokens.tolist() == [i.supervised for i in ITEMS]
    assert seen[0].nll == pytest.approx(seen[1].nll, rel=1e-5)
    weights = np.exp(seen[0].nll - seen[0].nll.mean()) / seen[0].tokens
    expected = reference(engine, lambda z, y, i: -logp(z, y), weights)
    assert close(whole, expected)
    assert close(parts, expected)


def test_statistics_cost_hardware_only_and_only_when_the_batch_was_split(engine, monkeypatch):
    ones = lambda batch: np.ones(len(batch))  # noqa: E731
    plain, weighted = engine.step(ITEMS, 0.0), engine.step(ITEMS, 0.0, None, ones)
    assert plain.cost == weighted.cost
    monkeypatch.setitem(MICRO_TOKENS, "cpu", 100)
    plain, weighted = engine.step(ITEMS, 0.0), engine.step(ITEMS, 0.0, None, ones)
    assert weighted.cost.model == plain.cost.model
    assert weighted.cost.hardware * 3 == plain.cost.hardware * 4


def test_trivial_callbacks_change_no_bit(engine):
    results = []
    for callbacks in [(), (lambda t: t.nll,), (None, lambda b: np.ones(len(b)))]:
        engine.load_base()
        engine.fresh_optimizer()
        steps = [engine.step(ITEMS, 1e-3, *callbacks) for _ in range(3)]
        results.append([(s.nll, s.grad_norm) for s in steps])
    assert results[0] == results[1] == results[2]


def test_references_and_context_reach_the_objective(engine, split):
    given = [np.arange(i.supervised, dtype=np.float32) + k for k, i in enumerate(ITEMS)]
    rows = {}

    def objective(t):
        for k, r, c in zip(t.example.tolist(), t.reference("base").tolist(), t.task.tolist(), strict=True):
            rows.setdefault(k, []).append(r)
            assert t.tasks[c] == "a"
        assert (t.lr, t.progress) == (0.0, 0.25)
        return t.nll * t.reference("base")

    engine.step(ITEMS, 0.0, objective, references={"base": given}, progress=0.25)
    assert [rows[k] for k in range(len(ITEMS))] == [g.tolist() for g in given]


BAD = {
    "expected one loss per supervised token": (lambda t: t.nll.sum(), None),
    "returned float": (lambda t: 1.0, None),
    "without a gradient": (lambda t: t.p, None),
    "loss is not finite": (lambda t: t.nll * float("nan"), None),
    "no reference 'x'": (lambda t: t.reference("x"), None),
    "gave -1.0 to example a/0": (None, lambda b: -np.ones(len(b))),
    "gave nan to example a/3": (None, lambda b: np.where(np.arange(len(b)) == 3, np.nan, 1)),
    "gave inf": (None, lambda b: np.full(len(b), np.inf)),
    r"shape \(3,\)": (None, lambda b: np.ones(3)),
    r"shape \(\)": (None, lambda b: 1.0),
    "example_weights returned str": (None, lambda b: "many"),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("micro", [100, 4096])
def test_what_cannot_be_used_is_refused_and_leaves_no_trace(engine, message, micro, monkeypatch):
    monkeypatch.setitem(MICRO_TOKENS, "cpu", micro)
    before = engine.weights()
    with pytest.raises(RunFailed, match=message):
        engine.step(ITEMS, 1e-3, *BAD[message])
    assert all(torch.equal(before[n], w) for n, w in engine.weights().items())
    assert all(p.grad is None for p in engine.lm.parameters())


def test_a_reference_that_does_not_fit_is_refused(engine):
    for given, message in [([np.ones(2)], "1 arrays for 17"), ([np.ones(99)] * 17, "99 values")]:
        with pytest.raises(RunFailed, match=message):
            engine.step(ITEMS, 0.0, lambda t: t.nll * t.reference("r"), references={"r": given})
