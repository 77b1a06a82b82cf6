"""Selectors: what a pool shows, what is trained on, what it bills, and what is refused."""

import numpy as np
import pytest
import torch

from harness.api import BudgetExhausted, HarnessError, Selection
from harness.errors import RunFailed
from tests.labs import make_lab
from tests.test_lab import same
from tests.test_verbs import close, forward, gold, gradient_of, matrices


@pytest.fixture
def lab_(toy, tiny, tmp_path):
    def make(n=0, **request):
        return make_lab(tmp_path / str(n), toy, tiny, **request)

    return make


def test_a_pool_is_what_training_would_draw_and_its_looks_are_right(lab_):
    lab, core, engine, plan = lab_()
    other, _, _, _ = lab_(1)
    for one in (lab, other):
        one.train(one.uniform(), "2 step", keep="none")
    base_rows, pools = {}, []

    def select(pool):
        items = core.data.items(pool.examples)
        plain = gold(engine.lm, items)
        assert core.ledger.spent == spent[0]
        assert pool.nll == pytest.approx([-row.mean() for row in plain], rel=1e-4)
        assert close(pool.logprobs(), plain)
        assert core.ledger.spent == spent[0] + forward(plan, items)
        assert pool.tokens.tolist() == [i.supervised for i in items]
        assert sum(pool.quota.values()) == pool.batch == 4
        assert len(pool) == len(pool.ids) == 12
        rows = np.stack([gradient_of(engine, i, matrices) for i in items])
        assert np.allclose(pool.gradients().gram(), rows @ rows.T, rtol=1e-3, atol=1e-6)
        (first, *_) = pool.distributions(pool.examples[:1], top_k=3)
        assert first.ids.shape == (items[0].supervised, 3)
        base_rows.update(zip(pool.ids, pool.logprobs(at=start), strict=True))
        pool.log("first", pool.ids[0])
        pools.append(pool)
        return Selection(range(4))

    with lab.fork("probe") as child:
        start = child.checkpoint()
    spent = [core.ledger.spent]
    lab.train(lab.uniform(), "1 step", pool=3, select=select, keep="none")
    assert [e.id for e in other.draw(other.uniform(), 3)] == list(pools[0].ids)
    _, core0, engine0, _ = lab_(2)
    there = gold(engine0.lm, core0.data.items(pools[0].examples))
    assert close(list(base_rows.values()), [dict(zip(pools[0].ids, there, strict=True))[i] for i in base_rows])
    phases = [e.phase for e in core.ledger.entries if e.verb == core.verb and e.phase != "look"]
    assert phases == ["probe", "gradients", "probe", "probe", "train"]
    assert core.trail.events[-1]["note"] == "first"


def test_the_chosen_are_trained_on_in_their_order_with_their_weights(lab_):
    lab, core, engine, _ = lab_()
    plain, _, second, _ = lab_(1)
    pools, asked = [], []

    def select(pool):
        asked.append(pool.progress)
        pools.append(pool.ids)
        return Selection([7, 0, 3, 5, 11, 10, 9, 8], [0.0, 1.0, 2.0, 1.0, 1, 1, 1, 1])

    lab.train(lab.uniform(), "3 step", pool=3, select=select, keep="none")
    assert len(asked) == 2  # two updates from the first pool, one from the second
    chosen = [
        [pools[0][i] for i in (7, 0, 3, 5)],
        [pools[0][i] for i in (11, 10, 9, 8)],
        [pools[1][i] for i in (7, 0, 3, 5)],
    ]
    by_id = {e.id: e for t, n in plain.tasks.items() for e in plain.sample(t, n.n_train)}
    weights = ([0.0, 1.0, 2.0, 1.0], [1.0] * 4, [0.0, 1.0, 2.0, 1.0])
    for ids, w in zip(chosen, weights, strict=True):
        batch = plain.just([by_id[i] for i in ids])
        plain.train(batch, "1 step", keep="none", example_weights=lambda b, w=w: w)
    assert same(engine, second)
    assert core.ledger.spent == plain._core.ledger.spent  # nothing was looked at: nothing but training is billed


def test_weights_of_the_selection_and_of_the_batch_multiply(lab_):
    one, _, a, _ = lab_(1)
    two, _, b, _ = lab_(2)
    three, _, c, _ = lab_(3)
    both = np.array([2.0, 0.5, 1.0, 3.0])
    ask = {"pool": 2, "keep": "none"}
    one.train(
        one.uniform(),
        "2 step",
        select=lambda pool: Selection(range(4), both),
        example_weights=lambda batch: 1 / (1 + np.arange(4.0)),
        **ask,
    )
    two.train(two.uniform(), "2 step", select=lambda pool: Selection(range(4), both / (1 + np.arange(4.0))), **ask)
    three.train(three.uniform(), "2 step", select=lambda pool: Selection(range(4)), **ask)
    pairs = zip(a.weights().values(), b.weights().values(), strict=True)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in pairs)
    assert not same(a, c)


def test_a_length_in_budget_counts_the_probes(lab_):
    lab, core, _, plan = lab_()
    h = lab.train(lab.uniform(), "0.5 budget", pool=4, select=lambda p: Selection(np.argsort(p.nll)[:4]), keep="none")
    billed = {p: sum(e.model for e in core.ledger.entries if e.phase == p) for p in ("train", "probe")}
    assert not h.cut
    assert billed["probe"] > 0.4 * billed["train"]
    step = max(e.model for e in core.ledger.entries if e.phase == "train") * 2.5
    assert 0 <= 0.5 * plan.identity.budget.flops - sum(billed.values()) < step


def test_the_clock_moves_with_what_choosing_costs(lab_):
    lab, core, _, _ = lab_()
    seen = []

    def select(pool):
        seen.append((pool.progress, core.ledger.spent / core.ledger.cap))
        return Selection(np.argsort(pool.nll)[: pool.batch])

    lab.train(lab.uniform(), pool=6, select=select, keep="none")
    assert len(seen) > 10
    assert [progress for progress, _ in seen] == pytest.approx([spent for _, spent in seen])
    assert core.clock.progress > 0.9


def test_at_the_cap_a_look_that_does_not_fit_cuts_and_the_promised_look_is_taken(lab_):
    lab, core, _, _ = lab_(budget=0.6)
    calls = []

    def select(pool):
        calls.append(core.ledger.remaining)
        return Selection(np.argsort(pool.nll)[: pool.batch])

    h = lab.train(lab.uniform(), pool=5, select=select, eval_every="4 step", keep="best", metric="loss")
    assert h.cut
    assert h.last.step == h.steps == len(calls) - 1  # the last pool could not be looked at
    assert set(h.last.values) == {"copy", "flip", "next"}
    assert 0 <= core.ledger.remaining < core.look_cost() + calls[-1]
    with pytest.raises(BudgetExhausted):
        lab.logprobs(lab.sample("copy", 24))


def test_a_pool_that_was_not_used_is_not_used_up(lab_):
    lab, core, _, _ = lab_(budget=0.6)
    drawn, states = [], []

    def select(pool):
        states.append(core.sampler.drawn)
        drawn.append(pool.ids)
        return Selection(np.argsort(pool.nll)[: pool.batch])

    lab.train(lab.uniform(), pool=5, select=select, keep="none")
    assert core.sampler.drawn == states[-1] - 20
    assert [e.id for e in lab.draw(lab.uniform(), 5)] == list(drawn[-1])


def test_looks_of_pools_are_forgotten_with_their_weights(lab_):
    lab, core, _, _ = lab_(budget=2)
    base = lab.checkpoint()
    seen = []

    def select(pool):
        pool.logprobs(at=base)
        seen.append(len(core.trail.gold.seen))
        return Selection(np.argsort(pool.nll)[: pool.batch])

    lab.train(lab.uniform(), "8 step", pool=2, select=select, keep="none")
    assert max(seen) <= 2
    assert set(core.trail.gold.seen) == {"base"}


def test_a_log_by_points_of_progress_is_bounded_by_them_and_never_ends_a_run(lab_):
    lab, core, _, _ = lab_()
    base, said = lab.checkpoint(), []

    def select(pool):
        said.append((pool.log("few", len(said), points=4), pool.log("large", "x" * 30_000, points=1000)))
        return Selection(range(4))

    for _ in range(3):  # a rollback turns back neither progress nor what was logged
        lab.train(lab.uniform(), "0.3 budget", pool=2, select=select, keep="none")
        lab.rollback(base)
    few, large = zip(*said, strict=True)
    assert sum(few) == len([e for e in core.trail.events if e["note"] == "few"]) == 4
    assert [e["data"] for e in core.trail.events if e["note"] == "few"] == [k for k, put in enumerate(few) if put]
    assert sum(large) == 2  # 64 kB hold no third
    with pytest.raises(HarnessError, match="64,000 bytes a name"):
        core.log("large", "x" * 30_000)
    again = dict(core.state())
    assert again["points"]["few"] == 3


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 1, 2, 3], "select returned list"),
        (None, "select returned NoneType"),
        (Selection([0, 1, 2]), r"chose \(3,\) indices; expected a whole number of batches of 4"),
        (Selection([]), "whole number"),
        (Selection([0.0, 1.0, 2.0, 3.0]), "whole number"),
        (Selection([0, 1, 2, 12]), r"index 0..12 of a pool of 12"),
        (Selection([0, 1, 2, -1]), r"index -1..2 of a pool of 12"),
        (Selection([[0, 1], [2, 3]]), r"chose \(2, 2\) indices"),
        (Selection(range(4), [1.0, 1.0]), "not one finite number"),
        (Selection(range(4), [1.0, 1.0, 1.0, -1.0]), "not one finite number"),
        (Selection(range(4), [1.0, 1.0, 1.0, np.nan]), "not one finite number"),
    ],
)
def test_a_selection_that_cannot_be_trained_on_fails_in_one_line(lab_, chosen, message):
    lab, _, _, _ = lab_()
    with pytest.raises(RunFailed, match=message) as failed:
        lab.train(lab.uniform(), "1 step", pool=3, select=lambda pool: chosen)
    assert "\n" not in str(failed.value)


def test_handles_of_a_lab_and_of_a_pool_are_not_compared(lab_):
    lab, _, _, _ = lab_()
    held = lab.gradients(lab.sample("copy", 2))

    def select(pool):
        pool.gradients(modules="last:1").gram(held)

    with pytest.raises(HarnessError, match="of the same lab or pool"):
        lab.train(lab.uniform(), "1 step", pool=2, select=select)
    for pool, message in [(0, "at least 1"), (1.5, "whole number")]:
        with pytest.raises(HarnessError, match=message):
            lab.train(lab.uniform(), "1 step", pool=pool, select=select)
