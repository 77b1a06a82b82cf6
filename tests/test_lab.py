"""The lab's verbs on a real tiny model: equalities that must hold exactly on one CPU process, the cap, the bill."""

import math
import time

import pytest
import torch

from harness import journal as journals
from harness.api import BudgetExhausted, Example, HarnessError
from harness.errors import RunFailed
from tests.labs import make_lab


@pytest.fixture
def lab_(toy, tiny, tmp_path):
    def make(n=0, **request):
        return make_lab(tmp_path / str(n), toy, tiny, **request)

    return make


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.weights().values(), b.weights().values(), strict=True))


def test_train_a_then_b_equals_train_a_plus_b(lab_):
    one, _, first, _ = lab_(1)
    two, _, second, _ = lab_(2)
    one.train(one.proportional(), "5 step")
    one.train(one.proportional(), "9 step")
    two.train(two.proportional(), "14 step")
    assert same(first, second)


def test_train_roll_back_train_equals_train_straight(lab_):
    one, core, first, _ = lab_(1)
    two, _, second, _ = lab_(2)
    for lab in (one, two):
        lab.train(lab.proportional(), "12 step")  # past the warm-up, which the clock does not take back
    here = one.checkpoint()
    one.train(one.uniform(), "6 step")
    one.rollback(here)
    one.train(one.proportional(), "7 step")
    two.train(two.proportional(), "7 step")
    assert same(first, second)
    assert core.ledger.spent > 0
    assert sum(e.phase == "train" for e in core.ledger.entries) == 25


def test_the_bill_is_worked_out_from_the_drawn_examples(lab_):
    lab, core, _, plan = lab_()
    h = lab.train(lab.proportional(), "1 epoch")
    n = sum(t.n_train for t in lab.tasks.values())
    assert h.steps * 4 == n == 48  # 12 steps of 4: an exact epoch
    items = [i for g in plan.train.values() for i in g]
    assert core.ledger.spent == sum(plan.arch.train_step(i.tokens, i.supervised) for i in items)
    assert core.ledger.spent * plan.suite.train.epochs == plan.identity.budget.flops
    assert lab.budget.spent == core.ledger.spent
    assert lab.budget.remaining == plan.identity.budget.flops - core.ledger.spent


def test_the_cap_holds_the_rest_is_cut_and_the_next_billed_verb_ends_it(lab_):
    lab, core, _, _plan = lab_(budget=0.6)
    h = lab.train(lab.proportional())
    assert h.cut
    dearest = max(e.model for e in core.ledger.entries if e.phase == "train")
    assert 0 <= core.ledger.remaining < 2 * dearest
    lab.rollback(lab.checkpoint())  # free
    lab.answer()
    for verb in (lambda: lab.validate(["copy"], n=1), lambda: lab.train(lab.proportional(), "1 step")):
        with pytest.raises(BudgetExhausted):
            verb()


def test_a_cut_train_with_looks_still_ends_with_one(lab_):
    lab, core, _, _ = lab_(budget=0.9)
    h = lab.train(lab.proportional(), eval_every="0.5 epoch", keep="best")
    assert h.cut
    assert h.last.step == h.steps
    assert set(h.last.values) == {"copy", "flip", "next"}
    assert core.ledger.remaining >= 0


def test_a_checkpoint_holds_the_optimizer_whichever_look_was_best(lab_):
    ends = []
    for n, keep in enumerate(("best", "none")):
        lab, core, engine, _ = lab_(n)
        h = lab.train(lab.uniform(), "3 step", eval_every="3 step", metric="loss", keep=keep, optimizer="fresh")
        assert h.best() is h.last
        here, spent = lab.checkpoint(), core.ledger.spent
        lab.validate(metric="loss")
        assert core.ledger.spent == spent  # the same weights
        lab.train(lab.uniform(), "1 step", keep="none")
        lab.rollback(here)
        lab.train(lab.uniform(), "2 step", keep="none")
        ends.append(engine)
    assert same(*ends)


def test_looks_are_paid_once_per_weights(lab_):
    lab, core, _, plan = lab_()
    items = [i for g in plan.validation.values() for i in g]
    price = sum(plan.arch.forward(i.tokens, i.supervised) for i in items)
    first = lab.validate()
    assert core.ledger.spent == price
    assert lab.validate(metric="loss")["copy"].value == -first["copy"].loss
    assert core.ledger.spent == price
    lab.train(lab.proportional(), "1 step", eval_every="1 step", keep="none")  # step 0 was seen
    assert sum(e.phase == "validate" for e in core.ledger.entries) == 2
    here, spent = lab.checkpoint(), core.ledger.spent
    lab.state["note"] = 1  # these weights have another name from now on
    for _ in range(2):
        lab.validate(n=1)
        lab.validate(n=1, at=here)
        lab.validate(n=1000)  # there are fewer
    assert core.ledger.spent - spent == sum(
        plan.arch.forward(i.tokens, i.supervised) for g in plan.validation.values() for i in g[:1]
    )


def test_looking_through_another_checkpoint_changes_nothing_here(lab_):
    lab, _, engine, _ = lab_()
    base = lab.checkpoint()
    lab.train(lab.proportional(), "6 step")
    before = engine.weights()
    there, here = lab.validate(at=base), lab.validate()
    assert there["copy"].loss != here["copy"].loss
    assert all(torch.equal(before[k], v) for k, v in engine.weights().items())
    lab.rollback(base)
    assert lab.validate() == there


def test_pooled_value_is_over_items(lab_):
    lab, _, _, _ = lab_()
    h = lab.train(lab.proportional(), "2 step", eval_every="2 step", metric="loss", keep="none")
    scores = lab.validate(metric="loss")
    n = {t: s.n for t, s in scores.items()}
    pooled = sum(scores[t].value * n[t] for t in n) / sum(n.values())
    assert h.last.value == pytest.approx(pooled)
    assert h.last.values == {t: s.value for t, s in scores.items()}


def test_peaks_keep_at_most_one_checkpoint_a_task_plus_two(lab_):
    lab, core, _, _ = lab_(budget=3)
    active = sorted(lab.tasks)
    for _ in range(3):
        h = lab.train(lab.proportional(active), "1 epoch", metric="loss", eval_every="0.25 epoch", keep="peaks")
        held = {x.kept.weights for x in h.looks if x.kept}
        assert held == {h.best(t).checkpoint.weights for t in active} | {h.best().checkpoint.weights}
        lab.answer(h.best().checkpoint)
        lab.rollback(h.best(active[0]).checkpoint)
    assert core.store.peak <= len(active) + 2


def test_checkpoints_of_a_train_are_released_by_the_next_unless_answered(lab_):
    lab, _, _, _ = lab_()
    h1 = lab.train(lab.proportional(), "2 step")
    h2 = lab.train(lab.proportional(), "2 step")
    lab.answer(h2.last.checkpoint)
    lab.train(lab.proportional(), "2 step")
    lab.rollback(h2.last.checkpoint)
    with pytest.raises(RunFailed, match="released"):
        lab.rollback(h1.last.checkpoint)
    with pytest.raises(HarnessError, match="released"):
        lab.answer(h1.last.checkpoint)


def test_the_path_to_the_answer_decides_what_was_discarded(lab_):
    lab, core, _, _ = lab_()
    lab.train(lab.proportional(), "4 step", keep="none")
    a = lab.checkpoint()
    lab.train(lab.proportional(), "5 step", keep="none")
    lab.rollback(a)
    lab.train(lab.proportional(), "3 step", keep="none")
    b = lab.checkpoint()
    assert core.trail.path(b.weights) == {0: 4, 4: 3}
    assert core.trail.path(a.weights) == {0: 4}
    assert core.trail.path("base") == {}


def test_just_trains_on_exactly_these_examples(lab_):
    lab, core, _, plan = lab_()
    chosen = lab.sample("flip", 3)
    assert [e.task for e in chosen] == ["flip"] * 3
    lab.train(lab.just(chosen), "1 epoch", keep="none")
    cost = [plan.arch.train_step(i.tokens, i.supervised) for i in core.items([e.id for e in chosen])]
    assert core.ledger.spent == sum(cost) + cost[0]  # a batch of 4 from 3 examples
    assert {e.id for e in lab.sample("flip", 3)} != {e.id for e in chosen}


def test_loss_that_is_not_finite_says_at_which_step_and_keeps_the_journal(lab_):
    lab, _, engine, plan = lab_()
    lab.train(lab.proportional(), "2 step", keep="none")
    with torch.no_grad():
        next(iter(engine.lm.parameters())).fill_(math.nan)
    with pytest.raises(RunFailed, match="not finite at step 1 of verb 1"):
        lab.train(lab.proportional(), "2 step", keep="none")
    assert [line["verb"] for line in journals.read(plan.folder / "journal.jsonl")] == ["train"]


def test_verbs_are_journalled_in_order_with_results(lab_):
    lab, _, _, plan = lab_()
    h = lab.train(lab.proportional(), "2 step", eval_every="1 step")
    _ = lab.budget.spent
    lab.log("x", {"a": [1, 2]})
    lines = journals.read(plan.folder / "journal.jsonl")
    assert [line["verb"] for line in lines] == ["train", "budget", "log"]
    assert lines[0]["result"]["looks"][1][0] == h.looks[1].step
    assert lines[1]["result"] == lab._core.ledger.spent


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lab: lab.proportional(["coppy"]), "did you mean 'copy'"),
        (lambda lab: lab.proportional("copy"), "list of names"),
        (lambda lab: lab.proportional([]), "at least one task"),
        (lambda lab: lab.mixture({"copy": -1}), ">= 0"),
        (lambda lab: lab.temperature(tau=-1), "tau"),
        (lambda lab: lab.train(lab.uniform(), "1 hour"), "expected"),
        (lambda lab: lab.train(lab.uniform(), "1 step", keep="all"), "keep"),
        (lambda lab: lab.train(lab.uniform(), "1 step", eval_every="rest"), "eval_every"),
        (lambda lab: lab.validate(["x"]), "unknown task"),
        (lambda lab: lab.validate(n=0), "at least 1"),
        (lambda lab: lab.sample("copy", 99), "24 train examples"),
        (lambda lab: lab.just([Example("copy/99", "copy")]), "not an example of this suite"),
        (lambda lab: lab.just(lab.sample("copy", 1, "validation")), "not a training example"),
        (lambda lab: lab.log("x", object()), "not JSON"),
        (lambda lab: lab.log("x", "y" * 70_000), "64,000 bytes"),
    ],
)
def test_bad_arguments_cost_nothing_and_say_what_was_expected(lab_, call, message):
    lab, core, _, _ = lab_()
    with pytest.raises(HarnessError, match=message):
        call(lab)
    assert core.ledger.spent == 0


def test_a_fork_books_to_its_phase_stops_at_its_budget_and_leaves_no_trace(lab_):
    lab, core, engine, plan = lab_()
    lab.train(lab.proportional(), "3 step", keep="none")
    before, spent, progress = engine.weights(), core.ledger.spent, core.clock.progress
    with lab.fork("proxy", budget="0.2 budget") as child:
        assert child.budget.total == round(0.2 * plan.identity.budget.flops)
        h = child.train(child.only("copy"))
        assert h.cut
        child.validate()  # does not fit any more: the fork ends here
        raise AssertionError("not reached")
    phases = {e.phase for e in core.ledger.entries if e.verb > 0 and e.phase != "look"}
    assert phases == {"proxy"}
    assert 0 < core.ledger.spent - spent <= 0.2 * plan.identity.budget.flops
    assert core.clock.progress == progress
    assert all(torch.equal(before[k], v) for k, v in engine.weights().items())


def test_forks_from_base_now_and_a_checkpoint_start_where_they_say(lab_):
    lab, _, engine, _ = lab_()
    base = engine.weights()
    lab.train(lab.proportional(), "3 step", keep="none")
    here = lab.checkpoint()
    at_here = engine.weights()
    lab.train(lab.proportional(), "2 step", keep="none")
    at_now = engine.weights()
    for start, expected in (("base", base), (here, at_here), ("now", at_now)):
        with lab.fork("probe", start=start):
            assert all(torch.equal(expected[k], v) for k, v in engine.weights().items())
    with lab.fork("proxy", start="now") as child, pytest.raises(HarnessError, match="open fork"):
        lab.validate()
    assert child.tasks == lab.tasks


def test_a_virtual_step_equals_the_real_one_and_draw_is_what_train_would_see(lab_):
    one, _, first, _ = lab_(1)
    two, _core, second, _ = lab_(2)
    for lab in (one, two):
        lab.train(lab.proportional(), "12 step", keep="none")  # past the warm-up: both clocks give the peak rate
    batch = one.draw(one.proportional())
    with one.fork("probe", start="now") as child:
        child.train(child.just(batch), "1 step", keep="none")
        virtual = first.weights()
    two.train(two.proportional(), "1 step", keep="none")
    assert all(torch.equal(virtual[k], v) for k, v in second.weights().items())


def test_a_fork_before_the_first_step_trains_at_the_peak_rate(lab_):
    """A warm-up begins at a rate of 0: the fork would bill steps and learn nothing."""
    lab, core, _, _ = lab_()
    rates = []
    with lab.fork("probe", start="now") as child:
        child.train(child.proportional(), "2 step", keep="none", objective=lambda t: rates.append(t.lr) or t.nll)
    assert rates == [pytest.approx(core.clock.peak_lr)] * 2
    lab.train(lab.proportional(), "1 step", keep="none", objective=lambda t: rates.append(t.lr) or t.nll)
    assert 0 < rates[-1] < rates[0], "the lab itself warms up"


def test_a_checkpoint_of_a_fork_outlives_it(lab_):
    lab, _, _, _ = lab_()
    with lab.fork("proxy", budget="0.4 budget") as child:
        h = child.train(child.only("copy"), "3 step", eval_every="3 step", keep="best")
        seen = child.validate()
        assert h.last.step == 3
    best = h.best().checkpoint
    lab.train(lab.proportional(), "2 step", keep="none")
    assert lab.validate(at=best) == seen or h.best().step != 3


def test_a_fork_that_starts_at_a_checkpoint_of_its_parent_does_not_drop_it(lab_):
    lab, core, engine, _ = lab_(budget=3)
    h = lab.train(lab.uniform(), "2 step")
    before = engine.weights()
    for start in ("now", h.last.checkpoint):
        with lab.fork("probe", start=start) as child:
            ask = {"eval_every": "1 step", "keep": "best", "metric": "loss"}
            assert child.train(child.uniform(), "2 step", **ask).best().step > 0
            child.train(child.uniform(), "1 step", keep="none")
    lab.rollback(h.last.checkpoint)
    assert all(torch.equal(before[k], v) for k, v in engine.weights().items())
    for _ in range(2):
        lab.train(lab.uniform(), "1 step", keep="none")
    assert h.last.checkpoint.weights not in core.store


def test_a_snapshot_between_verbs_is_no_time_of_the_strategy(lab_):
    lab, core, _, _ = lab_()
    core.on_tick = lambda stage: time.sleep(0.05)
    began = time.perf_counter()
    for _ in range(4):
        _ = lab.budget.spent
    assert time.perf_counter() - began - lab.seconds_inside < 0.1 < lab.seconds_inside


def test_a_fork_cannot_answer(lab_):
    lab, _, _, _ = lab_()
    with lab.fork("proxy") as child, pytest.raises(HarnessError, match="after the fork"):
        child.answer()


def test_objectives_and_weights_reach_the_step_and_ones_change_nothing(lab_):
    plain, _, a, _ = lab_(1)
    ones, _, b, _ = lab_(2)
    dft, core, c, _ = lab_(3)
    seen = []
    plain.train(plain.proportional(), "4 step", keep="none")
    ones.train(
        ones.proportional(),
        "4 step",
        keep="none",
        objective=lambda t: t.nll,
        example_weights=lambda batch: [1.0] * len(batch),
    )
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a.weights().values(), b.weights().values(), strict=True))
    dft.train(dft.proportional(), "4 step", keep="none", objective=lambda t: seen.append(t.progress) or t.p * t.nll)
    assert not same(a, c)
    assert seen == sorted(seen)
    assert core.ledger.spent == plain._core.ledger.spent  # the objective costs nothing more
    with pytest.raises(HarnessError, match="expected a function"):
        dft.train(dft.proportional(), "1 step", objective="nll")
