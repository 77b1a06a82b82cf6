"""The study of learned mixtures: its files are what they say, and its predictions are what the algebra gives."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import taskpgm_algebra as algebra
from benchmarks import variants
from harness import axes
from harness.api import Example, HarnessError
from harness.curves import SCENARIOS
from harness.ledger import BILLED
from harness.record import read
from harness.registry import resolve
from harness.rehearsal import Props, rehearse
from harness.request import Request, prepare, vary
from strategies import _numerics as numerics
from tests.conftest import ROOT
from tests.records import make_record, write_run
from tests.test_taskpgm import brute, by_phase, play

FILE, AMORTISED, TUNING = (
    ROOT / "benchmarks" / f"{name}.yaml" for name in ("study_taskpgm", "study_taskpgm_amortised", "tuning_taskpgm")
)


def test_the_page_holds_what_the_script_prints():
    page = (ROOT / "docs" / "studies" / "taskpgm.md").read_text()
    for kind in ("pmi", "jsd"):
        assert algebra.table(algebra.planted(kind), (0, 1), 8) in page
    assert algebra.with_utility(algebra.planted("pmi")) in page


@pytest.mark.slow
def test_the_page_says_what_learning_takes_of_the_budget():
    """By the plan of each run; a share that is allowed is more than what looks at a few items use up."""
    said = " ".join((ROOT / "docs" / "studies" / "taskpgm.md").read_text().split())
    first = prepare(Request())
    for name, text in {
        "taskpgm": "TaskPGM's single-task models take {} % of the budget",
        "regmix": "RegMix's proxies {} %",
        "doremi": "reference and proxy of DoReMi {} %",
        "skill_it": "Skill-It's one-task runs and looks {} %",
        "aioli": "Aioli's looks {} %",
    }.items():
        plan = vary(first, Request(strategy=name))
        table = rehearse(Props(plan), SCENARIOS[0]).table
        taken = sum(table[phase]["model_flops"] for phase in BILLED if phase != "train")
        assert text.format(round(100 * taken / plan.identity.budget.flops)) in said


@pytest.mark.parametrize("kind", ["pmi", "jsd"])
def test_no_r_takes_from_both_the_twins_and_the_noise(kind):
    """By search over the simplex's own minimum at many r, and by the line on which the interior ones lie."""
    S = numerics.definite(algebra.planted(kind), 1e-3)
    w = np.linalg.solve(S, np.ones(9))
    w /= w.sum()
    for r in np.concatenate([np.linspace(0, 3, 61), [4.5, 9, 20, 160]]):
        p = algebra.TASKPGM(r=float(r)).weights(algebra.planted(kind))[0]
        twin, noise = p[0] - 1 / 9, p[8] - 1 / 9
        assert p[0] == pytest.approx(p[1], abs=1e-6)
        assert twin * noise <= 1e-12
        assert np.sign(round(twin, 6)) == np.sign(round(r - 1, 6)) == -np.sign(round(noise, 6))
        line = r / 9 - (r - 1) * w
        if line.min() > 0:
            assert p == pytest.approx(line, abs=1e-9)


@pytest.mark.parametrize(("r", "utility"), [(0.0, 0.1), (0.5, 0.05), (0.25, 0.08)])
def test_with_a_utility_term_both_can_be_lowered(r, utility):
    u = np.array([1.0] * 8 + [0.0])
    p = algebra.TASKPGM(r=r, utility=utility).weights(algebra.planted("pmi"), u)[0]
    assert max(p[0], p[1], p[8]) < 1 / 9 < min(p[2:8])
    S = numerics.definite(algebra.planted("pmi"), 1e-3)
    assert p == pytest.approx(brute(S, r / 9 * S.sum(1) + utility * S[0, 0] * u), abs=1e-9)


def test_gains_are_falls_of_the_mean_loss_over_tasks():
    rng, tasks = np.random.default_rng(0), ("a", "b", "c")
    items = [Example(f"v:{t}/{k}", t, "validation") for k in range(3) for t in tasks if (t, k) != ("b", 2)]
    before, *views = ([-rng.random(int(n)) for n in [2, 3, 1, 4, 2, 2, 1, 3]] for _ in range(4))
    logs = {}
    lab = SimpleNamespace(logprobs=lambda asked: before if asked is items else None, log=logs.__setitem__)
    u = algebra.TASKPGM(utility=1.0).gains(lab, items, views)

    def loss(view):
        return np.mean([np.mean([-x.mean() for x, e in zip(view, items, strict=True) if e.task == t]) for t in tasks])

    fall = np.array([loss(before) - loss(view) for view in views])
    assert logs["gains"]["nats"] == pytest.approx(fall, abs=1e-6)
    assert u == pytest.approx((fall - fall.min()) / (fall.max() - fall.min()))
    assert not algebra.TASKPGM(utility=1.0).gains(lab, items, [views[0]] * 3).any()  # all alike: no preference


def test_a_run_with_utility_pays_one_look_more(toy, tiny, tmp_path):
    core, _, logs = play(tmp_path / "1", toy, tiny, options={"r": "0", "utility": "0.1"})
    _, _, plain = play(tmp_path / "2", toy, tiny, options={"r": "0"})
    assert logs["affinity"] == plain["affinity"]
    assert logs["weights"] != plain["weights"]
    assert set(by_phase(core)) == {"train", "proxy", "probe", "look"}
    assert len(logs["gains"][0]["nats"]) == 3
    for wrong in ({"affinity": "jsd"}, {"proxy": "pocket"}, {"faithful": "true"}):
        with pytest.raises(HarnessError, match=r"option .* of taskpgm: utility needs affinity=pmi"):
            resolve("taskpgm").build({"utility": "0.1"} | wrong)


def test_the_files_multiply_out_to_the_runs_they_announce(tmp_path):
    first, tuning = axes.drafts(FILE, {}, Request()), axes.drafts(TUNING, {}, Request())
    assert (len(first), len(tuning)) == (120, 72)
    assert {d.entry.split(" lr=")[0] for d in tuning} == {d.entry.split(" lr=")[0] for d in first}
    assert {d.request.seed for d in first}.isdisjoint({d.request.seed for d in tuning})
    again = axes.drafts(AMORTISED, {}, Request())
    assert len(again) == 100
    taken = [d for d in again if "mixture" in d.request.options]
    assert len(taken) == 70
    for d in again:  # what takes no mixture over is done already
        assert d in taken or d.entry in {x.entry for x in first}
    for d in taken:  # each is a run of the first study, but for its mixture
        options = {k: v for k, v in d.request.options.items() if k != "mixture"}
        asked = (d.request.strategy, options, d.request.seed, d.request.lr, d.request.budget)
        assert asked in [(x.request.strategy, x.request.options, x.request.seed, x.request.lr, 1.0) for x in first]
        assert d.request.options["mixture"] == "results"
    twin = axes.drafts(FILE, {"suites": str(variants.write("twin", tmp_path))}, Request())
    assert len(twin) == 120


def ran(folder, seed, options, *logs, strategy="taskpgm", tasks=(*algebra.TWINS, algebra.NOISE, "addition"), **facts):
    """A record on a variant with these tasks whose run has logged this."""
    scores = dict.fromkeys(tasks, 0.5)
    made = make_record(strategy, seed, scores, hyperparameters=options, passed=options, **facts)
    made.events.extend({"billed_flops": 1, "verb": "log", "note": note, "data": data} for note, data in logs)
    return write_run(type(made).model_validate(made.model_dump(warnings=False)), folder)


def test_measured_affinities_are_found_by_name(tmp_path):
    tasks = sorted([*algebra.TWINS, algebra.NOISE, "addition"])
    paths = []
    for seed in range(2):
        S = (-np.ones((4, 4)) + np.eye(4)) * (1 + seed)
        paths.append(ran(tmp_path, seed, {}, ("affinity", {"tasks": tasks, "S": S.tolist()})))
    S, names = algebra.measured(algebra.themselves(paths))
    assert np.allclose(S, 1.5 * (np.eye(4) - 1))
    assert names == tasks
    S[1] = S[:, 1] = -9.0  # the noise is second in the alphabet, and the twins are last
    S[1, 1] = 0.0
    assert algebra.solved(S, names) == algebra.table(S, (2, 3), 1) != algebra.table(S, (0, 1), 3)
    assert algebra.row(np.array([0.1, 0.2, 0.3, 0.4]), (2, 3), 1) == pytest.approx((0.35, 0.2, 0.1, 0.4))


def test_a_folder_of_all_runs_gives_a_table_for_each_kind_of_affinity(tmp_path):
    """Nats and divergences are not averaged, nor are runs on pocket itself with those on the variant."""
    tasks = sorted([*algebra.TWINS, algebra.NOISE, "addition"])

    def affinity(S):
        return "affinity", {"tasks": tasks[: len(S)], "S": S.tolist()}

    nats, shares = 5 * (np.eye(4) - 1), (np.eye(4) + 1) / 2
    paths = [ran(tmp_path, seed, {"affinity": "pmi"}, affinity(nats * (1 + seed))) for seed in (0, 1)]
    paths += [
        ran(tmp_path, 0, {"affinity": "jsd"}, affinity(shares)),
        ran(tmp_path, 0, {"faithful": True}, affinity(nats)),
    ]
    paths += [
        ran(tmp_path, 0, {}, strategy="uniform"),
    ]
    groups = algebra.kinds(algebra.themselves(paths))
    assert {kind: len(group) for kind, group in groups.items()} == {"PMI": 2, "JSD": 1, "PMI faithful": 1}
    assert np.allclose(algebra.measured(groups["PMI"])[0], 1.5 * nats)
    assert np.allclose(algebra.measured(groups["JSD"])[0], shares)
    S = np.array([[0.0, -2.0], [-2.0, 0.0]])
    for seed in (0, 1):
        p = {"larger": 0.5 + seed / 4, "reverse": 0.5 - seed / 4}
        weights = "weights", {"weights": p, "l1": seed / 2}
        at = {"suite": "small", "tasks": ("larger", "reverse")}
        paths.append(ran(tmp_path, seed, {}, ("affinity", {"tasks": sorted(p), "S": S.tolist()}), weights, **at))
    p = dict.fromkeys(tasks, 0.25)
    paths.append(ran(tmp_path, 1, {"affinity": "jsd"}, affinity(shares), ("weights", {"weights": p, "l1": 0.0})))
    paths.append(ran(tmp_path, 2, {"affinity": "pmi"}, affinity(nats), ("weights", {"weights": p, "l1": 0.0})))
    shown = algebra.report(paths).splitlines()
    assert [line for line in shown if line.startswith(("Learned", "Measured"))] == [
        f"Learned weights on {read(paths[0]).identity.suite}:",
        "Measured JSD, 1 runs:",
        "Measured PMI, 1 runs:",
        "Learned weights on small:",
        "Measured PMI, 2 runs:",
    ]
    assert "| taskpgm lr=0.001 | 2 | 0.625 | 0.375 | 0.250 |" in shown
    assert "| r | larger | reverse | L1 to uniform |" in shown
    assert shown.count("| 1 | 0.500 | 0.500 | 0.000 |") == 1


def test_the_file_of_a_matrix_stands_for_its_submitted_runs():
    """Of one learned mixture, by the record itself."""
    found = algebra.themselves([FILE])
    assert {r.identity.seed for r in found} <= {*range(10)}
    one = next(r for r in found if r.identity.strategy == "doremi" and r.identity.seed == 0)
    weights = algebra.logged(one, "weights")[0]["weights"]
    cells = [f"{weights[t]:.3f}" for t in sorted(weights)]
    assert f"| doremi lr=0.0008 | 1 | {' | '.join(cells)} |" in algebra.by_task([one])


def test_learned_weights_are_counted_as_the_predictions_ask(tmp_path):
    def weights(addition, larger, reverse, again):
        p = {"addition": addition, "larger": larger, "reverse": reverse, "reverse_again": again}
        return "weights", {"weights": p, "l1": sum(abs(x - 0.25) for x in p.values())}

    paths = [
        ran(tmp_path, 0, {"affinity": "pmi"}, weights(0.2, 0.2, 0.3, 0.3)),
        ran(tmp_path, 1, {"affinity": "pmi"}, weights(0.1, 0.4, 0.26, 0.24)),
        ran(tmp_path, 0, {"faithful": True}, weights(0.0, 0.0, 0.5, 0.5)),
        ran(tmp_path, 1, {"faithful": True}, weights(0.25, 0.25, 0.25, 0.25)),
        ran(tmp_path, 0, {"utility": 0.1}, weights(0.4, 0.2, 0.2, 0.2)),
        ran(tmp_path, 0, {}, weights(0.4, 0.2, 0.2, 0.2), weights(0.2, 0.4, 0.2, 0.2), strategy="skill_it"),
        ran(tmp_path, 0, {"mixture": "a"}, weights(0.4, 0.2, 0.2, 0.2), reused={"id": 16 * "a", "flops": 1, "seed": 0}),
        ran(tmp_path, 0, {}, strategy="uniform"),
    ]
    assert algebra.learned(algebra.themselves(paths)).splitlines()[2:] == [
        "| skill_it lr=0.001 | 1 | 0.200 | 0.300 | 0.300 | 0.300 | 0 | 0 | 0 | 1 |",
        "| taskpgm affinity=pmi lr=0.001 | 2 | 0.275 | 0.300 | 0.150 | 0.260 | 1 | 1 | 0 | 0 |",
        "| taskpgm faithful=True lr=0.001 | 2 | 0.375 | 0.125 | 0.125 | 0.500 | 1 | 1 | 0 | 1 |",
        "| taskpgm utility=0.1 lr=0.001 | 1 | 0.200 | 0.200 | 0.400 | 0.300 | 0 | 1 | 1 | 1 |",
    ]
