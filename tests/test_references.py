"""Objectives that compare with another checkpoint: values, gradients and bills against autograd."""

import numpy as np
import pytest
import torch

import harness.engine as engines
from harness.api import HarnessError
from harness.errors import RunFailed
from tests.conftest import make_model, make_suite
from tests.labs import make_lab
from tests.test_verbs import alone, forward


@pytest.fixture(params=["full", "lora"])
def lab_(request, tmp_path):
    """A lab past its first steps, at a rate that moves: (lab, core, engine, plan)."""
    suite = make_suite(tmp_path / "suite", lora={"r": 4, "alpha": 8}, optimizer={"clip": 1e9})
    model = make_model(tmp_path / "model", "llama" if request.param == "lora" else "qwen2")

    def make(**asked):
        lab, core, engine, plan = make_lab(tmp_path / "runs", suite, model, mode=request.param, **asked)
        lab.train(lab.proportional(), "3 step", keep="none")
        return lab, core, engine, plan

    return make


@pytest.fixture(params=["whole", "parts"])
def parts(request, monkeypatch):
    """One micro-batch, or several."""
    if request.param == "parts":
        monkeypatch.setitem(engines.MICRO_TOKENS, "cpu", 60)


def norm_of_step(engine, monkeypatch):
    """Norms of gradients before clipping, as the engine steps."""
    seen = []
    step = type(engine).step

    def watched(self, *args, **kwargs):
        done = step(self, *args, **kwargs)
        seen.append(done.grad_norm)
        return done

    monkeypatch.setattr(type(engine), "step", watched)
    return seen


def norm(engine, loss):
    trained = [p for p in engine.lm.parameters() if p.requires_grad]
    return float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)]).norm())


def live(engine, item):
    ids = torch.tensor([item.ids])
    return engine.lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :].log_softmax(-1), ids[0, -item.supervised :]


def test_a_reference_is_the_logprobs_of_that_checkpoint_and_its_gradient_autograds(lab_, parts, monkeypatch):
    lab, core, engine, plan = lab_()
    batch, there = lab.draw(lab.uniform()), lab.checkpoint()
    lab.train(lab.proportional(), "3 step", keep="none")
    items, seen, norms = core.data.items(batch), {}, norm_of_step(engine, monkeypatch)
    spent = core.ledger.spent
    expected = lab.logprobs(batch, at=there)
    assert core.ledger.spent - spent == forward(plan, items)
    loss = 0.0
    for item, ref in zip(items, expected, strict=True):
        logp, ids = live(engine, item)
        nll = -logp.gather(1, ids[:, None])[:, 0]
        loss = loss + (nll * (2.0 + torch.from_numpy(ref))).sum()
    by_hand = norm(engine, loss / sum(i.supervised for i in items))

    def objective(t):
        for k in set(t.example.tolist()):
            seen[k] = t.reference(there)[t.example == k].numpy()
        return t.nll * (2.0 + t.reference(there))

    lab.train(lab.just(batch), "1 step", keep="none", objective=objective, references=[there])
    assert all(np.array_equal(seen[k], row) for k, row in enumerate(expected))
    assert norms[-1] == pytest.approx(by_hand, rel=1e-3)


def test_a_kl_to_other_weights_has_autograds_gradient(lab_, parts, monkeypatch):
    lab, core, engine, plan = lab_()
    batch, there = lab.draw(lab.uniform()), lab.checkpoint()
    items, norms = core.data.items(batch), norm_of_step(engine, monkeypatch)
    base = [alone(engine.lm, item)[0] for item in items]
    lab.train(lab.proportional(), "5 step", keep="none")
    loss = 0.0
    for item, old in zip(items, base, strict=True):
        logp, _ = live(engine, item)
        loss = loss + (logp.exp() * (logp - old)).sum()
    by_hand = norm(engine, loss / sum(i.supervised for i in items))

    def kl(t):
        logp = t.logits.log_softmax(-1)
        return (logp.exp() * (logp - t.reference_logits(there).log_softmax(-1))).sum(-1)

    before = engine.weights()
    spent = core.ledger.spent
    lab.train(lab.just(batch), "2 step", keep="none", objective=kl, reference_logits=[there, there])
    assert norms[-2] == pytest.approx(by_hand, rel=2e-3)
    step = sum(plan.arch.train_step(i.tokens, i.supervised) for i in items)
    if plan.identity.mode == "lora":
        step = sum(engine.arch.train_step(i.tokens, i.supervised) for i in items)
    assert core.ledger.spent - spent == 2 * (step + forward(plan, items))
    assert any(not torch.equal(before[n], w) for n, w in engine.weights().items())


def test_a_kl_to_the_weights_themselves_pulls_nowhere(lab_, monkeypatch):
    lab, _, engine, _ = lab_()
    here, norms = lab.checkpoint(), norm_of_step(engine, monkeypatch)

    def kl(t):
        logp = t.logits.log_softmax(-1)
        return (logp.exp() * (logp - t.reference_logits(here).log_softmax(-1))).sum(-1)

    lab.train(lab.uniform(), "1 step", keep="none", objective=kl, reference_logits=[here])
    assert norms[-1] < 1e-5


def test_references_are_billed_once_a_version_in_the_training_phase(lab_):
    lab, core, engine, plan = lab_()
    base, batch = lab.checkpoint(), lab.draw(lab.uniform())
    same = [batch[0], *batch[:3]]  # one example twice in a batch is looked at once
    price = lambda examples: sum(  # noqa: E731
        engine.arch.train_step(i.tokens, i.supervised) for i in core.data.items(examples)
    )

    def bill(examples):
        spent, n = core.ledger.spent, len(core.ledger.entries)
        ask = {"objective": lambda t: t.nll - 0.1 * t.reference(base) * t.nll, "references": [base, base]}
        lab.train(lab.just(examples), "1 step", keep="none", **ask)
        assert {e.phase for e in core.ledger.entries[n:]} <= {"train", "look"}
        return core.ledger.spent - spent - price(examples)

    assert bill(same) == forward(plan, core.data.items(batch[:3]))
    assert bill(same) == 0
    assert bill(batch) == forward(plan, core.data.items(batch[3:]))
    new = lab.rewrite(batch[0], " 31")
    assert bill([new, *batch[1:]]) == forward(plan, core.data.items([new]))
    lab.train(lab.uniform(), "2 step", keep="none")
    assert bill([new, *batch[1:]]) == 0  # the base can always be looked through


def test_the_cap_holds_with_references_and_their_forward_passes_are_asked_for_first(lab_):
    lab, core, _, _ = lab_(budget=0.5)
    base = lab.checkpoint()
    ask = {"references": [base], "reference_logits": [base], "eval_every": "3 step"}
    h = lab.train(lab.proportional(), keep="best", objective=lambda t: t.nll + t.reference(base) * 0, **ask)
    assert h.cut
    assert h.last.step == h.steps
    assert core.ledger.remaining >= 0


def test_the_base_is_read_once_a_stage(lab_, monkeypatch):
    lab, core, engine, _ = lab_()
    with lab.fork("probe") as child:
        start = child.checkpoint()
    assert start.weights == "base"
    reads, base = [], type(engine).base
    monkeypatch.setattr(type(engine), "base", lambda self: reads.append(1) or base(self))
    ask = {"references": [start], "reference_logits": [start]}
    lab.train(lab.uniform(), "4 step", keep="none", objective=lambda t: t.nll + t.reference(start) * 0, **ask)
    assert len(reads) <= 2
    assert core.trail.gold.seen["base"]


def test_a_reference_lasts_as_long_as_the_training_that_an_interruption_goes_on_with(lab_):
    lab, core, _, _ = lab_(budget=3)
    old = lab.train(lab.uniform(), "2 step").last.checkpoint
    there = []

    def objective(t):
        there.append(old.weights in core.store)
        return t.nll + t.reference(old) * 0

    ask = {"eval_every": "2 step", "keep": "best", "metric": "loss", "references": [old]}
    h = lab.train(lab.uniform(), "8 step", objective=objective, **ask)
    assert h.best().step > 0  # the reference is no longer the best
    assert all(there)
    lab.train(lab.uniform(), "1 step")
    assert old.weights not in core.store


def test_what_was_not_named_is_refused_in_one_line(lab_):
    lab, _, _, _ = lab_()
    here = lab.checkpoint()
    h = lab.train(lab.uniform(), "1 step")
    lab.train(lab.uniform(), "1 step", keep="none")
    for objective, message in [
        (lambda t: t.nll + t.reference(here), "no reference"),
        (lambda t: t.nll + t.reference_logits(here).sum(-1), "no logits"),
    ]:
        with pytest.raises(RunFailed, match=message):
            lab.train(lab.uniform(), "1 step", keep="none", objective=objective)
    with pytest.raises(HarnessError, match="released"):
        lab.train(lab.uniform(), "1 step", references=[h.last.checkpoint])
