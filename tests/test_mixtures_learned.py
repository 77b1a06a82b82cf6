"""Learned mixtures beside TaskPGM: their updates against references written out, and their plots on a real lab."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.registry import find, resolve
from strategies import _numerics as numerics
from tests.conftest import make_model
from tests.forks import comparable
from tests.labs import make_lab
from tests.test_lab import same
from tests.test_rivals import Spy, module_of, run
from tests.test_taskpgm import by_phase, play

TASKS = ("copy", "flip", "next")
SHARES = {  # of the budget: (phase, at least, at most)
    "random_mix": ("train", 0.9, 1.0),
    "doremi": ("proxy", 0.2, 0.3),
    "regmix": ("proxy", 0.25, 0.4),
    "skill_it": ("proxy", 0.1, 0.2),
    "aioli": ("probe", 0.02, 0.2),
    "doge": ("proxy", 0.2, 0.3),
}


@pytest.mark.parametrize("name", sorted(SHARES))
def test_each_pays_for_what_it_learns_and_repeats_itself(name, toy, tiny, tmp_path):
    core, engine, logs = play(tmp_path / "1", toy, tiny, name)
    _, other, repeated = play(tmp_path / "2", toy, tiny, name)
    assert same(engine, other)
    assert logs == repeated
    _, _, moved = play(tmp_path / "3", toy, tiny, name, seed=1)
    assert moved["weights"] != logs["weights"]
    phases, cap = by_phase(core), core.ledger.cap
    phase, least, most = SHARES[name]
    assert least * cap < phases[phase] <= most * cap
    billed = sum(x for p, x in phases.items() if p != "look")
    assert 0.9 * cap < billed == core.ledger.spent <= cap
    assert phases["train"] > 0.5 * cap
    for said in logs["weights"]:
        assert tuple(said["weights"]) == TASKS
        assert min(said["weights"].values()) >= 0
        assert sum(said["weights"].values()) == pytest.approx(1, abs=1e-5)
        assert said["l1"] == pytest.approx(sum(abs(x - 1 / 3) for x in said["weights"].values()), abs=1e-4)
    trained = core.trail.mixtures[-1]["weights"]
    assert trained == pytest.approx({t: x for t, x in logs["weights"][-1]["weights"].items() if x}, abs=1e-6)


@pytest.mark.parametrize("name", [*sorted(SHARES), "taskpgm"])
def test_shares_hold_under_another_budget_and_under_a_lens(name, toy, tiny, tmp_path):
    core, _, _ = play(tmp_path, toy, tiny, f"{name}+random_select", budget=2.0)
    assert core.ledger.spent <= core.ledger.cap
    assert by_phase(core)["train"] > 0.5 * core.ledger.cap


def test_random_mix_draws_weights_or_the_union(toy, tiny, tmp_path):
    core, _, logs = play(tmp_path / "1", toy, tiny, "random_mix", {"alpha": "1e6"})
    assert logs["weights"][0]["l1"] < 0.02
    core, _, logs = play(tmp_path / "2", toy, tiny, "random_mix", {"union": "true", "B": "0.5"})
    (mixture,) = core.trail.mixtures
    assert all(abs(w * 24 - round(w * 24)) < 1e-4 for w in mixture["weights"].values())
    assert sum(round(w * 24) for w in mixture["weights"].values()) == 24


KILLED = [(name, {}) for name in (*SHARES, "taskpgm")] + [
    ("taskpgm", {"affinity": "jsd"}),
    ("taskpgm", {"r": "0", "utility": "0.1"}),
    ("taskpgm", {"faithful": "true", "proxy": "OTHER"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), KILLED)
def test_killed_while_it_learns_it_ends_in_the_same_record(forks, name, options, toy, tiny, tmp_path):
    if "proxy" in options:
        options = options | {"proxy": str(make_model(tmp_path / "other", "llama"))}

    def go(folder, **env):
        asked = {"strategy": name, "suite": toy, "model": tiny, "runs": tmp_path / folder, "options": options}
        return forks.run(asked, **env)

    def done(answer):
        assert answer["status"] == 0, answer
        return comparable(answer["record"])

    # Killed again each time that it goes on: at places counted from there.
    calm, struck = done(go("calm", HARNESS_SNAPSHOT_SECONDS="1000")), 0
    for place in ("step:2", "computed:4", "verb:3", "between:4", "snapshot:5", "step:9"):
        struck += go("struck", HARNESS_FAULT=f"kill@{place}", HARNESS_SNAPSHOT_SECONDS="0")["status"] == -9
    assert done(go("struck", HARNESS_SNAPSHOT_SECONDS="0")) == calm
    assert struck >= (1 if name == "random_mix" else 2)


# --- shared numerics


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 30))
def test_group_weights_make_each_tasks_mean_token_loss_count_by_alpha(seed, n, N):
    rng = np.random.default_rng(seed)
    alpha, dom, tokens, nll = rng.dirichlet(np.ones(n)), rng.integers(n, size=N), rng.integers(1, 9, N), rng.random(N)
    w = numerics.group_weights(alpha, dom, tokens)
    loss = (w * nll * tokens).sum() / tokens.sum()  # the harness's: over the tokens of the effective batch
    here = sorted(set(dom.tolist()))
    means = {c: (nll * tokens)[dom == c].sum() / tokens[dom == c].sum() for c in here}
    assert loss == pytest.approx(sum(alpha[c] * means[c] for c in here) / sum(alpha[c] for c in here))


def test_tilted_is_a_softmax_of_any_size():
    p = np.array([0.2, 0.3, 0.5])
    raw = p * np.exp([0.1, -0.4, 0.7])
    assert numerics.tilted(p, np.array([0.1, -0.4, 0.7])) == pytest.approx(raw / raw.sum())
    assert numerics.tilted(p, np.array([1e5, 0.0, -1e5])) == pytest.approx([1, 0, 0])
    assert numerics.tilted(np.array([0.0, 1.0]), np.array([9.0, 0.0])) == pytest.approx([0, 1])


def test_rounds_hold_one_item_of_each_task_that_has_one(toy, tiny, tmp_path):
    lab, *_ = make_lab(tmp_path, toy, tiny)
    held = numerics.rounds(lab, 5)
    assert [[e.task for e in row] for row in held] == [list(TASKS)] * 4 + [["copy", "flip"]]
    items = [e for row in held for e in row]
    assert len({e.id for e in items}) == len(items) == 14
    assert all(e.split == "validation" for e in items)
    values = [float(k) for k in range(len(items))]
    means = {t: np.mean([v for e, v in zip(items, values, strict=True) if e.task == t]) for t in TASKS}
    assert numerics.task_means(items, values) == pytest.approx(list(means.values()))


def test_a_large_matrix_is_logged_by_its_rows():
    assert numerics.brief(np.ones((50, 50))).shape == (50, 50)
    assert numerics.brief(np.ones((100, 80))).shape == (100,)


# --- doremi


def reference_doremi(batches, n, eta, c):
    """Algorithm 1, one token at a time: batches of (task, losses, reference's losses); the mean of the weights."""
    alpha, excess, total = [1 / n] * n, [0.0] * n, [0.0] * n
    for batch in batches:
        for d in range(n):
            over, tokens = 0.0, 0
            for task, now, ref in batch:
                if task == d:
                    for a, b in zip(now, ref, strict=True):
                        over += max(a - b, 0.0)
                        tokens += 1
            if tokens:
                excess[d] = over / tokens
        raw = [alpha[d] * math.exp(eta * excess[d]) for d in range(n)]
        alpha = [(1 - c) * raw[d] / sum(raw) + c / n for d in range(n)]
        for d in range(n):
            total[d] += alpha[d] / len(batches)
    return total


@pytest.mark.parametrize(("eta", "c"), [(1.0, 1e-3), (0.3, 0.1)])
def test_doremis_weights_are_algorithm_1s(eta, c, toy, tiny, tmp_path, monkeypatch):
    plugin = find("doremi")
    exceeded, batches = module_of(plugin).exceeded, []

    def seen(excess, dom_N, now, reference):
        rows = zip(dom_N.tolist(), now, reference, strict=True)
        batches.append([(d, (-x).tolist(), (-r).tolist()) for d, x, r in rows])
        return exceeded(excess, dom_N, now, reference)

    monkeypatch.setattr(module_of(plugin), "exceeded", seen)
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=3)
    run(plugin.cls(eta=eta, c=c), lab)
    said = next(e["data"] for e in core.trail.events if e["note"] == "weights")
    assert len(batches) - 1 <= said["steps"] <= len(batches)
    expected = reference_doremi(batches[: said["steps"]], 3, eta, c)
    assert list(said["weights"].values()) == pytest.approx(expected, abs=1e-6)
    assert len(batches) > 10
    assert any(len({d for d, *_ in batch}) < 3 for batch in batches)  # a task was absent


def test_doremi_trains_its_proxy_on_alpha_and_compares_with_the_reference(toy, tiny, tmp_path):
    lab, _, engine, _ = make_lab(tmp_path, toy, tiny)
    doremi, weights = find("doremi"), []
    step = engine.step

    def spy(items, lr, objective=None, example_weights=None, **more):
        if example_weights:
            tokens = np.array([i.supervised for i in items])
            weights.append(([i.task for i in items], tokens, example_weights(SimpleNamespace(tokens=tokens))))
        return step(items, lr, objective, example_weights, **more)

    engine.step = spy
    run(doremi.cls(eta=0.0), lab)
    assert weights
    for tasks, tokens, w in weights:
        for t in set(tasks):
            mine = [k for k, task in enumerate(tasks) if task == t]
            assert (w * tokens)[mine].sum() / tokens.sum() == pytest.approx(1 / len(set(tasks)))


def test_a_doremi_without_a_step_is_uniform(toy, tiny, tmp_path):
    _, _, logs = play(tmp_path, toy, tiny, "doremi", {"reference": "1e-6", "proxy": "1e-6"})
    assert logs["weights"][0]["steps"] == 0
    assert logs["weights"][0]["l1"] == pytest.approx(0, abs=1e-5)


# --- regmix


@pytest.mark.parametrize("seed", range(5))
def test_regmixs_fit_is_least_squares_with_an_intercept(seed):
    rng = np.random.default_rng(seed)
    X = rng.dirichlet(np.ones(4), 12)
    y = 2.0 + X @ [0.3, -0.2, 0.1, 0.6] + 0.01 * rng.normal(size=12)
    b = module_of(find("regmix")).regressed(X, y)
    direct = np.linalg.lstsq(X, y, rcond=None)[0]  # the weights sum to 1: no intercept is needed
    assert b == pytest.approx(direct)
    assert b == pytest.approx(np.linalg.solve(X.T @ X, X.T @ y))
    assert X[:3] @ module_of(find("regmix")).regressed(X[:3], y[:3]) == pytest.approx(y[:3])  # fewer runs than tasks


def test_regmix_takes_the_mean_of_the_best_predicted(toy, tiny, tmp_path, monkeypatch):
    plugin = find("regmix")
    monkeypatch.setattr(module_of(plugin), "regressed", lambda X, y: np.array([1.0, 2.0, 0.5]))
    lab, core, _, _ = make_lab(tmp_path, toy, tiny)
    run(plugin.cls(candidates=2000, best=20), lab)
    said = next(e["data"] for e in core.trail.events if e["note"] == "weights")
    assert said["weights"]["next"] > 0.8
    assert said["predicted"] == pytest.approx(np.dot(list(said["weights"].values()), [1.0, 2.0, 0.5]), abs=1e-5)
    assert said["uniform"] == pytest.approx(3.5 / 3)


def test_regmixs_proxies_and_looks_are_what_it_says(toy, tiny, tmp_path):
    _, _, logs = play(tmp_path, toy, tiny, "regmix", {"runs": "5"})
    (proxies,) = logs["proxies"]
    assert np.array(proxies["mixtures"]).shape == (5, 3)
    assert len(proxies["loss"]) == 5
    assert proxies["coefficients"] == pytest.approx(
        np.linalg.lstsq(np.array(proxies["mixtures"]), proxies["loss"], rcond=None)[0], abs=1e-2
    )


# --- skill_it


def test_skill_its_graph_and_weights_by_hand():
    plugin = find("skill_it")
    before, after = np.array([4.0, 2.0]), np.array([[2.0, 1.5], [5.0, 1.0]])
    A = module_of(plugin).graph(before, after)
    assert A.tolist() == [[0.5, 0.25], [0.0, 0.5]]
    method = plugin.cls(eta=0.2, w=2)
    first = np.exp([0.2 * 0.75, 0.2 * 0.5])
    assert method.weights(A, []) == pytest.approx(first / first.sum())
    looks = [np.array([9.0, 9.0]), np.array([3.0, 1.0]), np.array([2.0, 1.0])]  # the last two count: 5 and 2
    later = np.exp([0.2 * (0.5 * 5 + 0.25 * 2), 0.2 * 0.5 * 2])
    assert method.weights(A, looks) == pytest.approx(later / later.sum())


def test_skill_it_moves_its_mixture_t_times_evenly(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=2)
    steps = []
    run(find("skill_it").cls(T=4), Spy(lab, lambda mixture, length: steps.append((core.standing, length))))
    assert [length == "rest" for _, length in steps] == [False, False, False, True]
    assert steps[0][0] == "base"
    trained = {}
    for e in core.ledger.entries:
        if e.phase == "train":
            trained[e.verb] = trained.get(e.verb, 0) + e.model
    assert len(trained) == 4
    assert max(trained.values()) < 1.5 * min(trained.values())
    assert len([e for e in core.trail.events if e["note"] == "weights"]) == 4


# --- aioli


def test_aioli_solves_for_what_a_unit_of_each_task_does():
    method, rng = find("aioli").cls(normalize=False), np.random.default_rng(0)
    P = method.bursts(3)
    assert P.tolist() == [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]
    A = rng.normal(size=(3, 3))
    fall = np.array([[P[j] @ A[i] for j in range(3)] for i in range(3)])  # of task i in the burst on j
    assert method.solved(P, fall) == pytest.approx(A)
    for i in range(3):
        assert np.linalg.solve(P, fall[i]) == pytest.approx(A[i])
    normal = find("aioli").cls().solved(P, fall)
    assert normal == pytest.approx((A - A.min()) / (A - A.min()).sum())
    assert method.bursts(1).tolist() == [[1.0]]
    assert np.isfinite(method.solved(method.bursts(2), np.ones((2, 2)))).all()  # half and half: singular


def test_aiolis_weights_follow_its_matrix(toy, tiny, tmp_path):
    _, _, logs = play(tmp_path, toy, tiny, "aioli", {"eta": "3.0", "ema": "0.25"}, budget=2)
    p = np.full(3, 1 / 3)
    assert len(logs["weights"]) == 5
    for said in logs["weights"]:
        raw = p * np.exp(3.0 * np.array(said["A"]).sum(0))
        p = raw / raw.sum()
        assert list(said["weights"].values()) == pytest.approx(p, abs=1e-4)
        assert np.array(said["A"]).sum() == pytest.approx(1, abs=1e-4)


def test_aioli_sweeps_over_all_tasks_before_each_mixture(toy, tiny, tmp_path):
    lab, _, _, _ = make_lab(tmp_path, toy, tiny, budget=3)
    weights = []
    run(find("aioli").cls(rounds=2, sweeps=2), Spy(lab, lambda mixture, length: weights.append(mixture.weights)))
    assert len(weights) == 2 * (2 * 3 + 1)
    for start in (0, 7):
        for sweep in (weights[start : start + 3], weights[start + 3 : start + 6]):
            assert sorted(max(w, key=w.get) for w in sweep) == list(TASKS)
            assert all(sorted(w.values()) == pytest.approx([0.25, 0.25, 0.5]) for w in sweep)


# --- doge


class Within:
    """A lab whose forks' trainings go through `train`; keeps what was sampled."""

    def __init__(self, lab, train):
        self._lab, self._train, self.held = lab, train, []

    def sample(self, *args):
        self.held += (found := self._lab.sample(*args))
        return found

    def fork(self, *args, **named):
        self._fork = self._lab.fork(*args, **named)
        return self

    def __enter__(self):
        self._child = self._fork.__enter__()
        return self

    def __exit__(self, *error):
        ended = self._fork.__exit__(*error)
        self._child = None
        return ended

    def uniform(self):
        return self._child.uniform()

    @property
    def state(self):
        return self._child.state

    def train(self, *args, **named):
        if getattr(self, "_child", None) is None:
            return self._lab.train(*args, **named)
        return self._child.train(*args, **named | {"select": self._train(named["select"])})

    def __getattr__(self, name):
        return getattr(self._lab, name)


def test_doges_update_by_hand(toy, tiny, tmp_path):
    """alpha_c exp(lr <g_c, sum of the validation tasks' gradients> / mu), from the rows themselves; then the mean."""
    real, core, _, _ = make_lab(tmp_path, toy, tiny, budget=4)
    alphas, mu, steps = [np.full(3, 1 / 3)], 0.01, []

    def watched(select):
        def again(pool):
            before = pool.state.get("alpha")
            chosen = select(pool)
            G = pool.gradients(modules="last:3").rows().astype(float)
            V = pool.gradients(lab.held, modules="last:3").rows().astype(float)
            of = np.array([e.task for e in lab.held])
            target = np.sum([V[of == t].mean(0) for t in TASKS], 0)
            W = [G[np.array(pool.task) == t].mean(0) @ target if t in pool.task else 0.0 for t in TASKS]
            raw = alphas[-1] * np.exp(pool.lr * np.array(W) / mu)
            alphas.append(raw / raw.sum())
            assert before is None or before == pytest.approx(alphas[-2], abs=1e-6)
            assert list(chosen.indices) == list(range(len(pool)))
            dom = np.array([TASKS.index(t) for t in pool.task])
            assert chosen.weights == pytest.approx(numerics.group_weights(alphas[-1], dom, pool.tokens), rel=1e-4)
            steps.append(pool.lr)
            return chosen

        return again

    lab = Within(real, watched)
    run(find("doge").cls(mu=mu, anchors=1000, items=4), lab)
    said = next(e["data"] for e in core.trail.events if e["note"] == "weights")
    assert 3 <= said["steps"] <= len(steps)
    # A step that did not fit after its selection leaves its alpha in the mean.
    total = np.sum(alphas[1:], 0)
    assert list(said["weights"].values()) == pytest.approx(total / total.sum(), abs=1e-5)
    assert said["l1"] > 0.001


def test_every_field_is_a_number_a_string_or_none():
    for name in (*SHARES, "taskpgm"):
        fields = resolve(name).build({}).hyperparameters
        assert all(isinstance(v, bool | int | float | str | None) for v in str_values(fields))


def str_values(fields):
    for value in fields.values():
        if isinstance(value, dict):
            yield from str_values(value)
        else:
            yield value
