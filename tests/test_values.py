"""Lengths, histories, mixtures, the LR clock, journal and ledger: no torch."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import journal, ledger
from harness.api import REST, Checkpoint, Example, HarnessError, History, Length, Look, Mixture, TaskInfo, check_weights
from harness.errors import BudgetExhausted, NonDeterministicStrategy
from harness.ledger import Cost, Ledger
from harness.loop import Clock, wanted
from harness.suite import Schedule


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("3 step", (3, "step")),
        ("1 steps", (1, "step")),
        ("0.25 epoch", (0.25, "epoch")),
        ("0.1 budget", (0.1, "budget")),
    ],
)
def test_lengths(text, length):
    assert Length.parse(text) == length


@pytest.mark.parametrize(
    "text", ["", "3", "x epoch", "-1 step", "0 step", "nan epoch", "inf step", "1.5 step", "2 hour"]
)
def test_bad_lengths_say_what_was_expected(text):
    with pytest.raises(HarnessError, match=r"expected|whole"):
        Length.parse(text)


def test_rest():
    assert Length.parse(REST) == (math.inf, "rest")


def look(step, a, b, pooled=None):
    return Look(step, step / 4, {"a": a, "b": b}, (a + b) / 2 if pooled is None else pooled, Checkpoint(f"0:{step}"))


def test_best_is_the_earliest_highest_and_nan_never_wins():
    h = History((look(0, 0.1, math.nan, 0.0), look(1, 0.5, 0.2), look(2, 0.5, 0.2), look(3, 0.1, 0.9)), 3, 0.75, {})
    assert h.best("a").step == 1
    assert h.best("b").step == 3
    assert h.best().step == 3
    assert h.last.step == 3
    assert wanted(list(h.looks), ("a", "b")) == {1, 3}


def test_best_without_looks_says_so():
    with pytest.raises(HarnessError, match="eval_every"):
        History((Look(3, 1.0),), 3, 1.0, {}).best()


TASKS = {t: TaskInfo(t, 10, 5, 100, 20, "loss") for t in ("alpha", "beta")}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"alpa": 1.0}, "did you mean 'alpha'"),
        ({"alpha": -0.1, "beta": 1}, "alpha.*-0.1"),
        ({"alpha": math.nan}, "finite"),
        ({"alpha": math.inf}, "finite"),
        ({"alpha": 0.0}, "positive"),
        ({}, "positive"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(HarnessError, match=message):
        check_weights(weights, TASKS)


def test_weights_are_normalised_and_sorted_and_zeros_dropped():
    assert check_weights({"beta": 3, "alpha": 1}, TASKS) == {"alpha": 0.25, "beta": 0.75}
    assert check_weights({"beta": 3, "alpha": 0}, TASKS) == {"beta": 1.0}


def test_without_keeps_given_weights_but_drops_an_emptied_task():
    mixture = Mixture({"a": 0.5, "b": 0.5}, {"a": 1, "b": 3})
    assert mixture.without([Example("b/0", "b")]).weights == {"a": 0.5, "b": 0.5}
    assert mixture.without([Example("a/0", "a")]).weights == {"b": 1.0}
    with pytest.raises(HarnessError, match="no example is left"):
        Mixture({"a": 1.0}, {"a": 1}).without([Example("a/0", "a")])
    with pytest.raises(HarnessError, match=r"v:b/0 is a validation example; expected training examples"):
        mixture.without([Example("v:b/0", "b", "validation")])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_the_clock_ends_at_one_when_the_budget_ends_whatever_else_was_billed(steps, probe):
    """Progress only moves by training, is linear when nothing else is billed, and is 1 when nothing is left."""
    clock = Clock(Schedule(name="cosine", warmup=0.1), 1.0)
    remaining, half = sum(steps) + probe, len(steps) // 2
    for k, flops in enumerate(steps):
        if k == half:
            before = clock.progress
            remaining -= probe
            assert clock.progress == before
        clock.advance(flops, remaining)
        remaining -= flops
    assert clock.progress == pytest.approx(1.0)


def test_the_clock_without_other_costs_is_flops_over_cap():
    clock = Clock(Schedule(name="linear", warmup=0.2), 2.0)
    rates = [clock.advance(10, 100 - 10 * k) for k in range(10)]
    middles = [(k + 0.5) / 10 for k in range(10)]
    expected = [2.0 * (m / 0.2 if m < 0.2 else (1 - m) / 0.8) for m in middles]
    assert rates == pytest.approx(expected)


def test_constant_schedule_is_constant_after_warmup():
    clock = Clock(Schedule(name="constant", warmup=0.05), 0.5)
    rates = [clock.advance(1, 100 - k) for k in range(100)]
    assert rates[0] == pytest.approx(0.5 * 0.005 / 0.05)
    assert rates[5:] == [0.5] * 95


def test_ledger_sums_caps_and_derives_discarded(tmp_path):
    book = Ledger(100, tmp_path / "l.jsonl")
    book.book("train", Cost(30, 40, 3), 0.5, verb=0, step=1)
    book.book("train", Cost(20, 25, 2), 0.5, verb=0, step=2)
    book.book("validate", Cost(10, 10, 1), 0.1, verb=0, step=2)
    book.book("look", Cost(1000, 1000, 9), 0.1, verb=0)
    assert (book.spent, book.remaining) == (60, 40)
    assert book.fits(40)
    assert not book.fits(41)
    book.close()
    entries = ledger.read(tmp_path / "l.jsonl")
    assert entries == book.entries
    table = ledger.by_phase(entries, {0: 1})
    assert table["train"]["model_flops"] == 30
    assert table["discarded"]["model_flops"] == 20
    assert ledger.billed(table) == 60
    assert ledger.by_phase(entries, {})["discarded"]["model_flops"] == 50
    with pytest.raises(BudgetExhausted):
        book.require(41)
    with pytest.raises(BudgetExhausted):  # once cut, nothing billed is possible any more
        book.require(1)


def test_a_strategy_cannot_swallow_the_end_of_the_budget():
    assert not issubclass(BudgetExhausted, Exception)


def write_journal(path, n=5):
    log = journal.Journal(path)
    for k in range(n):
        log.append("train", f"args{k}", {"value": k / 3}, k)
    log.close()


def test_journal_round_trip_and_replay(tmp_path):
    path = tmp_path / "journal.jsonl"
    write_journal(path)
    lines = journal.read(path)
    assert [line["result"]["value"] for line in lines] == [k / 3 for k in range(5)]
    again = journal.Journal(None, lines)
    assert again.recall("train", "args0")["result"] == {"value": 0.0}
    with pytest.raises(NonDeterministicStrategy, match="verb 1 was train and is validate"):
        again.recall("validate", "args1")
    with pytest.raises(NonDeterministicStrategy, match="other arguments"):
        again.recall("train", "args7")


def test_a_verb_computed_again_is_compared_to_the_bit_on_the_same_machine_only(tmp_path):
    path = tmp_path / "journal.jsonl"
    log = journal.Journal(path)
    log.on = "here"
    log.append("validate", "args", {"copy": 1.0}, 0)
    log.close()

    def again(on, value):
        log = journal.Journal(None, expected=journal.read(path))
        log.on = on
        return log.check("validate", "args", {"copy": value})

    assert again("here", 1.0) == {"copy": 1.0}
    with pytest.raises(NonDeterministicStrategy, match="another result"):
        again("here", 1.0000001)
    assert again("there", 1.0000001) == {"copy": 1.0}
    assert again("there", 1.1) == {"copy": 1.1}  # a course of its own


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_or_a_cut_ends_the_journal_there_and_is_never_read(tmp_path_factory, where, bit):
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    write_journal(path)
    good = path.read_bytes()
    at = where % len(good)
    bad = bytearray(good)
    bad[at] ^= 1 << bit
    whole = [json.loads(line) | {"crc": None} for line in good.splitlines()]
    intact = good[:at].count(b"\n")
    for damaged in (bytes(bad), good[:at]):
        path.write_bytes(damaged)
        found = [line | {"crc": None} for line in journal.read(path)]
        assert found == whole[: len(found)]  # never a wrong line
        assert len(found) >= intact  # and none lost before the damage
