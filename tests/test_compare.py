"""The board's statistics against brute force, scipy and simulation."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from benchmarks.coverage import World, coverage, worlds
from harness import bootstrap, panel, profiles
from harness.compare import compare, ranks, score, ties
from harness.panel import Panel, components, moderate, shrink, spread
from harness.stats import detectable, holm, t_quantile, t_tail


def made(s=4, r=4, sizes=(7, 5), seed=0, present=None):
    """A panel of random answers."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(len(sizes)), sizes)
    skill = rng.uniform(0.3, 0.8, (s, 1, 1))
    y = (rng.random((s, r, len(task))) < skill).astype(np.float32)
    names = tuple(f"s{k}" for k in range(s))
    return Panel(names, tuple(range(r)), task, y, np.ones((s, r), bool) if present is None else present)


def brute_components(y, task, a, b):
    """Variance of the items' part and of the noise of a - b, by the two-way table's mean squares, in loops."""
    d = (y[a] - y[b]).astype(float)
    r = d.shape[0]
    tasks = sorted(set(task))
    items = noise = 0.0
    for t in tasks:
        x = d[:, task == t]
        n = x.shape[1]
        ms_item = r * sum((x[:, i].mean() - x.mean()) ** 2 for i in range(n)) / (n - 1)
        ms_both = sum((x[k, i] - x[k].mean() - x[:, i].mean() + x.mean()) ** 2 for k in range(r) for i in range(n)) / (
            (r - 1) * (n - 1)
        )
        items += (ms_item - ms_both) / (r * n) / len(tasks) ** 2
        noise += ms_both / (r * n) / len(tasks) ** 2
    return items, noise


def test_components_are_the_mean_squares_of_the_two_way_table():
    p = made(s=3, r=5, sizes=(90, 60, 40))
    found = components(p.correct, p.task)
    for a, b in itertools.combinations(range(3), 2):
        items, noise = brute_components(p.correct, p.task, a, b)
        assert found.noise[a, b] == pytest.approx(noise)
        assert found.item[a, b] == pytest.approx(max(0, items))
    assert found.macro[0, 0] == pytest.approx(np.mean([p.correct[0, 0][p.task == t].mean() for t in range(3)]))


def test_of_fewer_than_five_rows_the_seeds_part_is_the_paired_t_tests():
    p = made(s=2, r=6, sizes=(300,))
    found = components(p.correct, p.task)
    d = found.macro[1] - found.macro[0]
    assert found.seed[0, 1] == pytest.approx(d.var(ddof=1) / 6)
    assert found.df[0, 1] == 5


def test_equal_variances_are_pooled_over_all_residuals_of_the_additive_model():
    rng = np.random.default_rng(3)
    means = rng.normal(size=(12, 1)) + rng.normal(size=(1, 4)) + 0.1 * rng.normal(size=(12, 4))
    own = spread(means)
    # the residual mean square of the two-way layout without interaction
    residual = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    assert own.mean() == pytest.approx((residual**2).sum() / (11 * 3))
    prior = panel.Prior(1, np.full(12, np.inf))
    assert shrink(own, 3, prior) == pytest.approx(np.full(12, own.mean()))


def test_a_noisy_row_stays_out_of_the_pool_and_the_rest_is_pooled():
    own = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 12.0])
    prior = moderate(own, 9)
    assert prior.df[-1] == 0
    assert (prior.df[:-1] > 0).all()
    drawn = shrink(own, 9, prior)
    assert drawn[-1] == 12
    assert drawn[:-1].max() < 1.6


def test_pooling_of_equal_variances_leaves_few_alone_and_is_a_little_wide():
    rng = np.random.default_rng(0)
    draws = rng.chisquare(4, (2000, 12)) / 4
    priors = [moderate(own, 4) for own in draws]
    assert np.mean([(p.df == 0).mean() for p in priors]) == pytest.approx(0.1, abs=0.02)
    drawn = np.array([shrink(own, 4, p) for own, p in zip(draws, priors, strict=True)])
    assert 1 < drawn.mean() < 1.1
    assert drawn.std() < 0.8 * draws.std()


def test_the_trigamma_is_inverted():
    from scipy.special import polygamma

    for y in (1e-4, 0.1, 1.0, 30.0):
        assert polygamma(1, panel._trigamma_inverse(y)) == pytest.approx(y, rel=1e-8)


def test_the_bootstrap_draws_seeds_and_items_jointly_and_items_within_their_task():
    p = made(s=2, r=3, sizes=(5, 8))
    counts, items = bootstrap.draws(p.task, 3, 500)
    assert (counts.sum(1) == 3).all()
    assert (items[:, p.task == 0].sum(1) == 5).all()
    assert (items[:, p.task == 1].sum(1) == 8).all()
    assert items[:, 0].mean() == pytest.approx(1, abs=0.15)
    replicates = bootstrap.nested(p.correct, p.task, p.weight, 500)
    for b in (0, 17):  # by loops
        for s in range(2):
            by_task = []
            for t in (0, 1):
                y = p.correct[s][:, p.task == t]
                w = items[b, p.task == t]
                by_task.append(sum(counts[b, r] * (y[r] @ w) for r in range(3)) / 3 / w.sum())
            assert replicates[b, s] == pytest.approx(np.mean(by_task), abs=1e-6)


def test_the_bootstraps_variance_holds_the_noise_three_times():
    # pure noise: one answer's variance is v; the mean's is v / (R N), a nested draw's about three times that (Owen 2007)
    rng = np.random.default_rng(5)
    y = (rng.random((1, 30, 400)) < 0.5).astype(np.float32)
    task = np.zeros(400, int)
    drawn = bootstrap.nested(y, task, np.full(400, 1 / 400), 4000)
    assert drawn.var() == pytest.approx(3 * 0.25 / 12000, rel=0.15)


def test_studentised_replicates_are_close_to_t_where_the_model_holds():
    panel_, _ = World("", (0.1,) * 8, (0.0,) * 8).draw(np.random.default_rng(2), 8)
    found = components(panel_.correct, panel_.task)
    q = t_quantile(found.freedom[0], 0.05)
    assert 1 <= bootstrap.widening(panel_.correct, panel_.task, panel_.weight, found, 0, q, 1000) < 1.3


def test_answers_that_never_differ_still_leave_room_for_one_item():
    y = np.ones((2, 5, 100), np.float32)
    d = compare(Panel(("a", "b"), tuple(range(5)), np.zeros(100, int), y, np.ones((2, 5), bool)), "a").differences["b"]
    assert d.estimate.value == 0
    assert d.estimate.high == pytest.approx(1.96 * 0.01, rel=1e-3)
    assert d.p == 1


def test_one_seed_has_a_value_and_no_interval_and_strangers_have_none():
    present = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    p = made(4, 3, present=np.where(present.any(1, keepdims=True), present, [[False, False, True]]))
    c = compare(p, "s0")
    assert c.differences["s1"].estimate.low is None
    assert c.differences["s1"].p is None
    assert c.differences["s3"].estimate.n == 3
    assert "s0" not in c.differences
    assert compare(p, None).differences == {}
    apart = np.array([[1, 0], [0, 1]], bool)
    assert compare(made(2, 2, present=apart), "s0").differences == {}


def test_rows_with_fewer_seeds_are_compared_on_those_alone():
    present = np.ones((6, 5), bool)
    present[5, 3:] = False
    p = made(6, 5, (40, 40), present=present)
    cut = Panel(p.names, p.seeds[:3], p.task, p.correct[:, :3], present[:, :3])
    a, b = compare(p, "s0").differences["s5"], compare(cut, "s0").differences["s5"]
    assert (a.estimate, a.p) == (b.estimate, b.p)


def test_the_order_of_rows_changes_nothing():
    p = made(6, 4, (30, 20))
    turned = Panel(p.names[::-1], p.seeds, p.task, p.correct[::-1], p.present[::-1])
    one, two = compare(p, "s2"), compare(turned, "s2")
    assert one.ties == two.ties
    assert one.ranks == two.ranks
    for name, d in one.differences.items():
        assert two.differences[name].estimate.low == pytest.approx(d.estimate.low)


def test_a_panel_is_made_from_runs_and_refuses_other_items():
    p = Panel.of({"a": {3: [[1, 0], [1]], 1: [[0, 0], [1]]}, "b": {1: [[1, 1], [0]]}})
    assert p.seeds == (1, 3)
    assert p.present.tolist() == [[True, True], [True, False]]
    assert p.weight.tolist() == [0.25, 0.25, 0.5]
    assert panel.macro(p.correct, p.weight)[0].tolist() == [0.5, 0.75]
    with pytest.raises(ValueError, match="items"):
        Panel.of({"a": {0: [[1, 0]]}, "b": {0: [[1]]}})
    with pytest.raises(ValueError, match="finite"):
        Panel.of({"a": {0: [[np.nan]]}})


def test_ties_open_with_the_best_row_that_is_left_and_ranks_count_what_is_shown():
    means = {"a": 0.9, "b": 0.85, "c": 0.8, "d": 0.5}
    better = frozenset({("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")})
    assert ties(means, better) == {"a": 1, "b": 1, "c": 2, "d": 3}
    assert ranks(list(means), better) == {"a": (1, 2), "b": (1, 3), "c": (2, 3), "d": (4, 4)}


def test_large_differences_are_told_apart():
    rng = np.random.default_rng(1)
    y = (rng.random((3, 5, 400)) < np.array([0.9, 0.6, 0.6])[:, None, None]).astype(np.float32)
    c = compare(Panel(("a", "b", "c"), tuple(range(5)), np.zeros(400, int), y, np.ones((3, 5), bool)), "b")
    assert c.ties == {"a": 1, "b": 2, "c": 2}
    assert c.ranks == {"a": (1, 1), "b": (2, 3), "c": (2, 3)}
    assert c.differences["a"].estimate.low > 0.2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p):
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.3):
        left, rejected = sorted(range(len(p)), key=lambda k: p[k]), set()
        while left and p[left[0]] * len(left) < alpha:
            rejected.add(left.pop(0))
        assert {k for k, x in enumerate(adjusted) if x < alpha} == rejected


@pytest.mark.parametrize(("df", "alpha"), [(2, 0.05), (4, 0.05), (9, 0.05 / 30), (40, 0.01), (5000, 0.05)])
def test_the_detectable_difference_has_the_power_that_it_says(df, alpha):
    delta, critical = detectable(0.02, df, alpha) / 0.02, scipy_stats.t.ppf(1 - alpha / 2, df)
    assert scipy_stats.nct.sf(critical, df, delta) == pytest.approx(0.8, abs=2e-3)


def test_quantiles_and_tails_are_students():
    df = np.array([1, 3.5, 30, np.inf])
    want = [*scipy_stats.t.ppf(0.975, df[:3]), scipy_stats.norm.ppf(0.975)]
    assert t_quantile(df, 0.05) == pytest.approx(want)
    assert t_tail(2.0, 7) == pytest.approx(2 * scipy_stats.t.sf(2, 7))


def test_a_rows_own_interval_is_of_seeds_and_items():
    p = made(1, 5, (50, 30), seed=1)
    e = score(p.correct[0], p.task, p.weight)
    runs = panel.macro(p.correct[0], p.weight)
    items, _ = brute_components(np.stack([p.correct[0], 0 * p.correct[0]]), p.task, 0, 1)
    var = runs.var(ddof=1) / 5 + max(0, items)
    df = 4 * (var / (runs.var(ddof=1) / 5)) ** 2
    assert e.half_width == pytest.approx(scipy_stats.t.ppf(0.975, df) * var**0.5)
    assert score(p.correct[0][:1], p.task, p.weight).low is None


# --- across workloads


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_iqm_is_the_trimmed_mean(x):
    assert profiles.iqm(x) == pytest.approx(scipy_stats.trim_mean(x, 0.25), abs=1e-9)


def test_profiles_by_hand():
    assert profiles.score_profile([[0.1, 0.5], [0.9, 0.5]], [0, 0.5, 0.9]).tolist() == [1, 0.25, 0]
    found = profiles.performance_profile({"a": [1, 4, np.inf], "b": [2, 2, np.inf]}, [1, 2])
    assert found["a"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert found["b"].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_geometric_ratio_does_not_depend_on_rivals_and_counts_what_was_not_reached():
    r = profiles.geometric_ratio([(1e6, 2e6, 2e6), (4e6, 8e6, 2e6)])
    assert (r.value, r.workloads, r.censored) == (pytest.approx(1), 2, 0)
    r = profiles.geometric_ratio([(np.inf, 8e6, 2e6), (1.0, 1.0, np.inf)])
    assert (r.value, r.workloads, r.censored) == (pytest.approx(4), 1, 1)
    assert profiles.geometric_ratio([]) is None


class At:
    def __init__(self, billed_flops, task, exact_match, loss=1.0):
        self.billed_flops, self.task, self.exact_match, self.loss = billed_flops, task, exact_match, loss


def points(*values, loss=None):
    """Two tasks around each macro value, at 0, 10, 20 ... FLOPs."""
    losses = loss or [1.0] * len(values)
    pairs = zip(values, losses, strict=True)
    return [At(10 * k, t, v + d, x) for k, (v, x) in enumerate(pairs) for t, d in (("a", -0.1), ("b", 0.1))]


def test_flops_to_target_by_hand():
    plain = [points(0.1, 0.3, 0.5), points(0.1, 0.6, 0.4), points(0.1, 0.2, 0.3)]
    goal = profiles.target(plain)
    assert goal == profiles.Target("exact_match", pytest.approx(0.5))
    assert [profiles.to_target(c, goal) for c in plain] == [20, 10, np.inf]
    assert profiles.median_to_target(plain, goal) == 20
    assert profiles.median_to_target(plain, goal, [7] * len(plain)) == 27
    assert profiles.median_to_target(plain[:1] + plain[2:], goal) == np.inf
    assert profiles.to_target(points(0.1, 0.7, 0.2), goal) == 10


def test_where_nothing_matches_the_target_is_of_the_loss():
    goal = profiles.target([points(0.1, 0.1, loss=[3.0, 2.0])])
    assert goal == profiles.Target("loss", -2.0)
    assert profiles.to_target(points(0.1, 0.1, 0.1, loss=[3.0, 2.5, 1.9]), goal) == 20
    assert profiles.target([points(0.1, 0.1)]) is None
    assert profiles.target([]) is None


def test_looks_that_lack_a_task_are_left_out():
    whole = points(0.1, 0.4)
    assert profiles.curve(whole[:-1], "exact_match") == [(0, pytest.approx(0.1))]


# --- simulation: small here, in full in benchmarks/coverage.py and docs/statistics.md


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.925), (5, 0.92), (10, 0.93)])
def test_intervals_cover_as_often_as_they_say(seeds, least):
    world = next(w for w in worlds(8) if w.name.startswith("equal"))
    found, _ = coverage(world, seeds, 60, 200)
    # 420 intervals in 60 simulations that share a reference: a standard error of about 1.3 %
    assert found["board"].hits / found["board"].n > least
    assert found["board"].width < found["paired t"].width * 1.1


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(2, 6), st.integers(0, 10**6))
def test_every_panel_has_finite_intervals_around_its_differences(s, r, seed):
    c = compare(made(s, r, (6, 3), seed), "s0", 50)
    assert len(c.differences) == s - 1
    for d in c.differences.values():
        assert d.estimate.low < d.estimate.value < d.estimate.high
        assert 0 <= d.p <= 1
        assert 0 < d.detectable <= d.detectable_holm
    assert all(1 <= low <= high <= s for low, high in c.ranks.values())


def test_statistics_import_neither_torch_nor_scipy_stats():
    heavy = "('torch', 'scipy.stats', 'transformers')"
    code = f"import sys, harness.standings, harness.profiles; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_row_of_paired_variances_of_drawn_seeds_is_that_of_the_seeds_written_out():
    """Drawing a seed k times is having it k times."""
    rng = np.random.default_rng(3)
    means, counts = rng.normal(size=(4, 6)), np.array([[2, 0, 1, 3, 0, 0], [1, 1, 1, 1, 1, 1]])
    found = panel.paired_with(np.stack([means, means]), counts, 2)
    for draw, row in zip(counts, found, strict=True):
        seeds = np.repeat(np.arange(6), draw)
        want = [np.var(means[k, seeds] - means[2, seeds], ddof=1) / 6 for k in range(4)]
        assert row == pytest.approx(want)
    assert panel.paired(means)[2] == pytest.approx(found[1])
