"""Training in parts: paused anywhere and gone on with, it equals the training that was never interrupted."""

import pytest

from harness.api import BudgetExhausted, HarnessError, Selection
from harness.ledger import Cost
from tests.labs import make_lab
from tests.test_lab import same

TRAININGS = {
    "steps": ("17 step", {}),
    "epochs, looks": ("1.3 epoch", {"eval_every": "0.15 epoch", "keep": "best"}),
    "budget, peaks": ("0.2 budget", {"eval_every": "0.03 budget", "keep": "peaks", "optimizer": "fresh"}),
    "rest": ("rest", {"eval_every": "4 step", "metric": "loss"}),
    "selection": ("9 step", {"pool": 3, "select": lambda pool: Selection(range(0, 12, 3)[: pool.batch])}),
    "two updates a pool": ("9 step", {"pool": 3, "select": lambda pool: Selection(range(2 * pool.batch))}),
}


def seen(history):
    looks = [(k.step, k.epoch, k.values, k.value, k.kept is not None) for k in history.looks]
    return looks, history.steps, history.epochs, history.train_loss, history.cut


def bill(core):
    return [(e.phase, e.step, e.model, e.hardware) for e in core.ledger.entries]


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("pause", ["1 step", "5 step", "0.4 epoch"])
def test_pauses_change_nothing(toy, tiny, tmp_path, name, pause):
    length, arguments = TRAININGS[name]
    labs = [make_lab(tmp_path / str(k), toy, tiny, budget=1.0) for k in range(2)]
    histories = []
    for paused, (lab, _, _, _) in enumerate(labs):
        lab.train(lab.uniform(), "2 step")
        amount, unit = pause.split()
        mixture, k = lab.proportional(["copy", "flip"]), 1
        h = lab.train(mixture, length, **arguments, pause=pause if paused else None)
        while h.paused:
            assert h.last.step == h.steps
            k += 1
            h = lab.train(mixture, length, **arguments, pause=f"{k * float(amount)} {unit}", after=h)
        histories.append(h)
        assert k > 1 or not paused
    (_, one, a, _), (_, two, b, _) = labs
    assert seen(histories[0]) == seen(histories[1])
    assert bill(one) == bill(two)
    assert one.trail.curves == two.trail.curves
    assert one.sampler.state() == two.sampler.state()
    assert same(a, b)
    for plain, parts in zip(histories[0].looks, histories[1].looks, strict=True):
        if plain.kept and length != "rest":
            for (lab, _, _, _), look in zip(labs, (plain, parts), strict=True):
                lab.rollback(look.checkpoint)
            assert same(a, b)


def test_between_parts_one_can_look_write_and_go_back(toy, tiny, tmp_path):
    lab, core, engine, _ = make_lab(tmp_path, toy, tiny, budget=2.0)
    mixture = lab.proportional()
    h = lab.train(mixture, "8 step", keep="none", pause="3 step")
    here = {n: w.clone() for n, w in engine.weights().items()}
    (example,) = lab.sample("copy", 1)
    assert lab.rewrite(example, " other") is not None
    lab.state["count"] = 1
    after = lab.checkpoint()
    done = lab.train(mixture, "8 step", keep="none", after=h)
    assert (done.steps, done.paused, core.standing.split(":")[1]) == (8, None, "8")
    lab.rollback(after)
    assert core.revised.keys() == {example.id}
    assert all((here[n] == w).all() for n, w in engine.weights().items())


def test_a_checkpoint_of_before_does_not_hold_what_was_written_since(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=2.0)
    lab.train(lab.proportional(), "3 step")
    before = lab.validate()
    spent = core.ledger.spent
    lab.state["count"] = 1
    (example,) = lab.sample("copy", 1)
    lab.rewrite(example, " other")
    lab.examples.set("mine", [example], 3.0)
    after = lab.checkpoint()
    assert lab.validate() == before
    assert core.ledger.spent == spent
    lab.train(lab.proportional(), "1 step")
    lab.rollback(after)
    assert lab.state["count"] == 1
    assert core.revised
    lab.answer(after)
    assert core.trail.path(after.weights)[0] == 3


def test_what_was_promised_by_the_last_training_is_of_before_a_write(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=2.0)
    h = lab.train(lab.proportional(), "3 step")
    (example,) = lab.sample("copy", 1)
    lab.rewrite(example, " other")
    lab.state["count"] = 1
    lab.rollback(h.last.checkpoint)
    assert not core.revised
    assert "count" not in lab.state


@pytest.mark.parametrize("keep", ["last", "best"])
def test_what_was_drawn_after_a_promise_comes_again_after_a_rollback(toy, tiny, tmp_path, keep):
    lab, *_ = make_lab(tmp_path, toy, tiny, budget=2.0)
    mixture = lab.proportional()
    h = lab.train(mixture, "3 step", keep=keep)
    batch = lab.draw(mixture)
    lab.checkpoint(pin=False)
    lab.train(mixture, "1 step", keep="none")
    lab.rollback(h.last.checkpoint)
    assert lab.draw(mixture) == batch


def test_what_a_fork_writes_is_in_no_checkpoint_of_its_parent(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=2.0)
    lab.train(lab.proportional(), "3 step", keep="none")
    lab.state["count"] = 1
    with lab.fork("probe", start="now") as child:
        child.state["count"] = 2
        theirs = child.checkpoint()
    ours = lab.checkpoint()
    lab.train(lab.proportional(), "1 step", keep="none")
    lab.rollback(ours)
    assert lab.state["count"] == 1
    lab.rollback(theirs)
    assert lab.state["count"] == 2
    assert core.trail.path(theirs.weights) == core.trail.path(ours.weights) | {int(theirs.weights.split(":")[0]): 0}


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_pause_that_spends_what_was_kept_for_the_last_look_does_not_lose_the_looks_before(toy, tiny, tmp_path, keep):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=2.0)
    arguments = {"eval_every": "4 step", "keep": keep}
    h = lab.train(lab.uniform(), "rest", **arguments, pause="10 step")
    core.ledger.book("generate", Cost(core.ledger.remaining - core.look_cost() + 1, 0, 0), 0.0, core.verb, 0)
    done = lab.train(lab.uniform(), "rest", **arguments, after=h)
    assert (done.cut, done.paused, done.steps) == (True, None, 10)
    assert [look.step for look in done.looks] == [0, 4, 8, 10]
    assert done.last.values == {}
    assert done.best().step in (0, 4, 8)
    lab.answer(done.last.checkpoint if keep == "last" else done.best().checkpoint)
    with pytest.raises(BudgetExhausted):
        lab.train(lab.uniform(), "1 step")


def test_what_cannot_go_on_is_refused(toy, tiny, tmp_path):
    lab, *_ = make_lab(tmp_path, toy, tiny, budget=2.0)
    with pytest.raises(HarnessError, match="expected steps or epochs"):
        lab.train(lab.proportional(), "3 step", pause="0.1 budget")
    done = lab.train(lab.proportional(), "3 step", pause="3 step")
    assert done.paused is None
    with pytest.raises(HarnessError, match="it is at its end"):
        lab.train(lab.proportional(), "3 step", after=done)
    h = lab.train(lab.proportional(), "3 step", pause="1 step")
    lab.train(lab.proportional(), "1 step")
    with pytest.raises(HarnessError, match="weights have moved"):
        lab.train(lab.proportional(), "3 step", after=h)
