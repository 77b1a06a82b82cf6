"""What is remembered of examples, and named arrays: against brute force, through callbacks, back and forth."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.codec import arrays_from_json, arrays_to_json
from harness.errors import HarnessError
from harness.gold import Gold
from harness.table import Columns, Rows, State
from tests.labs import make_lab

SIZES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 6), min_size=1)
NUMBER = st.sampled_from([np.nan, -np.inf, np.inf, -1.0, 0.0, 0.5, 2.0])


@pytest.fixture
def lab_(toy, tiny, tmp_path):
    def make(n=0, **request):
        return make_lab(tmp_path / str(n), toy, tiny, **request)

    return make


@given(SIZES, st.data())
@settings(max_examples=150, deadline=None)
def test_top_where_and_names_are_those_of_brute_force(sizes, data):
    table = Columns(sizes)
    ids = [f"{t}/{i}" for t in sorted(sizes) for i in range(sizes[t])]
    assert table.ids(range(table.length)) == ids
    assert table.rows(ids).tolist() == list(range(len(ids)))
    values = dict(zip(ids, np.float32(data.draw(st.lists(NUMBER, min_size=len(ids), max_size=len(ids)))), strict=True))
    table.write("x", table.rows(ids), list(values.values()))
    tasks = data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True))
    k, smallest = data.draw(st.integers(0, 8)), data.draw(st.booleans())
    asked = [i for i in ids if i.split("/")[0] in tasks and not np.isnan(values[i])]
    ranked = sorted(asked, key=lambda i: values[i] if smallest else -values[i])  # stable: ties in order
    assert table.ids(table.top("x", k, table.of(tasks), smallest)) == ranked[:k]
    above, below = data.draw(NUMBER), data.draw(NUMBER)
    inside = [i for i in asked if above < values[i] < below]
    assert table.ids(table.where("x", above, below, table.of(tasks))) == inside


@given(SIZES, st.data())
@settings(max_examples=60, deadline=None)
def test_visits_count_every_time_and_the_last_loss_stays(sizes, data):
    table = Columns(sizes)
    ids = [f"{t}/{i}" for t in sorted(sizes) for i in range(sizes[t])]
    seen = data.draw(st.lists(st.tuples(st.sampled_from(ids), NUMBER), max_size=20)) if ids else []
    for start in range(0, len(seen), 3):
        part = seen[start : start + 3]
        table.visit([i for i, _ in part], [v for _, v in part])
    last = dict(seen)
    expected = np.array([last.get(i, np.nan) for i in ids], np.float32)
    assert np.array_equal(table.columns["nll"], expected, equal_nan=True)
    assert table.columns["visits"].tolist() == [sum(i == j for j, _ in seen) for i in ids]


@pytest.mark.parametrize("id_", ["a/3", "a/-1", "b/0", "v:a/0", "a", "a/", "/0", "", "a/x"])
def test_what_is_not_a_training_example_has_no_row(id_):
    with pytest.raises(HarnessError, match="not a training example"):
        Columns({"a": 3}).row(id_)


def test_a_million_examples_with_five_columns_stay_small():
    tracemalloc.start()
    table = Columns({"a": 600_000, "b": 400_000})
    some = table.of(["a", "b"])[::1000]
    for k in range(5):
        table.write(f"c{k}", some, np.arange(len(some)))
    assert sum(c.nbytes for c in table.columns.values()) == 7 * 4 * 1_000_000
    held, _ = tracemalloc.get_traced_memory()
    assert len(table.top("c1", 10, table.of(["a", "b"]), False)) == 10
    assert len(table.where("visits", -1, 1, table.of(["b"]))) == 400_000
    copy = table.tensors()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40e6
    assert peak < 120e6
    assert len(copy) == 7


DTYPES = st.one_of(arrays.floating_dtypes(sizes=(16, 32, 64)), arrays.integer_dtypes(), arrays.boolean_dtypes())
ARRAYS = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@given(st.lists(ARRAYS, max_size=4))
@settings(max_examples=150, deadline=None)
def test_arrays_go_through_json_bit_for_bit(found):
    back = arrays_from_json(arrays_to_json(found))
    for a, b in zip(found, back, strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        assert b.flags.writeable


KEYS = st.tuples(st.sampled_from(["a/0", "a/1", "b/0"]), st.sampled_from(["", "v1"]))
ROWS = arrays.arrays(np.float32, st.integers(1, 4), elements=st.floats(width=32))


@given(st.dictionaries(st.sampled_from(["base", "1:2", "3:4"]), st.dictionaries(KEYS, ROWS)))
@settings(max_examples=100, deadline=None)
def test_paid_log_probabilities_survive_a_snapshot(held):
    gold, back = Gold(), Gold()
    for weights, rows in held.items():
        gold.put(weights, rows, rows.values())
    back.load(gold.state(), gold.tensors())
    for weights, rows in held.items():
        assert back.missing(weights, rows) == []
        assert back.missing(weights, [("c/0", ""), ("c/0", "")]) == [("c/0", "")]
        for a, b in zip(rows.values(), back.get(weights, rows), strict=True):
            assert a.tobytes() == b.tobytes()
    back.prune(lambda weights: weights == "base")
    assert set(back.seen) <= {"base"}


def test_state_holds_numbers_within_a_bound_and_nothing_else():
    state = State()
    state["x"] = 3
    state["big"] = np.arange(3, dtype=">f8")
    assert state["x"].shape == ()
    assert state["big"].dtype.isnative
    for bad in ("text", None, [1, "a"], np.array([1j]), object(), np.zeros(1, np.longdouble)):
        with pytest.raises(HarnessError, match="expected numbers"):
            state["bad"] = bad
    with pytest.raises(HarnessError, match="64,000,000 bytes"):
        state["large"] = np.zeros(8_000_001)
    assert sorted(state) == ["big", "x"]


def test_rows_of_a_batch_are_copies_and_are_not_deleted():
    table = Columns({"a": 3})
    rows = Rows(table, ["a/2", "a/0"])
    rows["x"] = [1.0, 2.0]
    rows["x"] += 1
    assert table.columns["x"].tolist() == pytest.approx([3.0, np.nan, 2.0], nan_ok=True)
    assert "y" not in rows
    assert np.isnan(rows["y"]).all()
    with pytest.raises(HarnessError, match="not deleted"):
        del rows["x"]
    with pytest.raises(HarnessError, match="kept by the lab"):
        rows["visits"] = 0


# --- through the lab


def test_the_lab_keeps_losses_and_visits_and_a_rollback_takes_them_back(lab_):
    lab, core, _, _ = lab_()
    lab.train(lab.proportional(), "3 step", keep="none")
    everyone = [e for t, info in lab.tasks.items() for e in lab.sample(t, info.n_train)]
    visits = lab.examples.get("visits", everyone)
    assert visits.sum() == 12
    assert np.array_equal(visits > 0, ~np.isnan(lab.examples.get("nll", everyone)))
    seen = lab.examples.where("visits", above=0)
    lab.examples.set("mine", seen[:2], [1.0, 2.0])
    lab.state["scalar"], lab.state["vector"] = 2.5, [1, 2]
    here, before = lab.checkpoint(), lab.examples.get("nll", everyone)
    lab.train(lab.proportional(), "3 step", keep="none")
    lab.examples.set("mine", seen, 7.0)
    lab.state["scalar"] = 4.0
    del lab.state["vector"]
    assert lab.examples.get("visits", everyone).sum() == 24
    lab.rollback(here)
    assert np.array_equal(lab.examples.get("nll", everyone), before, equal_nan=True)
    assert lab.examples.get("visits", everyone).tolist() == visits.tolist()
    assert lab.examples.top("mine", 5) == [seen[1], seen[0]]
    assert lab.examples.top("mine", 1, smallest=True) == [seen[0]]
    assert (lab.state["scalar"].shape, float(lab.state["scalar"])) == ((), 2.5)
    assert lab.state["vector"].tolist() == [1, 2]
    assert sorted(lab.state) == ["scalar", "vector"]
    with pytest.raises(KeyError):
        lab.state["other"]
    assert core.table.columns["mine"].dtype == np.float32


def test_what_is_written_before_the_first_step_is_there_after_going_back_to_it(lab_):
    lab, _, _, _ = lab_()
    (example,) = lab.sample("copy", 1)
    lab.state["x"] = 1
    lab.examples.set("mine", [example], 5.0)
    here = lab.checkpoint()
    lab.state["x"] = 2
    lab.train(lab.uniform(), "1 step", keep="none")
    lab.rollback(here)
    assert int(lab.state["x"]) == 1
    assert lab.examples.get("mine", [example]).tolist() == [5.0]


def test_the_loss_of_a_visit_is_the_mean_per_token_before_the_step(lab_):
    lab, _, _, _ = lab_()
    batch = lab.draw(lab.proportional())
    expected = [-row.mean() for row in lab.logprobs(batch)]
    lab.train(lab.just(batch), "1 step", keep="none")
    assert lab.examples.get("nll", batch) == pytest.approx(expected, rel=1e-5)


def test_a_fork_from_here_sees_the_columns_and_leaves_them_alone(lab_):
    lab, _, _, _ = lab_()
    lab.train(lab.proportional(), "1 step", keep="none")
    batch = lab.draw(lab.proportional())
    lab.examples.set("mine", batch, 1.0)
    lab.state["x"] = 1
    for start, seen in (("now", 1.0), ("base", np.nan)):
        with lab.fork("probe", start=start) as child:
            assert child.examples.get("mine", batch) == pytest.approx([seen] * 4, nan_ok=True)
            assert ("x" in child.state) == (start == "now")
            child.examples.set("mine", batch, 2.0)
            child.state["x"] = 3
            child.train(child.just(batch), "1 step", keep="none")
    assert lab.examples.get("mine", batch).tolist() == [1.0] * 4
    assert int(lab.state["x"]) == 1
    assert lab.examples.get("visits", batch).sum() == len(
        [e for e in batch if e in lab.examples.where("visits", above=0)]
    )


def test_callbacks_read_and_write_and_the_objective_sees_what_was_before_the_step(lab_):
    lab, _, _, _ = lab_()
    batch, seen = lab.draw(lab.proportional()), []

    def weights(b):
        old = b.table["ema"]
        b.table["ema"] = np.where(np.isnan(old), b.nll, 0.5 * old + 0.5 * b.nll)
        b.state["count"] = b.state.get("count", 0) + len(b)
        return np.ones(len(b))

    def objective(t):
        seen.append(t.column("ema")[0].item())
        return t.nll

    before = -lab.logprobs(batch)[0].mean()
    lab.train(lab.just(batch), "1 step", keep="none", example_weights=weights, objective=objective)
    after = -lab.logprobs(batch)[0].mean()
    lab.train(lab.just(batch), "1 step", keep="none", example_weights=weights, objective=objective)
    assert np.isnan(seen[0])
    assert seen[1] == pytest.approx(before, rel=1e-5)
    assert lab.examples.get("ema", batch)[0] == pytest.approx((before + after) / 2, rel=1e-4)
    assert int(lab.state["count"]) == 8


def test_draws_of_callbacks_are_keyed_by_seed_verb_step_and_callback(lab_):
    def draws(lab, verbs_before=0):
        seen = []
        for _ in range(verbs_before):
            lab.checkpoint()

        def select(pool):
            from harness.api import Selection

            seen.append(pool.rng.random())
            return Selection(np.arange(pool.batch))

        def weights(b):
            seen.append(b.rng.random())
            return np.ones(len(b))

        lab.train(lab.proportional(), "2 step", pool=1, select=select, example_weights=weights, keep="none")
        return seen

    first = draws(lab_(1)[0])
    assert len(set(first)) == 4
    assert draws(lab_(2)[0]) == first
    assert not set(draws(lab_(3)[0], verbs_before=1)) & set(first)
    assert not set(draws(lab_(4, seed=5)[0])) & set(first)
