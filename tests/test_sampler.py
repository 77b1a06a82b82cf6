from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api import Example, Mixture
from harness.sampler import Sampler, quotas, stream


def proportional(sizes):
    total = sum(sizes.values())
    return Mixture({t: n / total for t, n in sizes.items()}, sizes, by_size=True)


sizes_ = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 30), min_size=1)


@given(sizes_, st.integers(0, 5), st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_a_proportional_epoch_is_one_exact_pass_whatever_the_batch(sizes, seed, batch):
    sampler, mixture = Sampler(seed, sizes), proportional(sizes)
    drawn = []
    while len(drawn) < 3 * sum(sizes.values()):
        drawn += sampler.draw(mixture, batch)
    n = sum(sizes.values())
    everything = {f"{t}/{i}" for t, k in sizes.items() for i in range(k)}
    for epoch in range(3):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == sorted(everything)


def test_order_of_tasks_changes_nothing_and_the_seed_changes_the_order():
    sizes = {"a": 7, "b": 12, "c": 3}
    back = dict(reversed(sizes.items()))
    one = Sampler(1, sizes).draw(proportional(sizes), 40)
    assert one == Sampler(1, back).draw(proportional(back), 40)
    assert one != Sampler(2, sizes).draw(proportional(sizes), 40)


@given(sizes_, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_state_continues_exactly(sizes, first, second):
    mixture = proportional(sizes)
    one = Sampler(3, sizes)
    whole = one.draw(mixture, first + second)
    two = Sampler(3, sizes)
    start = two.draw(mixture, first)
    three = Sampler(3, sizes)
    three.load(two.state())
    assert start + three.draw(mixture, second) == whole


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1), min_size=1),
    st.lists(st.integers(1, 50), min_size=1, max_size=8),
)
@settings(max_examples=100, deadline=None)
def test_quotas_sum_and_stay_within_one_of_the_share(raw, blocks):
    total = sum(raw.values())
    weights = {t: w / total for t, w in raw.items()}
    given_, through = Counter(), 0
    for n in blocks:
        counts = quotas(weights, through, given_, n)
        assert sum(counts.values()) == n
        assert min(counts.values()) >= 0
        given_.update(counts)
        through += n
        assert (
            all(abs(given_[t] - weights[t] * through) <= 1 + len(weights) * 1e-9 for t in weights) or len(weights) > 2
        )


def test_weights_are_met_in_the_long_run_and_small_tasks_repeat_in_passes():
    sizes = {"big": 50, "small": 4}
    mixture = Mixture({"big": 0.5, "small": 0.5}, sizes)
    drawn = Sampler(0, sizes).draw(mixture, 540)
    counts = Counter(d.split("/")[0] for d in drawn)
    assert counts == {"big": 270, "small": 270}
    small = [d for d in drawn if d.startswith("small")]
    for k in range(0, 268, 4):
        assert len(set(small[k : k + 4])) == 4


def test_excluded_examples_never_come_and_the_rest_still_make_passes():
    sizes = {"a": 6, "b": 6}
    gone = [Example("a/1", "a"), Example("a/4", "a")]
    mixture = proportional(sizes).without(gone)
    assert mixture.sizes == {"a": 4, "b": 6}
    assert mixture.weights == pytest.approx({"a": 0.4, "b": 0.6})
    drawn = Sampler(0, sizes).draw(mixture, 30)
    assert all(d not in ("a/1", "a/4") for d in drawn)
    assert Counter(drawn) == dict.fromkeys(set(drawn), 3)


def test_a_sequence_is_kept_in_order():
    mixture = Mixture({"a": 1.0}, {}, sequence=("a/3", "a/1", "a/2"))
    assert Sampler(0, {"a": 5}).draw(mixture, 5) == ["a/3", "a/1", "a/2", "a/3", "a/1"]


def test_streams_are_keyed_by_their_names():
    a, b = stream(0, "pass", "x", 1), stream(0, "pass", "x", 2)
    assert not np.array_equal(a.integers(0, 100, 20), b.integers(0, 100, 20))
    assert np.array_equal(stream(0, "y").integers(0, 100, 20), stream(0, "y").integers(0, 100, 20))
