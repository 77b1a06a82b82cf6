"""Learned mixtures where there is little to learn from, or much: one task, twins, singular affinities, 300 tasks."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from benchmarks import mixture_algebra
from harness.codec import plain
from harness.core import LOG_NAME_BYTES
from harness.errors import HarnessError
from harness.ledger import BILLED
from harness.request import Request, prepare
from strategies import _numerics as numerics
from tests.conftest import make_suite, toy_rows, write_rows
from tests.test_plan import planned, real, within
from tests.test_taskpgm import TASKPGM, brute, by_phase, play, value

ALL = ("taskpgm", "regmix", "doremi", "doge", "skill_it", "aioli", "random_mix")


def suite_of(folder, tasks, name="few"):
    """A suite whose tasks have rows of the toy's: `tasks` by name, the toy's task of each."""
    path = make_suite(folder, name)
    for split, n in {"train": 20, "validation": 5, "test": 5}.items():
        rows = toy_rows(split, {"copy": n, "flip": n, "next": n})
        write_rows(folder, split, [(t, i, o) for t, of in tasks.items() for source, i, o in rows if source == of])
    spec = yaml.safe_load(path.read_text()) | {"tasks": {t: {"signal": "loss"} for t in tasks}}
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.mark.parametrize("name", ALL)
def test_one_task_is_all_there_is_and_nothing_is_paid_for_learning_it(name, tiny, tmp_path):
    core, _, logs = play(tmp_path / "run", suite_of(tmp_path / "suite", {"copy": "copy"}), tiny, name)
    (said,) = logs["weights"]
    assert said["weights"] == {"copy": 1.0}
    assert said["l1"] == 0.0
    assert ("note" in said) == (name != "random_mix")
    assert set(by_phase(core)) == {"train", "look"}
    assert by_phase(core)["train"] > 0.9 * core.ledger.cap
    assert [m["weights"] for m in core.trail.mixtures] == [{"copy": 1.0}]


@pytest.mark.parametrize(
    ("name", "options"),
    [("taskpgm", {}), ("taskpgm", {"affinity": "jsd"}), ("taskpgm", {"faithful": "true"})]
    + [(name, {}) for name in ALL[1:-1]],
)
def test_one_task_under_two_names_is_no_trouble(name, options, tiny, tmp_path):
    suite = suite_of(tmp_path / "suite", {"copy": "copy", "copy_again": "copy", "flip": "flip"})
    _, _, logs = play(tmp_path / "run", suite, tiny, name, options)
    for said in logs["weights"]:
        assert min(said["weights"].values()) >= 0
        assert sum(said["weights"].values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_task_without_validation_data_is_refused_before_anything_runs(name, tiny, tmp_path):
    suite = suite_of(tmp_path / "suite", {"copy": "copy", "flip": "flip"})
    path = tmp_path / "suite" / "validation.jsonl"
    path.write_text("".join(row + "\n" for row in path.read_text().splitlines() if '"copy"' in row))
    with pytest.raises(HarnessError, match="task 'flip' has an empty validation split"):
        prepare(Request(name, str(tiny), str(suite), runs=tmp_path / "runs"))


SINGULAR = {
    "zero": np.zeros((5, 5)),
    "rank one": np.outer(v := np.array([1.0, 2.0, -1.0, 0.5, 0.0]), v),
    "indefinite": np.diag([3.0, -2.0, 0.0, 1.0, -5.0]) + np.ones((5, 5)),
    "negative": -np.eye(5) - np.outer(v, v),
    "twins": np.array(
        [[0, 0, -3, -1, -2], [0, 0, -3, -1, -2], [-3, -3, 0, -4, -1], [-1, -1, -4, 0, -2], [-2, -2, -1, -2, 0]]
    ),
    "lopsided": np.triu(-np.ones((5, 5)), 1),
    "huge": 1e12 * (np.ones((5, 5)) - np.eye(5)),
    "tiny": 1e-12 * (np.ones((5, 5)) - np.eye(5)),
}


@pytest.mark.parametrize("r", [0.0, 0.5, 1.0, None, 160.0])
@pytest.mark.parametrize("kind", SINGULAR)
def test_singular_and_indefinite_affinities_have_weights(kind, r):
    S = SINGULAR[kind].astype(float)
    p, terms = TASKPGM(r=r).weights(S)
    within_S = numerics.definite(S, 1e-3)
    c = terms["r"] / 5 * within_S.sum(1)
    assert np.linalg.eigvalsh(within_S)[0] > 0
    assert p.sum() == pytest.approx(1)
    best, scale = value(within_S, c, brute(within_S, c)), max(np.abs(within_S).max(), np.abs(c).max())
    assert value(within_S, c, p) == pytest.approx(best, abs=1e-10 * scale)
    for variant in (TASKPGM(faithful=True), TASKPGM(r=r, epsilon=0.0), TASKPGM(r=r, m=2)):
        q, _ = variant.weights(S)
        if variant.epsilon == 0 and not variant.faithful:  # semidefinite: no better point of the simplex
            semi = numerics.definite(S, 0.0)
            gradient = semi @ q - terms["r"] / 5 * semi.sum(1)
            assert gradient @ q - gradient.min() <= 1e-7 * scale
        assert q.min() >= 0
        assert q.sum() == pytest.approx(1)
    if kind == "twins":
        assert p[0] == pytest.approx(p[1], abs=1e-6)
    if r == 1.0:
        assert p == pytest.approx(np.full(5, 0.2), abs=1e-6)


def test_r_zero_is_the_mixture_of_least_redundancy():
    rng = np.random.default_rng(3)
    S = numerics.definite(-np.abs(rng.normal(size=(6, 6))), 1e-3)
    p, terms = TASKPGM(r=0.0, epsilon=0.0).weights(S)
    assert not terms["unary"].any()
    draws = rng.dirichlet(np.ones(6), 20_000)
    assert p @ S @ p <= np.einsum("ki,ij,kj->k", draws, S, draws).min() + 1e-12


# --- 300 tasks


def test_what_is_learned_of_many_tasks_in_many_rounds_fits_into_the_record():
    rng = np.random.default_rng(0)
    for n, rounds, more in ((300, 10, {}), (300, 5, {"A": numerics.brief(rng.random((300, 300)), 800)}), (27, 10, {})):
        names, said = [f"a_task_of_a_long_name_{i}" for i in range(n)], []
        lab = SimpleNamespace(tasks=names, log=lambda name, value, said=said: said.append(json.dumps(plain(value))))
        p = rng.dirichlet(np.ones(n))
        weights = [numerics.learned(lab, p, rounds, **more) for _ in range(rounds)]
        assert sum(map(len, said)) < LOG_NAME_BYTES
        assert list(weights[0].values()) == pytest.approx(p.tolist(), abs=1e-9)
        assert ("weights" in json.loads(said[0])) == (n == 27)


@pytest.fixture(scope="module")
def many():
    return mixture_algebra.looks(300, 2, 4)


def test_pmi_and_weights_of_300_tasks_are_right_and_small(many):
    items, views = many
    tracemalloc.start()
    S = TASKPGM().pmi(items, views)
    found = {r: TASKPGM(r=r).weights(S) for r in (None, 0.0, 0.5, 2.0)}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    task_N = [e.task for e in items]
    names = sorted(set(task_N))
    for i, j in ((0, 1), (17, 256), (299, 0), (5, 5)):
        gaps = [
            np.mean([views[o][k].sum() - views[m][k].sum() for k, t in enumerate(task_N) if t == names[m]])
            for m, o in ((j, i), (i, j))
        ]
        assert S[i, j] == pytest.approx(np.mean(gaps), abs=1e-4)
    definite = numerics.definite(S, 1e-3)
    for p, terms in found.values():
        gradient = definite @ p - terms["r"] / 300 * definite.sum(1)
        assert p.sum() == pytest.approx(1)
        assert (gradient - gradient[p > 0].mean()).min() >= -1e-7 * np.abs(definite).max()


def test_divergences_of_many_models_are_those_of_each_pair():
    items, views = mixture_algebra.looks(9, 2, 3)
    lists = mixture_algebra.distributions(views, 8, 200)
    logs = {}
    silent = SimpleNamespace(log=logs.__setitem__)
    S = TASKPGM(affinity="jsd").jsd(silent, items, lists)
    names = sorted({e.task for e in items})
    bounds = np.zeros(2)
    for i in range(9):
        assert S[i, i] == 1
        for j in range(i):
            rows = [k for k, e in enumerate(items) if e.task in (names[i], names[j])]
            one = np.concatenate([numerics.truncated_jsd(lists[i][k], lists[j][k]) for k in rows], axis=1).mean(1)
            assert S[i, j] == S[j, i] == pytest.approx(1 - one[0] / np.log(2), abs=1e-9)
            bounds = np.maximum(bounds, one[1:])
    assert list(logs["truncation"].values()) == pytest.approx(bounds.tolist(), abs=1e-9)


# --- the sweep over all models and items, as a plan predicts it


@pytest.mark.parametrize(
    ("name", "options"),
    [("taskpgm", {}), ("taskpgm", {"affinity": "jsd", "proxies": "0.5"})] + [(name, {}) for name in ALL[1:]],
)
def test_a_plan_predicts_the_bill(name, options, toy, tiny, tmp_path):
    table, _, _ = real(tmp_path, toy, tiny, strategy=name, options=options, budget=1.5)
    found = planned(tmp_path, toy, tiny, strategy=name, options=options, budget=1.5)["ledger"]
    for phase in BILLED:
        spans, spent = found[phase]["model_flops"], table[phase]["model_flops"]
        if phase in ("proxy", "probe", "gradients", "validate", "generate") and name != "doge":
            assert spans == {"min": spent, "max": spent}, phase
        else:  # the mixture is the models' business, and so is how the last step fits
            slack = 0.02 * sum(row["model_flops"] for row in table.values())
            assert within({"min": spans["min"] - slack, "max": spans["max"] + slack}, spent), phase
