"""The harness's own looks: a fixed grid, free, the same items for all, and every curve ends in the answer."""

from tests.labs import make_lab


def test_looks_come_on_the_grid_are_not_billed_and_end_in_the_answer(toy, tiny, tmp_path):
    lab, core, _, plan = make_lab(tmp_path, toy, tiny)
    h = lab.train(lab.proportional(), "1 epoch", eval_every="0.5 epoch", keep="best", metric="loss")
    lab.answer(h.best().checkpoint)
    lab.train(lab.proportional())
    core.restore(core.trail.answer, "fresh")
    core.looks.observe(core.standing, core.verb, last=True)
    core.looks.observe(core.standing, core.verb, last=True)  # once is enough
    at = [c["billed_flops"] for c in core.trail.curves if c["task"] == "copy"]
    cap, points = core.ledger.cap, plan.suite.look.points
    assert at[0] == 0
    assert len(at) == points + 1  # 0, 1/4, 1/2, 3/4 of the cap, and the answer; the last step would have passed the cap
    assert all(a >= k * cap / points for k, a in enumerate(at[:points]))
    last = {c["task"]: c["loss"] for c in core.trail.curves[-3:]}
    items = {t: v[: plan.suite.look.items] for t, v in plan.validation.items()}
    for task, part in items.items():
        seen, _ = core.engine.evaluate(part)
        assert abs(last[task] - sum(s.nll for s in seen) / sum(s.supervised for s in seen)) < 1e-6
    billed = sum(e.model for e in core.ledger.entries if e.phase != "look")
    assert core.ledger.spent == billed


def test_items_that_the_strategy_paid_for_are_not_run_again(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny)
    lab.validate()
    before = len(core.ledger.entries)
    core.looks.observe(core.standing, 0)
    assert len(core.ledger.entries) == before
    assert len(core.trail.curves) == 3
