"""Selection without a model: invariants of the solvers, and what the selectors do with inputs that say nothing."""

import itertools
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from harness.core import LOG_NAME_BYTES
from harness.errors import HarnessError
from harness.registry import resolve
from strategies import _numerics as numerics

quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def problems(draw, most=14):
    """Unit gradients (N, d), the target, domains and budgets that can be met."""
    n = draw(st.integers(2, most))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    d = draw(st.sampled_from([3, n, 4 * n]))
    G = rng.normal(size=(n, d)) + draw(st.sampled_from([0.0, 1.0])) * rng.normal(size=d)
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    dom = numerics.domains([str(x) for x in rng.integers(draw(st.integers(1, 4)), size=n)])
    kappa = draw(st.integers(1, n))
    return G, G[:2].mean(0) + rng.normal(size=d) / d, dom, numerics.budgets(np.bincount(dom), kappa)


def utility(K, b, w):
    return w @ b - w @ K @ w / 2


# --- the refit and the pursuit


@quick
@given(problems(), st.integers(0, 99))
def test_the_refit_is_nnls_from_wherever_it_starts(problem, seed):
    G, target, *_ = problem
    K, b = G @ G.T, G @ target
    expected = utility(K, b, nnls(G.T, target)[0])
    for start in (np.zeros(len(b)), np.random.default_rng(seed).random(len(b))):
        w = numerics.nonnegative(K, b, start)
        assert (w >= 0).all()
        assert utility(K, b, w) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert (b - K @ w).max() < 1e-4  # no other number would gain


@quick
@given(problems(), st.one_of(st.none(), st.integers(0, 99)))
def test_the_pursuit_keeps_budgets_takes_nothing_twice_and_gains_with_every_pick(problem, seed):
    G, target, dom, kappa_C = problem
    K, b = G @ G.T, G @ target
    values = []

    def refit(A, b, S, w):
        w = numerics.warm(A, b, S, w)
        values.append(utility(A, b, w))
        assert not np.delete(w, S).any()
        return w

    rng = None if seed is None else np.random.default_rng(seed)
    S, w = numerics.matroid_pursuit(K, b, dom, kappa_C, rng, refit)
    assert len(set(S.tolist())) == len(S) == kappa_C.sum() == len(values)
    assert np.bincount(dom[S], minlength=len(kappa_C)).tolist() == kappa_C.tolist()
    assert (np.diff(values) >= -1e-9).all()
    assert (w >= 0).all()


@quick
@given(problems(10))
def test_greedily_it_is_the_greedy_of_brute_force(problem):
    """Of all that a budget still allows, what gains most at the best weights of what was taken, by scipy's NNLS."""
    G, target, dom, kappa_C = problem
    taken, left = [], kappa_C.copy()
    S, _ = numerics.matroid_pursuit(G @ G.T, G @ target, dom, kappa_C, None)
    for picked in S.tolist():
        w = nnls(G[taken].T, target)[0] if taken else np.zeros(0)
        gain = G @ (target - w @ G[taken])
        allowed = [i for i in range(len(G)) if i not in taken and left[dom[i]]]
        assert gain[picked] == pytest.approx(gain[allowed].max(), abs=1e-5)
        taken.append(picked)
        left[dom[picked]] -= 1


@quick
@given(st.integers(3, 8), st.integers(0, 10**6))
def test_on_orthogonal_gradients_greedy_is_the_best_of_all_subsets(n, seed):
    rng = np.random.default_rng(seed)
    squares, s, dom = rng.uniform(0.5, 2, n), rng.uniform(0.1, 1, n), rng.integers(2, size=n)
    squares[:] = squares[0]  # of one length, so that the largest gain is the largest value
    kappa_C = numerics.budgets(np.bincount(dom, minlength=2), n // 2)
    S, w = numerics.matroid_pursuit(np.diag(squares), s, dom, kappa_C, None)
    subsets = itertools.product(
        *(itertools.combinations(np.flatnonzero(dom == c), k) for c, k in enumerate(kappa_C.tolist()))
    )
    best = max(sum(s[i] ** 2 / squares[i] / 2 for part in parts for i in part) for parts in subsets)
    assert utility(np.diag(squares), s, w) == pytest.approx(best, rel=1e-4)
    assert len(S) == kappa_C.sum()


@quick
@given(problems(), st.floats(-4, 1), st.integers(0, 99))
def test_eta_scales_the_weights_and_not_the_choice(problem, exponent, seed):
    """U(w) = <w, eta s> - eta^2 <w, K w> / 2 has its maximum at v / eta, v that of eta = 1 (partitionsel 1.2)."""
    G, target, dom, kappa_C = problem
    K, s, eta = G @ G.T, G @ target, 10.0**exponent
    S, v = numerics.matroid_pursuit(K, s, dom, kappa_C, np.random.default_rng(seed))
    T, w = numerics.matroid_pursuit(eta**2 * K, eta * s, dom, kappa_C, np.random.default_rng(seed))
    assert S.tolist() == T.tolist()
    assert eta * w == pytest.approx(v, rel=1e-3, abs=1e-6)
    # The term eta K_ii / 2, by which binary weights give GREATS, adds the same to all of length 1: it vanishes with eta.
    assert numerics.matroid_pursuit(K, s + 1e-12, dom, kappa_C, np.random.default_rng(seed))[0].tolist() == S.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_as_released_it_chooses_the_same_where_both_converge(seed):
    """128 steps from random weights, in as many dimensions as needed for them to suffice; the same picks are drawn."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(24, 400)) + 0.3 * rng.normal(size=400)
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    K, s, dom = G @ G.T, G @ (G[:3].mean(0)), np.arange(24) % 3
    kappa_C, eta = np.array([2, 2, 2]), 0.5
    A, b = eta**2 * K, eta * s + 0.5 * eta**2 * K.diagonal()
    same = np.random.default_rng(7), np.random.default_rng(7)
    released = partial(numerics.restarted, rng=same[0], iterations=128)
    S, w = numerics.matroid_pursuit(A, b, dom, kappa_C, same[0], released)
    T, v = numerics.matroid_pursuit(K, s + 0.5 * eta * K.diagonal(), dom, kappa_C, same[1])
    assert S.tolist() == T.tolist()
    assert eta * w == pytest.approx(v, abs=1e-3)


def test_as_released_a_small_learning_rate_leaves_the_weights_where_they_began():
    """eta^2 |K| is far below the absolute 1e-8 in the step size: the deviation that `faithful` takes back."""
    rng = np.random.default_rng(0)
    G = rng.normal(size=(6, 30))
    K, eta = G @ G.T, 1e-6
    w = numerics.restarted(eta**2 * K, eta * G @ G[0], [0, 1, 2], None, rng=np.random.default_rng(3), iterations=128)
    assert w[:3] != pytest.approx(numerics.nonnegative(K[:3, :3], (G @ G[0])[:3], np.zeros(3)) / eta, rel=0.5)
    assert not w[3:].any()


@quick
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 80))
def test_budgets_are_met_where_they_can_be_and_near_their_share(sizes, kappa):
    n_C = np.array(sizes)
    kappa_C = numerics.budgets(n_C, kappa)
    assert kappa_C.sum() == min(kappa, n_C.sum())
    assert (kappa_C <= n_C).all()
    assert (kappa_C >= min(kappa, n_C.sum()) * n_C // max(1, n_C.sum())).all()


@pytest.mark.parametrize(
    ("K", "b"),
    [
        (np.zeros((4, 4)), np.zeros(4)),  # no gradient says anything
        (np.ones((4, 4)), np.ones(4)),  # one example four times
        (np.ones((4, 4)) + 1e-7 * np.triu(np.ones((4, 4))), np.ones(4)),  # the same in float32
        (np.array([[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), np.full(4, 0.5)),  # unbounded
        (np.eye(4), -np.ones(4)),  # all point away
    ],
)
def test_gradients_that_say_little_leave_budgets_met_and_numbers_finite(K, b):
    dom, kappa_C = np.array([0, 0, 1, 1]), np.array([2, 1])
    for rng in (None, np.random.default_rng(0)):
        S, w = numerics.matroid_pursuit(K, b, dom, kappa_C, rng)
        assert np.bincount(dom[S]).tolist() == [2, 1]
        assert np.isfinite(w).all()
        assert (w >= 0).all()
    for K_, b_ in ((np.where(np.eye(4) > 0, np.nan, K), b), (K, np.full(4, np.inf))):
        with pytest.raises(HarnessError, match="not finite"):
            numerics.matroid_pursuit(K_, b_, dom, kappa_C, None)


# --- the strategies, on a pool without a model


class FakePool:
    """What a selector asks of its pool; every handle gives the same products, those of `G`."""

    def __init__(self, G, task, batch):
        self.G, self.task, self.batch, self.nll = G, tuple(task), batch, np.zeros(len(G))
        self.ids = [f"{t}/{i}" for i, t in enumerate(task)]
        self.examples = [SimpleNamespace(id=i, task=t) for i, t in zip(self.ids, task, strict=True)]
        self.quota, self.state, self.lr, self.progress = dict.fromkeys(task, 1), {}, 1e-4, 0.0
        self.rng, self.lines = np.random.default_rng(0), []
        self.share = dict.fromkeys(task, 1 / len(set(task)))

    def __len__(self):
        return len(self.G)

    def log(self, name, value, *, points=None):
        self.lines.append(value)
        return True

    def gradients(self, examples=None, *, modules, normalize=False):
        G = self.G if examples is None else self.G[[i % len(self.G) for i in range(len(examples))]]
        if normalize:
            G = G / np.maximum(np.linalg.norm(G, axis=1, keepdims=True), 1e-30)
        return SimpleNamespace(G=G, gram=lambda other=None: G @ (G if other is None else other.G).T)


TASKS = {t: SimpleNamespace(n_train=40, n_validation=5) for t in "abc"}
LAB = SimpleNamespace(
    tasks=TASKS, sample=lambda task, n, split: [SimpleNamespace(id=f"{task}/v{k}", task=task) for k in range(n)]
)
SELECTORS = ("partitionsel", "greats", "gradmatch", "craig", "colm", "max_loss", "grad_norm", "random_select")


def chosen(name, pool, **options):
    (part,) = resolve(name).build({"pool": "4", "ratio": "0.25"} | options).parts
    return part.wrap(LAB)._callbacks["select"](pool)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("case", ["zero gradients", "one example many times", "one candidate", "one of a task"])
def test_selectors_choose_one_batch_of_different_candidates_whatever_the_gradients(name, case):
    rng = np.random.default_rng(0)
    task, batch, G = "abababababababab", 4, rng.normal(size=(16, 5))
    if case == "zero gradients":
        G = np.zeros((16, 5))
    if case == "one example many times":
        G = np.ones((16, 5))
    if case == "one candidate":
        task, batch, G = "b", 1, G[:1]
    if case == "one of a task":  # c is absent, and a has fewer candidates than an equal share
        task = "abbbbbbbbbbbbbbb"
    pool = FakePool(G, task, batch)
    found = chosen(name, pool)
    S = np.asarray(found.indices)
    assert len(set(S.tolist())) == len(S) == batch
    weights = np.ones(batch) if found.weights is None else np.asarray(found.weights)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.mean() == pytest.approx(1.0)
    if name != "random_select":
        (line,) = pool.lines
        assert sum(line["tasks"]) == batch
        assert line["tasks"][2] == 0
        assert all(np.isfinite(v) for k, v in line.items() if k != "tasks")


def test_colm_takes_for_rare_what_the_mixture_has_little_of_whatever_was_drawn():
    for share, expected in ((0.5, 1), (0.1, 2)):
        pool = FakePool(np.random.default_rng(1).normal(size=(16, 5)), "aa" + "b" * 14, 4)
        pool.share = {"a": share, "b": 1 - share}
        assert [pool.task[i] for i in chosen("colm", pool).indices].count("a") == expected


@pytest.mark.parametrize("target", ["train", "validation"])
def test_gradmatch_per_task_weighs_each_task_by_its_share_of_the_pool(target):
    """Gradients that are all the same: one candidate stands for 12 of them, another for 4."""
    pool = FakePool(np.ones((16, 5)), "a" * 12 + "b" * 4, 2)
    found = chosen("gradmatch", pool, per_task="true", target=target, lam="0.0")
    weights = {pool.task[i]: w for i, w in zip(found.indices, found.weights, strict=True)}
    assert weights == pytest.approx({"a": 1.5, "b": 0.5}, rel=1e-3)


def test_faithful_partitionsel_meets_its_budgets():
    pool = FakePool(np.random.default_rng(1).normal(size=(16, 30)), "abababababababab", 4)
    S = chosen("partitionsel", pool, faithful="true", eta_select="0.5").indices
    assert sorted(pool.task[i] for i in S) == ["a", "a", "b", "b"]


def test_the_log_counts_conflicts_of_the_chosen_and_of_a_random_subset():
    G = np.array([[1.0, 0.0]] * 8 + [[-1.0, 0.0]] * 8)
    pool = FakePool(G, "a" * 16, 4)
    found = chosen("grad_norm", pool)
    (line,) = pool.lines
    assert line["conflicts"] == sum(G[i, 0] * G[j, 0] < 0 for i, j in itertools.combinations(found.indices, 2))
    assert line["random_conflicts"] == pytest.approx(64 * 6 / 120, abs=1e-4)


@pytest.mark.parametrize("n_tasks", [3, 45, 1500])
def test_lines_of_a_long_run_over_many_tasks_fit_into_the_log(n_tasks):
    """As many selections as give counts of five digits."""
    tasks, lines, seen = [f"t{k}" for k in range(n_tasks)], [], [-1]

    class Pool(FakePool):
        def log(self, name, value, *, points=None):
            seen.append(int(self.progress * points))
            due = seen[-1] > max(seen[:-1])
            lines.extend([json.dumps(value)] * due)
            return due

    pool = Pool(np.ones((2, 2)), tasks[:2], 1)
    for k in range(100):
        pool.progress = k / 100
        pool.state["selection.tasks"] = pool.state.get("selection.tasks", np.zeros(n_tasks, int)) + 500
        numerics.tally(pool, tasks, np.array([0]), pool.G, residual=0.5)
    assert 1 <= len(lines) <= 20
    assert sum(map(len, lines)) < LOG_NAME_BYTES
