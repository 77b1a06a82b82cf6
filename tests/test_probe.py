"""Probes against one document at a time through the plain model."""

import json

import numpy as np
import pytest
import torch

import harness.probe as probe
from harness.engine import MICRO_TOKENS, Engine
from harness.errors import RunFailed
from harness.flops import Arch
from harness.probe import distributions, logprobs
from harness.suite import Optimizer
from tests.conftest import make_model
from tests.test_engine import items_

ITEMS = items_(17, 5)


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def engine(request, tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("m") / request.param, request.param)
    return Engine(folder, Arch.from_config(json.loads((folder / "config.json").read_text())), Optimizer(), 0)


@pytest.fixture(params=["whole", "chunks"], autouse=True)
def chunks(request, monkeypatch):
    """Several micro-batches, and chunks of logits that cut through items."""
    if request.param == "chunks":
        monkeypatch.setitem(MICRO_TOKENS, "cpu", 100)
        monkeypatch.setattr(probe, "LOGIT_ROWS", 5)


@torch.no_grad()
def alone(engine, item):
    """Log-probabilities (S, V) and gold ids (S,) of one document by itself."""
    ids = torch.tensor([item.ids])
    logits = engine.lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
    return logits.log_softmax(-1), ids[0, -item.supervised :]


def test_logprobs_are_those_of_each_document_alone(engine):
    rows, hardware = logprobs(engine, ITEMS)
    for item, row in zip(ITEMS, rows, strict=True):
        logp, gold = alone(engine, item)
        assert row.dtype == np.float32
        assert row == pytest.approx(logp.gather(1, gold[:, None])[:, 0].numpy(), rel=1e-4)
    assert hardware == engine.evaluate(ITEMS)[1] > 0


def test_top_k_and_tail_are_those_of_each_document_alone(engine):
    found, hardware = distributions(engine, ITEMS, 7)
    for item, d in zip(ITEMS, found, strict=True):
        logp, _ = alone(engine, item)
        top = logp.topk(7)
        assert d.ids.shape == d.logp.shape == (item.supervised, 7)
        assert (d.ids == top.indices.numpy()).mean() > 0.95  # near ties may swap
        assert d.logp == pytest.approx(top.values.numpy(), rel=1e-4)
        assert d.tail == pytest.approx(1 - top.values.exp().sum(-1).numpy(), abs=1e-5)
    assert hardware == engine.evaluate(ITEMS)[1]


def test_support_gives_exactly_those_tokens(engine):
    rng = np.random.default_rng(0)
    support = [rng.permutation(300)[: 3 * i.supervised].reshape(-1, 3) for i in ITEMS]
    found, _ = distributions(engine, ITEMS, support=support)
    for item, ids, d in zip(ITEMS, support, found, strict=True):
        logp, _ = alone(engine, item)
        assert (d.ids == ids).all()
        assert d.logp == pytest.approx(logp.gather(1, torch.from_numpy(ids)).numpy(), rel=1e-4)
        assert d.tail + np.exp(d.logp).sum(-1) == pytest.approx(1, abs=1e-5)


def test_a_whole_vocabulary_leaves_no_tail_and_nothing_gives_nothing(engine):
    found, _ = distributions(engine, ITEMS[:2], 10**6)
    assert found[0].ids.shape[1] == engine.lm.config.vocab_size
    assert found[0].tail.tolist() == [0.0] * ITEMS[0].supervised
    assert logprobs(engine, []) == ([], 0)


def test_probes_leave_no_gradient(engine):
    logprobs(engine, ITEMS)
    assert all(p.grad is None and p.requires_grad for p in engine.lm.parameters())


def test_what_cannot_be_looked_up_is_refused(engine):
    good = [np.zeros((i.supervised, 2), dtype=np.int64) for i in ITEMS]
    cases = {
        "1 arrays for 17": good[:1],
        "must be integers": [g.astype(float) for g in good],
        r"shape \(\d+, k\)": [np.zeros((99, 2), dtype=np.int64)] * 17,
        "outside 0..": [g - 1 for g in good],
    }
    for message, support in cases.items():
        with pytest.raises(RunFailed, match=message):
            distributions(engine, ITEMS, support=support)
