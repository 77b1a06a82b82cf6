"""Minibatch selection: the solvers against brute force, and the strategies on a real lab over the toy suite."""

import itertools
from contextlib import suppress

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from harness.errors import BudgetExhausted, RunFailed
from harness.registry import resolve
from strategies import _numerics as numerics
from tests.labs import make_lab
from tests.test_lab import same

SELECTORS = (
    "partitionsel", "greats", "gradmatch", "craig", "colm", "max_loss", "grad_norm", "rho_loss", "random_select",
)  # fmt: skip


def unit_rows(rng, n, d=6):
    G = rng.normal(size=(n, d))
    return G / np.linalg.norm(G, axis=1, keepdims=True)


def value(G, target, S):
    """f(S): <target, G_S' w> - |G_S' w|^2 / 2 at the best w >= 0, by scipy's NNLS."""
    _, residual = nnls(G[list(S)].T, target)
    return (target @ target - residual**2) / 2


def bases(dom, kappa):
    """All S with exactly kappa_c of each domain."""
    parts = [itertools.combinations(np.flatnonzero(dom == c), k) for c, k in enumerate(kappa)]
    return [[i for part in combination for i in part] for combination in itertools.product(*parts)]


# --- solvers


@pytest.mark.parametrize("seed", range(5))
def test_the_refit_is_nnls(seed):
    rng = np.random.default_rng(seed)
    G, target = unit_rows(rng, 5, 12), rng.normal(size=12)
    expected, _ = nnls(G.T, target)
    for start in (np.zeros(5), rng.random(5), expected):
        found = numerics.nonnegative(G @ G.T, G @ target, start)
        assert found == pytest.approx(expected, abs=1e-5)
        assert (found >= 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_the_pursuit_is_close_to_the_best_subset_and_keeps_the_budgets(seed):
    rng = np.random.default_rng(seed)
    G, dom, kappa = unit_rows(rng, 10), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]), np.array([2, 1, 1])
    target = G.mean(0) + rng.normal(size=6) / 3
    K, b = G @ G.T, G @ target
    values = [value(G, target, S) for S in bases(dom, kappa)]
    S, w = numerics.matroid_pursuit(K, b, dom, kappa, None)
    assert np.bincount(dom[S], minlength=3).tolist() == kappa.tolist()
    assert (w >= 0).all()
    assert not np.delete(w, S).any()
    assert w @ b - w @ K @ w / 2 == pytest.approx(value(G, target, S), rel=1e-4)
    assert value(G, target, S) >= 0.5 * max(values)
    # At random: on average better than a random basis, and no worse than half of the best.
    drawn = []
    for k in range(20):
        S, _ = numerics.matroid_pursuit(K, b, dom, kappa, np.random.default_rng(k))
        assert np.bincount(dom[S], minlength=3).tolist() == kappa.tolist()
        drawn.append(value(G, target, S))
    assert np.mean(drawn) >= max(np.mean(values), max(values) / 2)


def test_without_interaction_the_pursuit_takes_the_top_of_each_domain():
    b, dom = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]), np.array([0, 0, 0, 1, 1, 1])
    for rng in (None, np.random.default_rng(0)):
        S, w = numerics.matroid_pursuit(np.eye(6), b, dom, np.array([2, 1]), rng)
        assert sorted(S) == [0, 1, 3]
        assert w[S] == pytest.approx(b[S], rel=1e-5)


def test_the_pursuit_sees_redundancy_at_any_learning_rate_and_greats_does_not():
    G = np.array([[1, 0.02], [1, 0.01], [1, 0.0], [0.0, 1]])
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    target = np.array([1.0, 0.4])
    K, s = G @ G.T, G @ target
    for eta in (1e-12, 2e-4, 0.1):
        S, _ = numerics.matroid_pursuit(K, s + eta / 2, np.zeros(4, int), np.array([2]), None)
        assert sorted(S) == [0, 3]
    assert sorted(numerics.greedy_interaction(s, 2e-4 * K, 2)) == [0, 1]
    assert sorted(numerics.greedy_interaction(s, 1.0 * K, 2)) == [0, 3]


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_greats_is_the_greedy_of_its_set_function(eta):
    """eta sum s_i - eta^2 sum_{i<j} K_ij, one marginal gain at a time."""
    rng = np.random.default_rng(3)
    G = unit_rows(rng, 9)
    K, s = G @ G.T, rng.normal(size=9)

    def worth(S):
        return eta * s[S].sum() - eta**2 * np.triu(K[np.ix_(S, S)], 1).sum()

    S = []
    for _ in range(4):
        S.append(max((i for i in range(9) if i not in S), key=lambda i: worth([*S, i])))
    assert numerics.greedy_interaction(s, eta * K, 4).tolist() == S


@pytest.mark.parametrize("seed", range(5))
def test_orthogonal_pursuit_finds_an_exact_combination_and_its_weights(seed):
    rng = np.random.default_rng(seed)
    G = np.linalg.qr(rng.normal(size=(8, 8)))[0] + 0.05 * rng.normal(size=(8, 8))
    g = 2.0 * G[1] + 0.5 * G[4] + 1.0 * G[6]
    S, w = numerics.orthogonal_pursuit(G @ G.T, G @ g, g @ g, 5, 0.0, 1e-8)
    assert sorted(S) == [1, 4, 6]
    assert w[np.argsort(S)] == pytest.approx([2.0, 0.5, 1.0], rel=1e-3)
    # With lambda, the refit is ridge regression on what was picked; no weight is negative.
    S, w = numerics.orthogonal_pursuit(G @ G.T, G @ g, g @ g, 3, 0.5, 0.0)
    A = np.vstack([G[S].T, np.sqrt(0.5) * np.eye(3)])
    assert w == pytest.approx(nnls(A, np.concatenate([g, np.zeros(3)]))[0], abs=1e-5)
    S, w = numerics.orthogonal_pursuit(G @ G.T, -np.abs(G @ g), g @ g, 3, 0.5, 0.0)
    assert len(S) == len(w) == 0  # nothing correlates


@pytest.mark.parametrize("seed", range(5))
def test_facility_location_reaches_its_bound(seed):
    S = np.random.default_rng(seed).random((9, 9))
    S = (S + S.T) / 2

    def covered(chosen):
        return S[:, list(chosen)].max(1).sum()

    found = numerics.facility_location(S, 3)
    best = max(covered(c) for c in itertools.combinations(range(9), 3))
    assert len(set(found)) == 3
    assert covered(found) >= (1 - 1 / np.e) * best
    assert covered(found[:1]) == max(covered([j]) for j in range(9))
    two = np.zeros((6, 6))
    two[:3, :3] = two[3:, 3:] = 1.0  # two clusters: one medoid each
    assert {i // 3 for i in numerics.facility_location(two, 2)} == {0, 1}


def test_budgets_by_hand():
    for n, kappa, expected in [
        ([10, 10, 12], 8, [3, 2, 3]),  # floors 2 2 3: the one left to the smallest, first by order
        ([1, 1, 30], 8, [1, 0, 7]),
        ([5, 5, 5], 8, [3, 3, 2]),
        ([4, 4], 8, [4, 4]),
        ([1, 15], 15, [1, 14]),
        ([0, 6, 2], 4, [0, 3, 1]),
        ([3], 9, [3]),  # no more than there are
    ]:
        assert numerics.budgets(np.array(n), kappa).tolist() == expected


def test_colm_keeps_rare_tasks_whole():
    CoLM = resolve("colm").parts[0].cls
    n_C = np.array([2, 14, 16])
    for rare_C, expected in [([1, 0, 0], [2, 7, 7]), ([0, 0, 0], [1, 7, 8]), ([1, 1, 1], [1, 7, 8])]:  # all: by size
        assert CoLM().budgets(n_C, np.array(rare_C, bool), 16).tolist() == expected


def test_conflicts_are_pairs_that_point_apart():
    assert numerics.conflicts(np.array([[1.0, -0.1, 0.2], [-0.1, 1.0, -0.3], [0.2, -0.3, 1.0]])) == 2


# --- strategies


def play(folder, suite, model, name, options=None, budget=0.5):
    lab, core, engine, _ = make_lab(folder, suite, model, budget=budget)
    with suppress(BudgetExhausted):
        resolve(name).build(options or {}).run(lab)
    return core, engine


def logged(core):
    return [e["data"] for e in core.trail.events if e["note"] == "selection"]


@pytest.mark.parametrize("name", SELECTORS)
def test_each_trains_bills_and_repeats_itself(name, toy, tiny, tmp_path):
    core, engine = play(tmp_path / "1", toy, tiny, name)
    again, other = play(tmp_path / "2", toy, tiny, name)
    assert same(engine, other)
    ledger = core.ledger
    by_phase = {p: sum(e.model for e in ledger.entries if e.phase == p) for p in {e.phase for e in ledger.entries}}
    asked = {"max_loss": {"probe"}, "rho_loss": {"probe", "proxy"}, "random_select": set()}
    assert {"train", "look"} | asked.get(name, {"gradients"}) == set(by_phase)
    assert 0 < ledger.spent <= ledger.cap
    if name == "rho_loss":
        assert by_phase["proxy"] <= 0.1 * ledger.cap
    if name != "random_select":
        lines = logged(core)
        assert 1 <= len(lines) <= 21
        assert logged(again) == lines
        assert all(len(line["tasks"]) == 3 for line in lines)
        assert all(sum(line["tasks"]) % 4 == 0 for line in lines)


def test_references_that_no_step_is_paid_for_are_the_model_as_it_begins(toy, tiny, tmp_path):
    core, _ = play(tmp_path, toy, tiny, "rho_loss", budget=0.3)
    phases = {e.phase for e in core.ledger.entries}
    assert {"train", "probe"} <= phases
    assert "proxy" not in phases


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("partitionsel", {"within": "true", "greedy": "true"}),
        ("partitionsel", {"ratio": "0.25", "eta_select": "1.0", "layers": "1"}),
        ("greats", {"per_task": "true", "pool": "4", "ratio": "0.25", "normalize": "true"}),
        ("gradmatch", {"per_task": "true"}),
        ("gradmatch", {"target": "validation", "normalize": "true"}),
    ],
)
def test_variants_run(name, options, toy, tiny, tmp_path):
    core, _ = play(tmp_path, toy, tiny, name, options)
    assert logged(core)


def test_partitionsel_keeps_each_tasks_share_of_its_pool(toy, tiny, tmp_path):
    core, _ = play(tmp_path, toy, tiny, "partitionsel")
    tasks = np.sum([line["tasks"] for line in logged(core)], axis=0)
    assert tasks / tasks.sum() == pytest.approx(np.array([24, 16, 8]) / 48, abs=0.1)
    assert all(0 <= line["overlap"] <= 1 and line["residual"] <= 1 + 1e-6 for line in logged(core))


def test_a_pool_that_is_kept_whole_is_plain_training_in_another_order(toy, tiny, tmp_path):
    core, _ = play(tmp_path, toy, tiny, "random_select", {"ratio": "1.0"})
    lab, plain, *_ = make_lab(tmp_path / "plain", toy, tiny, budget=0.5)
    lab.train(lab.proportional())
    steps = [sum(e.phase == "train" for e in c.ledger.entries) for c in (core, plain)]
    assert steps[0] == pytest.approx(steps[1], abs=1)


def test_under_msft_a_selector_sees_the_tasks_that_are_left(toy, tiny, tmp_path):
    for name in ("partitionsel", "greats"):
        core, _ = play(tmp_path / name, toy, tiny, f"msft+{name}", {"C": "0.5"}, budget=2.0)
        assert {"train", "gradients", "validate"} <= {e.phase for e in core.ledger.entries}
        assert logged(core)


def test_for_one_task_iwd_is_partitionsel(toy, tiny, tmp_path):
    engines = []
    for within in ("true", "false"):
        lab, _, engine, _ = make_lab(tmp_path / within, toy, tiny)
        (part,) = resolve("partitionsel").build({"within": within, "pool": "4", "ratio": "0.25"}).parts
        part.wrap(lab).train(lab.only("copy"), "3 step", keep="none")
        engines.append(engine)
    assert same(*engines)


@pytest.mark.parametrize("name", ["partitionsel", "greats", "gradmatch", "craig", "colm", "grad_norm"])
def test_a_gradient_that_is_not_finite_ends_the_run_in_a_line_that_names_the_example(name, toy, tiny, tmp_path):
    lab, _, engine, _ = make_lab(tmp_path, toy, tiny)
    with torch.no_grad():
        next(p for n, p in engine.lm.named_parameters() if n.endswith("1.mlp.down_proj.weight")).fill_(torch.nan)
    with pytest.raises(RunFailed, match=r"that of example \w+/\d+ is not finite") as failed:
        resolve(name).build({}).run(lab)
    assert "\n" not in str(failed.value)
