"""mSFT's rivals: their plots over given curves, their arithmetic against references, and all strategies on a real model."""

import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest
import torch

from harness.api import BudgetExhausted, Look
from harness.registry import builtin, find, resolve
from harness.scripted import ScriptedLab
from tests.conftest import make_suite, write_rows
from tests.forks import comparable
from tests.labs import make_lab

RIVALS = ["msft", "sft", "continual_sft", "sro", "soft_sro", "dynamix_sft", "ies"]


class Strict(ScriptedLab):
    """Writes down the length and the weights of every training."""

    def train(self, mixture, length="rest", **arguments):
        weights = {t: round(w, 9) for t, w in mixture.weights.items()}
        self.calls.append(("asked", (weights, length, arguments.get("eval_every"), arguments.get("keep"))))
        return super().train(mixture, length, **arguments)


def play(name, script, sizes=None, **fields):
    lab = Strict(sizes or dict.fromkeys(script[0], 10), script)
    try:
        find(name).cls(**fields).run(lab)
    except BudgetExhausted:
        lab.calls.append(("budget", None))
    return lab


def details(lab, verb):
    return [d for v, d in lab.calls if v == verb]


class Spy:
    """A lab that hands every training to `seen` before it happens; forks are not seen."""

    def __init__(self, lab, seen):
        self._lab, self._seen = lab, seen

    def train(self, mixture, length="rest", **arguments):
        self._seen(mixture, length)
        return self._lab.train(mixture, length, **arguments)

    def __getattr__(self, name):
        return getattr(self._lab, name)


def run(strategy, lab):
    """Whether it ended by itself."""
    try:
        strategy.run(lab)
    except BudgetExhausted:
        return False
    return True


# --- sft, continual_sft


def test_sft_is_one_long_run_and_answers_its_best_look():
    lab = play("sft", [{"a": [0.1, 0.5, 0.7, 0.2], "b": [0.1, 0.6, 0.3, 0.2]}])
    assert details(lab, "asked") == [({"a": 0.5, "b": 0.5}, "rest", "0.25 epoch", "best")]
    assert lab.answered == "0:1"


def test_continual_sft_passes_on_each_tasks_best_look():
    # 8 trainings are the budget; by tokens 2 of them are a's, 6 are b's
    script = [
        {"a": [0.2, 0.5], "b": [0.0, 0.9]},
        {"a": [0.5, 0.4], "b": [0.9, 0.9]},  # a is worse: back to 0:1, where b had 0.9
        {"a": [0.5, 0.1], "b": [0.9, 0.8]},
        {"a": [0.1, 0.1], "b": [0.8, 0.95]},
        {"a": [0.1, 0.1], "b": [0.95, 0.95]},
        *[{"a": [0.1, 0.1], "b": [0.95, 0.1]}] * 3,
    ]
    lab = play("continual_sft", script, {"a": 10, "b": 30})
    assert details(lab, "train") == [("a",)] * 2 + [("b",)] * 6
    assert details(lab, "rollback") == ["0:1", "3:1"]
    assert details(lab, "answer") == ["base", "0:1", "0:1", "3:1"]


def test_continual_sft_leaves_a_task_as_it_is_if_it_is_best_there():
    lab = play("continual_sft", [{"a": [0.6, 0.5], "b": [0.1, 0.1]}, {"a": [0.5, 0.4], "b": [0.1, 0.1]}])
    assert details(lab, "rollback") == ["base", "base"]
    assert lab.answered == "base"


def test_continual_sfts_random_order_is_the_seeds():
    names = {f"t{i}": 10 for i in range(6)}
    orders = []
    for seed in (0, 0, 1):
        lab = ScriptedLab(names, [{t: [0.0, 0.1] for t in names}] * 6, seed)
        run(find("continual_sft").cls(order="random"), lab)
        orders.append(details(lab, "train"))
    assert sorted(orders[0]) == [(t,) for t in names]
    assert orders[0] == orders[1] != orders[2]


# --- sro, soft_sro

SEARCH = {"a": [0.1, 0.5, 0.4, 0.3, 0.3], "b": [0.1, 0.2, 0.3, 0.4, 0.4], "c": [0.1, 0.2, 0.3, 0.4, 0.5]}
# peaks at looks 1, 3, 4 of a quarter epoch


def test_sro_drops_each_task_when_the_clock_reaches_its_peak():
    run1, run2, run3 = ({"a": x, "b": x, "c": x} for x in ([0.1, 0.2], [0.2, 0.6, 0.3], [0.3, 0.5]))
    lab = play("sro", [SEARCH, run1, run2, run3], {"a": 10, "b": 30, "c": 60})
    assert [(v, d) for v, d in lab.calls if v in ("fork", "join", "log")] == [
        ("fork", "proxy"),
        ("join", "proxy"),
        ("log", ("peaks", {"a": 0.25, "b": 0.75, "c": 1.0})),
    ]
    assert details(lab, "asked") == [
        ({"a": 0.1, "b": 0.3, "c": 0.6}, "rest", "0.25 epoch", "none"),
        ({"a": 0.1, "b": 0.3, "c": 0.6}, "0.25 epoch", "0.25 epoch", "best"),
        ({"b": 0.333333333, "c": 0.666666667}, "0.5 epoch", "0.25 epoch", "best"),
        ({"c": 1.0}, "0.25 epoch", "0.25 epoch", "best"),
    ]
    assert details(lab, "answer") == ["base", "1:1", "2:1"]


def test_sro_drops_a_task_at_once_that_peaks_at_the_start_and_tasks_together_that_peak_together():
    falling, rising = [0.5, 0.4, 0.3], [0.1, 0.3, 0.2]
    lab = play("sro", [{"a": falling, "b": rising, "c": rising}, {"a": [0.5, 0.9], "b": [0.1, 0.2], "c": [0.1, 0.2]}])
    assert [(sorted(w), n) for w, n, _, _ in details(lab, "asked")[1:]] == [(["b", "c"], "0.25 epoch")]
    assert lab.answered == "1:1"


def test_soft_sro_shares_are_peaks_times_sizes_and_the_length_gives_each_task_its_epochs():
    lab = play("soft_sro", [SEARCH, {t: [0.1, 0.7, 0.6] for t in "abc"}], {"a": 10, "b": 30, "c": 60})
    # visits: a 0.25 * 10 = 2.5, b 0.75 * 30 = 22.5, c 1 * 60 = 60; 85 in all, out of 100 examples an epoch
    (weights, length, every, keep) = details(lab, "asked")[1]
    assert weights == {"a": round(2.5 / 85, 9), "b": round(22.5 / 85, 9), "c": round(60 / 85, 9)}
    assert (length, every, keep) == ("0.85 epoch", "0.25 epoch", "best")
    for task, size, peak in (("a", 10, 0.25), ("b", 30, 0.75), ("c", 60, 1.0)):
        assert 0.85 * 100 * weights[task] / size == pytest.approx(peak)
    assert lab.answered == "1:1"


def test_soft_sro_counts_an_epoch_over_the_tasks_that_have_weight():
    search = {"a": [0.5, 0.1, 0.1], "b": [0.1, 0.2, 0.3]}
    lab = play("soft_sro", [search, {"a": [0.5, 0.5], "b": [0.1, 0.2]}], {"a": 1000, "b": 10})
    assert details(lab, "asked")[1][:2] == ({"b": 1.0}, "0.5 epoch")


@pytest.mark.parametrize("name", ["sro", "soft_sro"])
def test_a_base_model_that_is_best_everywhere_is_the_answer(name):
    lab = play(name, [{"a": [0.5, 0.4], "b": [0.3, 0.3]}])
    assert len(details(lab, "train")) == 1
    assert lab.answered == "base"


@pytest.mark.parametrize("name", ["sro", "soft_sro"])
def test_a_search_that_cannot_take_a_step_leaves_the_base_as_the_answer(name, toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny)
    assert run(find(name).cls(search=1e-6), lab)
    assert core.trail.answer == "base"
    assert core.ledger.spent == 0


def test_the_search_is_a_proxy_with_its_looks_and_the_second_run_starts_from_the_base(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=2)
    starts = []
    run(find("sro").cls(), Spy(lab, lambda mixture, length: starts.append(core.standing)))
    assert starts[0] == "base"
    assert {e.phase for e in core.ledger.entries if e.verb <= 1} <= {"proxy", "look"}
    proxy = sum(e.model for e in core.ledger.entries if e.phase == "proxy")
    assert 0 < core.ledger.cap / 2 - proxy < 0.1 * core.ledger.cap


# --- dynamix_sft


def reference_bandit(prior, rewards, gamma, alpha, beta):
    """The weights before each update and after the last, written out task by task."""
    q = [0.0] * len(prior)
    out = []
    for r in [*rewards, None]:
        z = sum(math.exp(beta * q[j]) * prior[j] for j in range(len(prior)))
        out.append([(1 - gamma) * math.exp(beta * q[k]) * prior[k] / z + gamma / len(q) for k in range(len(q))])
        if r is None:
            return out
        low, high = min(r), max(r)
        for k in range(len(q)):
            scaled = (r[k] - low) / (high - low) if high > low else 0.0
            q[k] = alpha * q[k] + (1 - alpha) * scaled
    raise AssertionError


def module_of(plugin):
    return sys.modules[plugin.cls.__module__]


@pytest.mark.parametrize("fields", [{}, {"gamma": 0.1, "alpha": 0.5, "beta": 5.0}])
def test_dynamix_weights_follow_the_bandit(fields, monkeypatch):
    plugin, rng = find("dynamix_sft"), np.random.default_rng(3)
    sizes = {"a": 10, "b": 30, "c": 60}
    rewards = [rng.normal(0, 0.1, 3).tolist() for _ in range(5)] + [[0.2, 0.2, 0.2]]
    given = iter([x for row in rewards for x in row])
    monkeypatch.setattr(module_of(plugin), "look_ahead", lambda lab, task: next(given))
    lab = Strict(sizes, [{t: [0.0] for t in sizes}] * 7)
    with pytest.raises((BudgetExhausted, StopIteration)):
        plugin.cls(**fields).run(lab)
    settings = {"gamma": 0.3, "alpha": 0.95, "beta": 4.0} | fields
    expected = reference_bandit([0.1, 0.3, 0.6], rewards, **settings)
    found = [[w[t] for t in sizes] for w, length, _, _ in details(lab, "asked")]
    np.testing.assert_allclose(found, expected, atol=2e-9)
    assert {length for _, length, _, _ in details(lab, "asked")} == {"50 step"}


def test_dynamix_with_one_task_trains_on_it(monkeypatch):
    plugin = find("dynamix_sft")
    monkeypatch.setattr(module_of(plugin), "look_ahead", lambda lab, task: 0.1)
    lab = Strict({"a": 3}, [{"a": [0.0]}] * 3)
    assert not run(plugin.cls(), lab)
    assert details(lab, "train") == [("a",)] * 3
    assert {w["a"] for w, *_ in details(lab, "asked")} == {1.0}


def test_dynamix_reward_is_the_relative_fall_of_one_virtual_step_and_leaves_no_trace(toy, tiny, tmp_path):
    lab, core, engine, plan = make_lab(tmp_path, toy, tiny)
    lab.train(lab.proportional(), "12 step", keep="none")
    weights, moments, sampler, spent = engine.weights(), engine.moments(), core.sampler.state(), core.ledger.spent
    found = module_of(find("dynamix_sft")).look_ahead(lab, "flip")
    for before, after in ((weights, engine.weights()), (moments, engine.moments())):
        assert all(torch.equal(before[k], after[k]) for k in before)
    assert core.sampler.state() == sampler
    items = core.items(core.sampler.draw(lab.only("flip"), 4))
    mean = lambda: np.array([s.nll / s.supervised for s in engine.evaluate(items)[0]])  # noqa: E731
    first = mean()
    engine.step(items, core.clock.rate(core.clock.progress))
    assert found == pytest.approx(float(((first - mean()) / (first + 1e-8)).mean()), rel=1e-4)
    assert found > 0
    price = sum(plan.arch.train_step(i.tokens, i.supervised) + plan.arch.forward(i.tokens, i.supervised) for i in items)
    assert core.ledger.spent - spent == price
    assert {e.phase for e in core.ledger.entries if e.verb > 0 and e.phase != "look"} == {"probe"}


# --- ies


def brute(losses, n, delta, window, least):
    """Settled examples, one by one: the mean |l_e - 2 l_(e-1) + l_(e-2)| of the last epochs."""
    if len(losses) < least + 2:
        return set()
    found = set()
    for i in range(n):
        d = [abs(losses[e][i] - 2 * losses[e - 1][i] + losses[e - 2][i]) for e in range(2, len(losses))]
        last = d[-window:]
        if sum(last) / len(last) < delta:
            found.add(i)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_ies_settled_is_the_mean_of_the_last_second_differences(seed):
    rng = np.random.default_rng(seed)
    window, least = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    ies = find("ies").cls(delta=0.5, window=window, least=least)
    losses = []
    for _ in range(12):
        losses.append(rng.random(40) * 0.6)
        assert set(np.flatnonzero(ies.settled(losses))) == brute(losses, 40, 0.5, window, least)


def test_ies_needs_six_losses_and_lets_an_example_return():
    ies = find("ies").cls()
    line = [[5.0 - 0.5 * e, 1.0 / (1 + e)] for e in range(9)]  # the first falls in a straight line: it has settled
    losses = [np.array(x) for x in line]
    assert not ies.settled(losses[:5]).any()
    assert ies.settled(losses[:6]).tolist() == [True, False]
    losses[7][0] += 0.1
    assert ies.settled(losses[:7]).tolist() == [True, False]
    assert ies.settled(losses[:8]).tolist() == [False, False]


def test_ies_trains_on_what_has_not_settled_and_forwards_the_rest(toy, tiny, tmp_path):
    lab, core, engine, plan = make_lab(tmp_path, toy, tiny, budget=3)
    names = [i.id for t in sorted(plan.train) for i in plan.train[t]]
    items = core.items(names)
    price = {i.id: plan.arch.forward(i.tokens, i.supervised) for i in items}
    delta, losses, sets, bills, visits = 0.08, [], [], [], np.zeros(len(names))

    def seen(mixture, length):
        """Before each epoch: the last one's losses, from the table where it trained and by the engine elsewhere."""
        nonlocal visits
        now = core.table.columns["visits"].copy()
        if now.any():
            trained, table = now > visits, core.table.columns["nll"]
            there = [s.nll / s.supervised for s in engine.evaluate(items)[0]]
            losses.append(np.where(trained, table, there))
            bills.append(sum(price[i] for i, t in zip(names, trained, strict=True) if not t))
            assert sets[-1] <= {i for i, t in zip(names, trained, strict=True) if not t}
        visits = now
        sets.append(set(mixture.excluded))
        assert sets[-1] == {names[i] for i in brute(losses, len(names), delta, 2, 1)}

    assert not run(find("ies").cls(delta=delta, window=2, least=1), Spy(lab, seen))
    assert any(sets)
    assert any(before - after for before, after in itertools.pairwise(sets))  # some came back
    probed = [e.model for e in core.ledger.entries if e.phase == "probe"]
    assert probed[: len(bills)] == [b for b in bills if b]


def test_ies_ends_when_everything_has_settled(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny)
    assert run(find("ies").cls(delta=1e9, least=1), lab)
    assert [e["data"] for e in core.trail.events if e["verb"] == "log"] == [0, 0, 48]
    assert core.ledger.spent < core.ledger.cap


# --- all strategies


def test_msfts_disk_is_one_checkpoint_a_task_plus_two_without_optimizer_state(toy, tiny, tmp_path, monkeypatch):
    """Curves that ask for the most at a time: stage one gives an answer, in stage two each task and the pool peak apart."""
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=3)
    rising = [0, 1, 2, 3, 4, 5]
    stages = [
        {"copy": rising, "flip": rising, "next": rising, "pooled": rising},
        {
            "copy": [5, 6, 0, 0, 0, 0],
            "flip": [5, 0, 6, 0, 0, 0],
            "next": [5, 0, 0, 6, 0, 0],
            "pooled": [5, 0, 0, 0, 6, 7],
        },
        {"copy": [0] * 6, "flip": [5, 0, 6, 0, 0, 0], "next": [5, 0, 0, 6, 0, 0], "pooled": [0, 0, 0, 0, 8, 9]},
    ]
    given = ({key: curve[k] for key, curve in curves.items()} for curves in stages for k in range(6))

    def look(step, epoch):
        try:
            values = {t: float(v) for t, v in next(given).items()}
        except StopIteration:
            raise BudgetExhausted(core.ledger) from None
        return Look(step, epoch, values, values.pop("pooled"))

    monkeypatch.setattr(core, "look", look)
    saved, save = [], core.store.save

    def spy(name, groups, state):
        saved.append(set(groups))
        save(name, groups, state)

    monkeypatch.setattr(core.store, "save", spy)
    assert not run(find("msft").cls(grid=0.2), lab)
    events = [e["data"] for e in core.trail.events if e["note"] == "excluded"]
    assert [e["task"] for e in events] == ["copy", "flip"]
    assert core.store.peak == len(lab.tasks) + 2
    assert all(groups == {"model", "table", "memory"} for groups in saved)
    assert core.trail.answer in core.store


def test_msft_with_a_task_of_three_examples(tiny, tmp_path):
    suite = make_suite(tmp_path / "small")
    rows = [("copy", f"copy {k}", f"{k}") for k in range(40)] + [("flip", f"flip {k}2", f"2{k}") for k in range(3)]
    write_rows(tmp_path / "small", "train", [*rows, *[("next", f"next {k}", f"{k + 1}") for k in range(9)]])
    lab, core, _, _ = make_lab(tmp_path, suite, tiny)
    assert lab.tasks["flip"].n_train == 3
    run(find("msft").cls(C=2.0), lab)
    assert core.trail.answer is not None
    assert core.ledger.spent <= core.ledger.cap


@pytest.mark.parametrize("name", sorted(builtin()))
def test_every_strategy_runs_from_its_defaults_within_its_budget(name, toy, tiny, tmp_path):
    plugin = find(name)
    assert dataclasses.is_dataclass(plugin.cls())
    assert "Deviations:" in module_of(plugin).__doc__
    lab, core, engine, plan = make_lab(tmp_path, toy, tiny)
    strategy = resolve(name).build({})
    if strategy.skip(plan.suite):
        pytest.skip(strategy.skip(plan.suite))
    before = engine.weights()
    run(strategy, lab)
    assert 0 < core.ledger.spent <= core.ledger.cap
    answer = core.trail.answer
    if answer is None:
        assert not all(torch.equal(before[k], v) for k, v in engine.weights().items())
    else:
        assert answer == "base" or answer in core.store


@pytest.mark.parametrize("name", RIVALS)
def test_the_same_seed_gives_the_same_run(name, toy, tiny, tmp_path):
    fields = {"dynamix_sft": {"T": 5}, "ies": {"delta": 0.05, "least": 1}}.get(name, {})
    trails = []
    for k in range(2):
        lab, core, engine, _ = make_lab(tmp_path / str(k), toy, tiny, seed=1, budget=0.7)
        run(find(name).cls(**fields), lab)
        weights = [t.sum().item() for t in engine.weights().values()]
        trails.append((weights, core.trail.answer, core.trail.mixtures, core.trail.events, core.ledger.spent))
    assert trails[0] == trails[1]


@pytest.mark.parametrize("name", RIVALS)
def test_plots_run_under_a_lens_and_under_no_other_plot(name, toy, tiny, tmp_path):
    lens = tmp_path / "half.py"
    lens.write_text(
        '"""A lens for tests."""\nfrom dataclasses import dataclass\nfrom harness.api import Lab, lens\n\n'
        "@dataclass(frozen=True)\nclass Half:\n    def wrap(self, lab: Lab) -> Lab:\n"
        "        return lens(lab, objective=lambda t: 0.5 * t.nll)\n"
    )
    lab, core, _, _ = make_lab(tmp_path / "run", toy, tiny, budget=0.5)
    run(resolve(f"{name}+{lens}").build({}), lab)
    assert 0 < core.ledger.spent <= core.ledger.cap
    with pytest.raises(Exception, match=f"{name!r} is not a lens and cannot follow"):
        resolve(f"msft+{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_killed_anywhere_and_started_again_it_ends_in_the_same_record(forks, name, toy, tiny, tmp_path):
    options = {"dynamix_sft": {"T": "5"}, "ies": {"delta": "0.05", "least": "1"}}.get(name, {})

    def go(folder, **env):
        asked = {"strategy": name, "suite": toy, "model": tiny, "runs": tmp_path / folder, "options": options}
        return forks.run(asked, **env)

    def done(answer):
        assert answer["status"] == 0, answer
        return {k: v for k, v in comparable(answer["record"]).items() if k != "environment"}

    calm = done(go("calm", HARNESS_SNAPSHOT_SECONDS="1000"))
    for place, seconds in (
        ("step:7", "0"),
        ("step:23", "0.2"),
        ("step:37", "0"),
        ("verb:5", "0.2"),
        ("between:9", "0"),
    ):
        go(place, HARNESS_FAULT=f"kill@{place}", HARNESS_SNAPSHOT_SECONDS=seconds)
        assert done(go(place, HARNESS_SNAPSHOT_SECONDS=seconds)) == calm, place
