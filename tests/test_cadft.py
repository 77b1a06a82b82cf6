"""CADFT: weights by hand, the schedule of its rewriting, and that rewriting is metered, recorded, undone and resumed."""

import hashlib
import math
from contextlib import suppress

import numpy as np
import pytest

from harness.api import BudgetExhausted, HarnessError
from harness.ports import Scope
from harness.registry import find, resolve
from harness.scripted import ScriptedLab
from harness.table import Columns, State
from harness.tokens import Batch, Rows
from tests.labs import make_lab
from tests.test_lab import same
from tests.test_replay import comparable, request

CADFT = find("cadft").cls
# The tiny model's responses end from the third or fourth pass on.
EAGER = {"warmup": "1.5", "every": "0.5", "share": "0.25", "chance": "1.0", "temperature": "0.3"}


def batch(columns, nll, ids=("a/0", "a/1", "a/2", "a/3")):
    scope = Scope(columns, State(), None)
    counts = np.arange(1, 5)
    return Batch(tuple(ids), ("a",) * 4, np.array(nll), counts, table=Rows(columns, ids), state=scope.state)


def test_weights_and_moving_averages_by_hand():
    columns = Columns({"a": 6})
    # mean 2, standard deviation 1: z = -1, -1, 1, 1
    w = CADFT(epsilon=0.0).weigh(batch(columns, [1.0, 1.0, 3.0, 3.0]))
    assert w.tolist() == pytest.approx([1, 1, math.exp(-1), math.exp(-1)])
    assert columns.columns["compatibility"].tolist()[:4] == [-1, -1, 1, 1]
    assert np.isnan(columns.columns["persistent"]).all()
    w = CADFT(epsilon=0.0, beta=2.0, alpha=0.25).weigh(batch(columns, [3.0, 1.0, 3.0, 1.0]))
    assert w.tolist() == pytest.approx([math.exp(-2), 1, math.exp(-2), 1])
    ema = [0.25 * -1 + 0.75, 0.25 * -1 - 0.75, 0.25 + 0.75, 0.25 - 0.75]
    assert columns.columns["compatibility"].tolist()[:4] == pytest.approx(ema)
    assert columns.columns["persistent"].tolist()[:4] == pytest.approx(ema)
    assert columns.columns["supervised"].tolist()[:4] == [1, 2, 3, 4]
    assert np.isnan(columns.columns["compatibility"][4:]).all()


def test_a_batch_of_equal_losses_weighs_one():
    assert CADFT().weigh(batch(Columns({"a": 4}), [0.7] * 4)).tolist() == pytest.approx([1.0] * 4)


def run(folder, toy, tiny, name, options=None, budget=1.0):
    lab, core, engine, _ = make_lab(folder, toy, tiny, budget=budget)
    with suppress(BudgetExhausted):
        resolve(name).build(options or {}).run(lab)
    return core, engine


def bill(core):
    return [(e.phase, e.step, e.model, e.hardware) for e in core.ledger.entries]


def logged(core):
    return [e["data"] for e in core.trail.events if e["note"] == "rewriting"]


@pytest.mark.parametrize("rewrite", ["false", "true"])
def test_beta_zero_is_dft_to_the_bit(toy, tiny, tmp_path, rewrite):
    _, one = run(tmp_path / "1", toy, tiny, "dft", budget=0.4)
    _, two = run(tmp_path / "2", toy, tiny, "cadft", {"beta": "0", "rewrite": rewrite, "warmup": "9"}, budget=0.4)
    assert same(one, two)


def test_pauses_at_which_nothing_is_rewritten_change_nothing(toy, tiny, tmp_path):
    one, a = run(tmp_path / "1", toy, tiny, "msft+cadft", {"msft.C": "1.5", "rewrite": "false"}, budget=2.0)
    two, b = run(tmp_path / "2", toy, tiny, "msft+cadft", {"msft.C": "1.5", "chance": "0"}, budget=2.0)
    assert len(logged(two)) >= 3
    assert same(a, b)
    assert bill(one) == bill(two)
    assert one.trail.curves == two.trail.curves


def test_the_schedule_counts_passes_of_the_weights_and_everything_is_logged(toy, tiny, tmp_path):
    core, _ = run(tmp_path, toy, tiny, "cadft", EAGER, budget=1.4)
    events = logged(core)
    assert [e["passes"] for e in events] == pytest.approx([1.5 + 0.5 * k for k in range(len(events))], abs=0.05)
    assert len(events) >= 6
    assert all(e["candidates"] <= 12 and e["rewritten"] <= e["ended"] <= e["drawn"] for e in events)
    assert sum(e["rewritten"] for e in events) >= 1
    assert events[-1]["share"] == events[-1]["rewritten"] / 48
    assert set(core.revised) <= {f"{t}/{i}" for t, n in (("copy", 24), ("flip", 16), ("next", 8)) for i in range(n)}
    assert sum(e.model for e in core.ledger.entries if e.phase == "generate") > 0


def test_in_the_second_pass_candidates_are_a_share_of_what_has_two_visits(toy, tiny, tmp_path):
    core, _ = run(tmp_path, toy, tiny, "cadft", {"warmup": "1.25", "every": "0.25", "share": "0.25", "chance": "0"})
    events = logged(core)[:5]
    assert [e["passes"] for e in events] == [1.25, 1.5, 1.75, 2.0, 2.25]
    assert [e["candidates"] for e in events] == [3, 6, 9, 12, 12]


def test_candidates_are_the_worst_by_moving_average_and_start_anew(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=8.0)
    seen, made = [], []

    class Watched:
        """The lab, noting what the lens asks for."""

        def __init__(self):
            self.examples = self

        def __getattr__(self, name):
            return getattr(lab if hasattr(lab, name) else lab.examples, name)

        def top(self, column, k, **named):
            found = lab.examples.top(column, k, **named)
            seen.append(
                (k, {i: float(core.table.read(column, core.table.rows([i]))[0]) for i in core_ids(core)}, found)
            )
            return found

        def rewrite(self, example, text):
            made.append((example, text))
            return lab.rewrite(example, text)

    def core_ids(core):
        return core.table.ids(list(range(core.table.length)))

    fields = {"warmup": 3.0, "every": 1.0, "share": 0.25, "chance": 1.0, "temperature": 0.3}
    CADFT(**fields).wrap(Watched()).train(lab.proportional(), "4.5 epoch")
    assert len(seen) == 2
    for k, values, found in seen:
        assert k == 12
        known = sorted((v for v in values.values() if not math.isnan(v)), reverse=True)
        assert [values[e.id] for e in found] == known[:12]
    events = logged(core)
    assert sum(e["ended"] for e in events) == len(made) >= 1
    assert all(text.strip() for _, text in made)
    ids = sorted({e.id for e, _ in made[: events[0]["rewritten"]]})
    if events[0]["rewritten"] == events[0]["ended"]:
        assert events[0]["ids"] == hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def test_a_rollback_undoes_rewriting_and_its_clock(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=8.0)
    fields = {"warmup": 3.0, "every": 0.5, "share": 0.25, "chance": 1.0, "temperature": 0.3}
    through = CADFT(**fields).wrap(lab)
    h = through.train(lab.proportional(), "2.9 epoch")
    assert not logged(core)
    clock = lab.state["cadft"].tolist()
    assert clock == [pytest.approx(2.9, abs=0.05), 0]
    before = lab.checkpoint()
    through.train(lab.proportional(), "2 epoch")
    passes = [e["passes"] for e in logged(core)]
    assert core.revised
    lab.rollback(before)
    assert not core.revised
    assert lab.state["cadft"].tolist() == clock
    through.train(lab.proportional(), "2 epoch")
    assert [e["passes"] for e in logged(core)] == passes * 2
    assert h.steps == 35


def test_verified_rewritings_are_right(toy, tiny, tmp_path, monkeypatch):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=2.0)
    asked = []

    def grade(example, text):
        asked.append((example.id, text))
        return len(asked) % 2 == 0

    monkeypatch.setattr(lab, "grade", grade)
    fields = {"warmup": 6.0, "every": 0.5, "share": 1.0, "chance": 1.0, "temperature": 0.3, "verified": True}
    CADFT(**fields).wrap(lab).train(lab.proportional(), "6.7 epoch")
    events = logged(core)
    assert sum(e["ended"] for e in events) == len(asked) > 1
    right = set(asked[1::2])
    assert 1 <= sum(e["rewritten"] for e in events) <= len(right)
    assert {(i, core.data.example(i, v).response) for i, v in core.revised.items()} <= right


def test_nothing_is_rewritten_when_a_third_of_a_pass_is_no_longer_left(toy, tiny, tmp_path):
    core, _ = run(tmp_path, toy, tiny, "cadft", {"every": "1.0", "share": "0.25", "chance": "1.0"}, budget=0.6)
    # 2.4 passes fit: the first rewriting is due after one of them, the second would be after two.
    assert [e["passes"] for e in logged(core)] == [1.0]
    assert core.memory["cadft"][1] == 2
    assert core.ledger.spent <= core.ledger.cap


def test_under_a_plot_of_small_fixed_batches_a_pass_is_one_over_the_tasks(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=4.0)
    through = CADFT(chance=0.0).wrap(lab)
    for _ in range(24):
        through.train(lab.just(lab.draw(lab.proportional())), "1 step", keep="none")
    assert [e["passes"] for e in logged(core)] == pytest.approx([1.0, 1.333, 1.667], abs=0.001)


def test_two_lenses_that_pause_are_refused(toy, tiny, tmp_path):
    lab, *_ = make_lab(tmp_path, toy, tiny, budget=1.0)
    through = CADFT().wrap(lab)
    with pytest.raises(HarnessError, match="pause the training"):
        through.train(lab.proportional(), "1 step", pause="1 step")
    with pytest.raises(HarnessError, match="pause the training"):
        resolve("proportional+cadft+psft").build({}).run(lab)
    with pytest.raises(HarnessError, match="two parts of this strategy set 'objective'"):
        resolve("proportional+cadft+dft").build({}).run(lab)


def test_a_plot_keeps_its_decisions():
    script = [{"a": [0.1, 0.5, 0.4], "b": [0.1, 0.2, 0.3]}, {"a": [0.5, 0.4, 0.4], "b": [0.2, 0.6, 0.5]}]
    plain, seen = ScriptedLab({"a": 5, "b": 5}, script), ScriptedLab({"a": 5, "b": 5}, script)
    find("msft").cls().run(plain)
    resolve("msft+cadft").build({}).run(seen)
    assert seen.calls == plain.calls


KILLS = ["step:7", "step:21", "verb:4", "verb:20", "between:6", "snapshot:25", "step:50"]
EARLIER = ["step:7", "step:21", "verb:4", "verb:10", "between:6", "snapshot:12", "step:28"]  # for a shorter run


@pytest.mark.parametrize(
    ("strategy", "places"),
    [
        ("cadft", ["step:45"]),
        *(pytest.param(name, KILLS, marks=pytest.mark.slow) for name in ("cadft", "msft+cadft")),
        pytest.param("msft+psft", EARLIER, marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_it_ends_in_the_same_record(forks, toy, tiny, tmp_path, strategy, places):
    options = {"cadft": EAGER, "msft+cadft": EAGER | {"msft.C": "2"}, "msft+psft": {"msft.C": "1"}}[strategy]

    def go(folder, **env):
        asked = request(toy, tiny, tmp_path / folder, strategy) | {"options": options, "budget": 1.4}
        return forks.run(asked, **env)

    def record(done):
        assert done["status"] == 0, done
        found = comparable(done["record"])
        found["environment"].pop("git", None)
        return found

    calm, struck = record(go("calm", HARNESS_SNAPSHOT_SECONDS="1000")), 0
    if strategy == "cadft":
        assert sum(e["data"]["rewritten"] for e in calm["events"] if e["note"] == "rewriting") >= 1
    for k, place in enumerate(places):
        seconds = "1000" if k % 2 else "0"
        struck += go(str(k), HARNESS_FAULT=f"kill@{place}", HARNESS_SNAPSHOT_SECONDS=seconds)["status"] == -9
        assert record(go(str(k), HARNESS_SNAPSHOT_SECONDS=seconds)) == calm, place
    assert struck >= max(1, len(places) - 2)
