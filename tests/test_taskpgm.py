"""TaskPGM: its solver against brute force and scipy, its divergence against whole distributions, its plot on a real lab."""

import itertools
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from harness.errors import BudgetExhausted, HarnessError
from harness.registry import builtin, find, resolve
from harness.values import Distribution
from strategies import _numerics as numerics
from tests.labs import make_lab
from tests.test_lab import same

TASKPGM = find("taskpgm").cls
B4 = np.array([[1, 0.8, 0.1, 0.2], [0.8, 1, 0.2, 0.1], [0.1, 0.2, 1, 0.3], [0.2, 0.1, 0.3, 1]])


def value(S, c, p):
    return p @ S @ p / 2 - c @ p


def brute(S, c):
    """The best stationary point of all supports that is nonnegative, from each support's KKT system."""
    n, best = len(c), None
    for k in range(1, n + 1):
        for A in map(list, itertools.combinations(range(n), k)):
            K = np.block([[S[np.ix_(A, A)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
            p = np.zeros(n)
            p[A] = np.linalg.solve(K, np.append(c[A], 1.0))[:k]
            if p.min() >= -1e-12 and (best is None or value(S, c, p) < value(S, c, best)):
                best = p
    return best


def random_qp(rng, n, rank=None):
    G = rng.normal(size=(n, rank or n))
    return G @ G.T + 1e-3 * np.eye(n), rng.normal(size=n) * rng.choice([0.1, 1.0, 10.0])


# --- the quadratic programme


@pytest.mark.parametrize(
    ("beta", "lam", "expected"),
    [
        (10, 20, (0.3, 0.3, 0.2, 0.2)),
        (0.25, 1.25, (0.24, 0.24, 0.26, 0.26)),
        (1, 1, (0.4, 0.4, 0.1, 0.1)),
        (0.25, 1, (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_four_worked_examples(beta, lam, expected):
    p = numerics.simplex_qp(B4, beta / lam * B4.sum(1))
    # the released closed form by its own formulas
    un, pair = beta * B4.sum(1), lam * B4
    inverse = np.linalg.inv(pair)
    nu = (inverse.sum(0) @ un - 1) / inverse.sum()
    assert inverse @ (un - nu) == pytest.approx(expected, abs=0.0051)
    assert p == pytest.approx(inverse @ (un - nu), abs=1e-12)
    assert p.round(2) == pytest.approx(expected, abs=1e-9)
    found, terms = TASKPGM(r=4 * beta / lam, epsilon=0.0).weights(B4)
    assert found == pytest.approx(p)
    assert terms["r"] == 4 * beta / lam
    faithful, _ = TASKPGM(faithful=True).weights(B4)
    assert faithful.round(2) == pytest.approx((0.3, 0.3, 0.2, 0.2))


@pytest.mark.parametrize("seed", range(60))
def test_the_minimum_is_the_best_of_all_supports(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    S, c = random_qp(rng, n, int(rng.integers(1, n + 1)))
    p = numerics.simplex_qp(S, c)
    assert p == pytest.approx(brute(S, c), abs=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_the_minimum_is_scipys(seed):
    rng = np.random.default_rng(seed)
    S, c = random_qp(rng, 20, 10)
    p = numerics.simplex_qp(S, c)
    found = minimize(
        lambda p: value(S, c, p),
        np.full(20, 0.05),
        jac=lambda p: S @ p - c,
        bounds=[(0, 1)] * 20,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-14},
    )
    legal = np.clip(found.x, 0, None)
    legal /= legal.sum()  # SLSQP stops a hair off the simplex, where values are lower than any on it
    assert value(S, c, p) <= value(S, c, legal) + 1e-10
    assert p == pytest.approx(found.x, abs=1e-4)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1e-6, 1e-3, 1.0]), st.floats(0, 200))
def test_kkt_conditions_hold(seed, n, epsilon, r):
    """Of similarities as they come: symmetric, indefinite, with zero diagonals or none."""
    rng = np.random.default_rng(seed)
    S = rng.normal(size=(n, n)) * rng.choice([1e-2, 1.0, 50.0])
    if rng.random() < 0.5:
        np.fill_diagonal(S, 0.0)
    S = numerics.definite(S, epsilon)
    c = r / n * S.sum(1)
    p = numerics.simplex_qp(S, c)
    scale = max(np.abs(S).max(), np.abs(c).max())
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1)
    mu = S @ p - c
    nu = -mu[p > 0].mean()
    assert np.abs(mu[p > 0] + nu).max() <= 1e-7 * scale
    assert (mu + nu).min() >= -1e-7 * scale


def test_a_large_problem_is_quick_and_solved():
    rng = np.random.default_rng(0)
    S, c = random_qp(rng, 316, 100)
    p = numerics.simplex_qp(S, c)
    mu = S @ p - c
    assert (mu - mu[p > 0].mean()).min() >= -1e-7 * np.abs(S).max()


def test_tasks_that_are_all_alike_weigh_the_same():
    for S in (np.zeros((4, 4)), -np.ones((4, 4)) + np.eye(4), np.ones((4, 4))):
        for r in (0.0, 1.0, 2.0, 160.0):
            p, _ = TASKPGM(r=r).weights(S)
            assert p == pytest.approx(np.full(4, 0.25), abs=1e-6)
            assert TASKPGM(faithful=True).weights(S)[0] == pytest.approx(np.full(4, 0.25), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_r_one_is_uniform_and_r_moves_on_a_line_through_it(seed, n):
    rng = np.random.default_rng(seed)
    S = numerics.definite(-np.abs(rng.normal(size=(n, n))) * (1 - np.eye(n)), 1e-2)
    uniform, _ = TASKPGM(r=1.0, epsilon=0.0).weights(S)
    assert uniform == pytest.approx(np.full(n, 1 / n), abs=1e-8)
    w = np.linalg.solve(S, np.ones(n))
    w /= w.sum()
    for r in (0.9, 1.1):
        line = np.full(n, r / n) - (r - 1) * w
        if line.min() > 0:
            assert TASKPGM(r=r, epsilon=0.0).weights(S)[0] == pytest.approx(line, abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_projection_is_the_nearest_point(v, seed):
    v, rng = np.array(v), np.random.default_rng(seed)
    p = numerics.project(v)
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1)
    for q in rng.dirichlet(np.ones(len(v)), 20):
        assert (v - p) @ (q - p) <= 1e-9  # obtuse: no point of the simplex is nearer


def test_faithful_is_the_closed_form_projected_and_clips_nothing_else():
    rng = np.random.default_rng(2)
    S = -np.abs(rng.normal(size=(6, 6))) * (1 - np.eye(6))
    S = (S + S.T) / 2
    shifted = S - np.linalg.eigvalsh(S)[0] * np.eye(6)
    pseudo = np.linalg.pinv(20 * shifted, rcond=1e-12)
    un = 10 * shifted.sum(1)
    nu = (np.ones(6) @ pseudo @ un - 1) / pseudo.sum()
    expected = numerics.project(pseudo @ (un - nu))
    found, terms = TASKPGM(faithful=True).weights(S)
    assert found == pytest.approx(expected, abs=1e-6)
    assert terms["r"] == 3.0


def test_the_greedy_variant_adds_the_largest_gain():
    rng = np.random.default_rng(4)
    S, c = random_qp(rng, 7)
    chosen = []
    for _ in range(3):
        gains = {}
        for i in set(range(7)) - set(chosen):
            A = [*chosen, i]
            gains[i] = -value(S[np.ix_(A, A)], c[A], brute(S[np.ix_(A, A)], c[A]))
        chosen.append(max(gains, key=gains.get))
    assert numerics.greedy_support(S, c, 3).tolist() == chosen
    p, terms = TASKPGM(m=2).weights(-np.abs(S) * (1 - np.eye(7)))
    assert (p > 0).sum() == terms["support"] <= 2
    # weakly submodular: at least 1 - exp(-gamma) of the best, gamma = smallest / largest eigenvalue
    least = np.linalg.eigvalsh(S)
    best = max(-value(S, c, _on(S, c, A)) for A in itertools.combinations(range(7), 3))
    if best > 0:
        assert -value(S, c, _on(S, c, chosen)) >= (1 - np.exp(-least[0] / least[-1])) * best


def _on(S, c, A):
    A = list(A)
    p = np.zeros(len(c))
    p[A] = brute(S[np.ix_(A, A)], c[A])
    return p


# --- counts


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), min_size=1, max_size=10).filter(
        lambda rows: any(w for w, _ in rows)
    ),
    st.integers(1, 300),
)
def test_counts_sum_and_stay_under_their_caps(rows, total):
    p, caps = np.array([w for w, _ in rows]) / sum(w for w, _ in rows), np.array([k for _, k in rows])
    counts = numerics.apportion(p, total, caps)
    assert counts.sum() == min(total, caps[p > 0].sum())
    assert (counts <= caps).all()
    assert not counts[p == 0].any()
    if (np.ceil(p * total) <= caps).all():
        assert (np.abs(counts - p * total) < 1).all()
    room = (counts < caps - 1) & (p > 0)
    if room.any():  # what overflows goes by weight, too
        assert (np.abs(counts[room] - p[room] * counts[room].sum() / p[room].sum()) < 2).all()


def test_counts_by_hand():
    for p, total, caps, expected in [
        ([0.5, 0.25, 0.25], 10, [9, 9, 9], [5, 3, 2]),
        ([0.5, 0.25, 0.25], 10, [2, 9, 9], [2, 4, 4]),
        ([0.5, 0.25, 0.25], 30, [5, 6, 7], [5, 6, 7]),
        ([0.9, 0.1, 0.0], 10, [4, 3, 9], [4, 3, 0]),
        ([1.0], 7, [9], [7]),
    ]:
        assert numerics.apportion(np.array(p), total, np.array(caps)).tolist() == expected


# --- affinities


def truncated(P, k):
    """(S, V) probabilities as a lab gives them: the k largest, float32, and the rest."""
    ids = np.argsort(-P, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(P, ids, 1)
    return Distribution(ids, np.log(kept).astype(np.float32), np.clip(1 - kept.sum(1), 0, 1).astype(np.float32))


def exact_jsd(P, Q):
    M = (P + Q) / 2
    return ((P * np.log(P / M)).sum(1) + (Q * np.log(Q / M)).sum(1)) / 2


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 40), st.sampled_from([0.02, 0.1, 1.0, 10.0]))
def test_the_truncated_divergence_keeps_its_bound(seed, V, k, concentration):
    rng = np.random.default_rng(seed)
    draw = lambda: rng.dirichlet(np.full(V, concentration), 5) * (1 - 1e-9) + 1e-9 / V  # noqa: E731
    P, Q = draw(), draw()
    if rng.random() < 0.3:
        Q = 0.9 * P + 0.1 * Q
    found, above, below = numerics.truncated_jsd(truncated(P, min(k, V)), truncated(Q, min(k, V)))
    true = exact_jsd(P, Q)
    assert (true <= found + above + 1e-5).all()
    assert (true >= found - below - 1e-5).all()
    if k >= V:
        assert found == pytest.approx(true, abs=1e-5)
        assert max(above.max(), below.max()) < 1e-5


def test_the_bound_closes_in_as_more_tokens_are_kept():
    rng = np.random.default_rng(0)
    P, Q = rng.dirichlet(np.full(500, 0.05), 50), rng.dirichlet(np.full(500, 0.05), 50)
    P, Q = P + 1e-12, Q + 1e-12
    gaps = []
    for k in (8, 32, 128, 500):
        found, above, below = numerics.truncated_jsd(truncated(P, k), truncated(Q, k))
        gaps.append((above + below).mean())
        assert np.abs(found - exact_jsd(P, Q)).max() <= np.maximum(above, below).max() + 1e-5
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-4


def test_sharp_models_that_disagree_are_far_apart_though_their_lists_do_not_meet():
    one, other = (Distribution(np.array([[i]]), np.log([[0.999]]), np.array([0.001])) for i in (3, 5))
    found, above, below = numerics.truncated_jsd(one, other)
    assert found[0] == pytest.approx(0.999 * np.log(2), abs=1e-3)
    assert above[0] == pytest.approx(0.001 * np.log(2))
    assert below[0] < 0.01


def toy_items(tasks, each):
    from harness.api import Example

    return [Example(f"v:{t}/{k}", t, "validation") for k in range(each) for t in tasks]


def test_pmi_by_its_definition():
    rng = np.random.default_rng(0)
    tasks, items = ["a", "b", "c"], toy_items(["a", "b", "c"], 4)
    views = [[-rng.random(int(rng.integers(1, 6))) * (1 if e.task == t else 3) for e in items] for t in tasks]
    lengths = [len(x) for x in views[0]]
    views = [[np.resize(x, n) for x, n in zip(mine, lengths, strict=True)] for mine in views]
    for norm in (False, True):
        S = TASKPGM(length_norm=norm).pmi(items, views)
        for i, j in itertools.product(range(3), repeat=2):
            gaps = []
            for own, other in ((j, i), (i, j)):
                of = [
                    (views[other][k] - views[own][k]).sum() / (lengths[k] if norm else 1)
                    for k, e in enumerate(items)
                    if e.task == tasks[own]
                ]
                gaps.append(np.mean(of))
            assert S[i, j] == pytest.approx(sum(gaps) / 2)
        assert (S == S.T).all()
        assert not S.diagonal().any()
        assert S.max() <= 0
    far = [[np.array([-40.0 - i]) for _ in items] for i in range(3)]
    assert not TASKPGM(faithful=True).pmi(items, far).any()  # everything lies below the floor of 1e-12


# --- the plot


def play(folder, suite, model, name="taskpgm", options=None, **request):
    lab, core, engine, _ = make_lab(folder, suite, model, **request)
    with suppress(BudgetExhausted):
        resolve(name).build(options or {}).run(lab)
    logs = {}
    for event in core.trail.events:
        if event["verb"] == "log":
            logs.setdefault(event["note"], []).append(event["data"])
    return core, engine, logs


def by_phase(core):
    return {
        p: sum(e.model for e in core.ledger.entries if e.phase == p) for p in {e.phase for e in core.ledger.entries}
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"affinity": "jsd"},
        {"faithful": "true"},
        {"m": "2"},
        {"r": "1.0", "length_norm": "true"},
        {"affinity": "jsd", "top_k": "4", "B": "0.9", "r": "20"},
    ],
)
def test_it_pays_for_its_proxies_and_trains_on_its_counts(options, toy, tiny, tmp_path):
    core, engine, logs = play(tmp_path / "1", toy, tiny, options=options)
    _, other, repeated = play(tmp_path / "2", toy, tiny, options=options)
    assert same(engine, other)
    assert logs == repeated
    phases, cap = by_phase(core), core.ledger.cap
    assert set(phases) == {"train", "proxy", "look"}
    assert 0.15 * cap < phases["proxy"] <= 0.3 * cap
    assert 0.9 * cap < phases["proxy"] + phases["train"] <= cap
    (affinity,), (weights,), (counts,) = logs["affinity"], logs["weights"], logs["counts"]
    S, p = np.array(affinity["S"]), weights["weights"]
    assert (S == S.T).all()
    assert sum(p.values()) == pytest.approx(1, abs=1e-5)
    assert weights["l1"] == pytest.approx(sum(abs(x - 1 / 3) for x in p.values()), abs=1e-4)
    total = round(48 * float(options.get("B", 0.5)))
    sizes = {"copy": 24, "flip": 16, "next": 8}
    if "faithful" in options:
        assert sum(counts.values()) == total
    else:
        assert sum(counts.values()) == min(total, sum(sizes[t] for t in p if p[t] > 0))
        assert all(n <= sizes[t] for t, n in counts.items())
    (mixture,) = core.trail.mixtures
    assert mixture["weights"] == {t: round(n / sum(counts.values()), 6) for t, n in counts.items() if n}
    if options.get("r") == "1.0":
        assert all(x == pytest.approx(1 / 3, abs=1e-5) for x in p.values())
    if "m" in options:
        assert sum(x > 0 for x in p.values()) <= 2
    if options.get("affinity") == "jsd":
        assert (S >= 0).all()
        assert all(0 <= x < np.log(2) for x in logs["truncation"][0].values())
    else:
        assert not S.diagonal().any()


def test_proxies_may_be_another_model(toy, tiny, tmp_path):
    """The looks are then inside its forks, in its own tokens; it is billed at its own price."""
    from tests.conftest import make_model

    folder = make_model(tmp_path / "other", "llama")
    core, _, logs = play(tmp_path / "run", toy, tiny, options={"proxy": str(folder)})
    assert 0.15 * core.ledger.cap < by_phase(core)["proxy"] <= 0.3 * core.ledger.cap
    assert logs["counts"]


def test_a_proxy_that_cannot_look_says_so(toy, tiny, tmp_path):
    with pytest.raises(HarnessError, match="raise `proxies` or `looks`"):
        play(tmp_path, toy, tiny, options={"proxies": "0.001"})


@pytest.mark.parametrize("lens", ["partitionsel", "dft"])
def test_under_a_lens_its_proxies_are_not_wrapped(lens, toy, tiny, tmp_path):
    if lens not in builtin():
        pytest.skip(f"{lens} is not here")
    plain, _, alone = play(tmp_path / "1", toy, tiny)
    core, _, logs = play(tmp_path / "2", toy, tiny, f"taskpgm+{lens}", budget=1.0)
    assert logs["counts"]
    if lens == "dft":
        assert logs["affinity"] == alone["affinity"]
        assert by_phase(core)["proxy"] == by_phase(plain)["proxy"]
    else:
        assert by_phase(core)["gradients"] > 0
