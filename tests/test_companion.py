"""Forks of another model: its own weights, tokens and price; its checkpoints are looked through in such a fork only."""

import json

import pytest
import torch

from harness.api import HarnessError
from harness.flops import Arch
from harness.models import resolve
from harness.sharding import Replicas
from tests.conftest import make_model
from tests.labs import make_lab


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("small") / "small", "llama")


def test_a_proxy_of_another_model_trains_and_is_billed_by_its_own_architecture(tmp_path, toy, tiny, small):
    lab, core, engine, _ = make_lab(tmp_path, toy, tiny)
    before = {k: v.clone() for k, v in engine.weights().items()}
    with lab.fork("proxy", model=str(small), budget="0.3 budget") as proxy:
        start = proxy.validate(metric="loss")
        history = proxy.train(proxy.proportional(), "4 step", keep="last")
        after = proxy.validate(metric="loss")
        seen = proxy.logprobs(proxy.sample("copy", 3), at=history.last.checkpoint)
    assert len(seen) == 3
    assert sum(s.loss for s in after.values()) < sum(s.loss for s in start.values())
    assert all(engine.weights()[k].equal(v) for k, v in before.items())
    arch = Arch.from_config(json.loads((small / "config.json").read_text()))
    steps = [e for e in core.ledger.root.entries if e.phase == "proxy" and e.step]
    data = core.companion(str(small))[1]
    batch = [data.item(i) for i in _first(core, 4)]
    expected = sum(arch.train_step(i.tokens, i.supervised) for i in batch)
    assert sum(e.model for e in steps) == expected
    assert core.standing == "base"
    with pytest.raises(HarnessError, match="another model's"):
        lab.validate(at=history.last.checkpoint)
    with pytest.raises(HarnessError, match="another model's"), lab.fork("proxy", start=history.last.checkpoint):
        pass
    with lab.fork("proxy", model=str(small), start=history.last.checkpoint) as proxy:
        again = proxy.validate(metric="loss")
    assert again == after
    spent = core.ledger.spent
    lab.validate(metric="loss")
    assert core.ledger.spent > spent  # the base of the run is not the base of the proxy


def test_other_models_leave_a_gpu_with_the_runs_own(tmp_path, toy, tiny, small, monkeypatch):
    """Their weights and moments stayed there, beside the scoring, to the end."""
    lab, core, engine, _ = make_lab(tmp_path, toy, tiny)
    with lab.fork("proxy", model=str(small), budget="0.1 budget") as proxy:
        proxy.train(proxy.uniform(), "1 step", keep="none")
    made = [engine, core.companion(str(small))[0]]
    left = []
    for one in made:
        monkeypatch.setattr(one.layout, "release", lambda one=one: left.append(one))
    monkeypatch.setattr(type(engine), "device", property(lambda self: torch.device("cuda")))
    engine.release()
    assert {id(one) for one in left} == {id(one) for one in made}
    assert not any(hasattr(one, "optimizer") for one in made)


def _first(core, steps):
    """The example ids of a fresh sampler's first steps on the proportional mixture."""
    from harness.api import Mixture
    from harness.sampler import Sampler

    sizes = core.sampler.sizes
    total = sum(sizes.values())
    mixture = Mixture({t: n / total for t, n in sorted(sizes.items())}, dict(sorted(sizes.items())), by_size=True)
    return Sampler(core.sampler.seed, sizes).draw(mixture, steps * core.suite.train.effective_batch)


def test_the_record_says_once_which_model_and_revision_it_was(tmp_path, toy, tiny, small):
    """The option names a folder or a hub id, which may hold other weights tomorrow."""
    lab, core, *_ = make_lab(tmp_path, toy, tiny)
    for _ in range(2):
        with lab.fork("proxy", model=str(small), budget="0.1 budget") as proxy:
            proxy.train(proxy.uniform(), "1 step", keep="none")
    with lab.fork("proxy", budget="0.1 budget"):
        pass
    (event,) = (e for e in core.trail.events if e["verb"] == "fork")
    assert event["data"] == {"model": "small", "revision": resolve(str(small)).revision}


def test_one_model_is_on_the_device_at_a_time(tmp_path, toy, tiny, small, monkeypatch):
    """What `aside` and `back` move, asked for while the other model is loaded, trained and left again."""
    there, seen = {"own"}, []
    lab, _, engine, _ = make_lab(tmp_path, toy, tiny, budget=2)
    own = engine.layout
    monkeypatch.setattr(Replicas, "aside", lambda self: there.remove("own" if self is own else "other"))
    monkeypatch.setattr(Replicas, "back", lambda self: there.add("own" if self is own else "other"))
    placed = []
    begin = Replicas.__init__

    def loaded(self, accelerator, model, placed_=True):
        placed.append((placed_, *there))
        begin(self, accelerator, model, placed_)

    monkeypatch.setattr(Replicas, "__init__", loaded)
    lab.train(lab.uniform(), "2 step", keep="none")
    before, moments = engine.weights(), engine.moments()
    for _ in range(2):
        with lab.fork("proxy", model=str(small), budget="0.2 budget") as proxy:
            seen.append(set(there))
            proxy.train(proxy.uniform(), "2 step", keep="none")
            with proxy.fork("probe", start="now") as inner, inner.fork("probe") as innermost:
                innermost.train(innermost.uniform(), "1 step", keep="none")
                seen.append(set(there))
            seen.append(set(there))
        assert there == {"own"}
    assert placed == [(False, "own")]  # loaded once, into host memory
    assert seen == [{"other"}] * 6
    for was, now in ((before, engine.weights()), (moments, engine.moments())):
        assert was.keys() == now.keys()
        assert all(torch.equal(was[k], v) for k, v in now.items())
    with lab.fork("proxy", budget="0.1 budget"):
        assert there == {"own"}


def test_what_cannot_be_forked(tmp_path, toy, tiny, small):
    lab, *_ = make_lab(tmp_path, toy, tiny)
    with pytest.raises(HarnessError, match="unknown model"), lab.fork("proxy", model="nonsense"):
        pass
    with pytest.raises(HarnessError, match="cannot start from here"):
        lab.fork("proxy", model=str(small), start="now")


def test_weights_of_another_model_are_neither_gone_back_to_nor_answered_with(tmp_path, toy, tiny):
    """Another model of the same shapes would fit in silently."""
    twin = make_model(tmp_path / "twin")
    lab, core, engine, _ = make_lab(tmp_path, toy, tiny)
    with lab.fork("proxy", model=str(twin), budget="0.3 budget") as proxy:
        start = proxy.checkpoint()
        proxy.train(proxy.proportional(), "1 step", keep="none")
        theirs = proxy.checkpoint()
    lab.train(lab.proportional(), "1 step", keep="none")
    ours, before = lab.checkpoint(), {k: v.clone() for k, v in engine.weights().items()}
    for use in (lab.rollback, lab.answer):
        with pytest.raises(HarnessError, match="another model's"):
            use(theirs)
    with pytest.raises(HarnessError, match="another model's"):
        lab.rollback(start)
    assert core.trail.answer is None
    assert not any(e["verb"] == "rollback" for e in core.trail.events)
    assert all(engine.weights()[k].equal(v) for k, v in before.items())
    with lab.fork("proxy", model=str(twin)) as proxy:
        proxy.rollback(theirs)
        proxy.rollback(start)
        for checkpoint in (ours, type(ours)("base")):
            with pytest.raises(HarnessError, match="another model's"):
                proxy.rollback(checkpoint)
