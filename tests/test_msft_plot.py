"""mSFT's plot over given curves: which tasks are excluded, where it goes back to, what it answers (no torch)."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from harness.api import BudgetExhausted, Lab, Strategy
from harness.registry import find
from harness.scripted import ScriptedLab

MSFT = find("msft").cls


def play(script, sizes=None, **fields):
    lab: Lab = ScriptedLab(sizes or dict.fromkeys(script[0], 10), script)
    strategy: Strategy = MSFT(**fields)
    try:
        strategy.run(lab)
    except BaseException as error:
        if type(error).__name__ != "BudgetExhausted":
            raise
    return lab


def excluded(lab):
    return [value["task"] for verb, (_, value) in ((v, d) for v, d in lab.calls if v == "log")]


def trained(lab):
    return [detail for verb, detail in lab.calls if verb == "train"]


def rollbacks(lab):
    return [detail for verb, detail in lab.calls if verb == "rollback"]


def test_drops_the_earliest_peak_and_returns_to_it():
    lab = play(
        [
            {"a": [0.1, 0.5, 0.4, 0.3, 0.3], "b": [0.1, 0.2, 0.3, 0.4, 0.5]},
            {"a": [0.5, 0.4, 0.4, 0.4, 0.4], "b": [0.2, 0.3, 0.6, 0.5, 0.4]},
        ]
    )
    assert excluded(lab) == ["a", "b"]
    assert rollbacks(lab) == ["0:1", "1:2"]
    assert [d for v, d in lab.calls if v == "train"] == [("a", "b"), ("b",)]
    assert lab.answered == "1:2"  # pooled 0.5 beats stage one's 0.4


def test_nobody_peaks_before_the_end_so_nothing_is_dropped():
    rising = {"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]}
    higher = {"a": [0.3, 0.4, 0.5], "b": [0.3, 0.4, 0.5]}
    lab = play([rising, higher])
    assert excluded(lab) == []
    assert rollbacks(lab) == []
    assert lab.answered == "1:2"


def test_step_zero_is_a_legal_peak_and_drops_in_a_row_at_the_same_weights():
    falling = {"a": [0.5, 0.4, 0.3], "b": [0.5, 0.4, 0.3], "c": [0.1, 0.2, 0.3]}
    lab = play([falling, falling, {"a": [0.5] * 3, "b": [0.5] * 3, "c": [0.1, 0.3, 0.2]}])
    assert excluded(lab) == ["a", "b", "c"]
    assert rollbacks(lab) == ["base", "base", "2:1"]
    assert lab.answered == "2:1"


def test_ties_go_to_the_earliest_checkpoint_then_to_the_alphabet():
    tied = {"b": [0.1, 0.5, 0.5, 0.2], "a": [0.1, 0.5, 0.5, 0.2]}
    lab = play([tied, tied])
    assert excluded(lab)[0] == "a"
    assert rollbacks(lab)[0] == "0:1"


def test_a_curve_that_never_moves_has_no_peak_before_its_end():
    flat = {"a": [0.3, 0.3, 0.3], "b": [0.3, 0.3, 0.3]}
    lab = play([flat] * 9)
    assert trained(lab) == [("a", "b")] * 8  # four stages a task
    assert rollbacks(lab) == []
    assert lab.answered == "base"
    lab = play([{"a": [0.0, 0.0, 0.0], "b": [0.1, 0.3, 0.2]}, {"a": [0.0, 0.4, 0.3], "b": [0.3, 0.2, 0.1]}])
    assert excluded(lab) == ["b", "a"]
    assert rollbacks(lab) == ["0:1", "1:1"]


def test_as_released_a_flat_curve_peaks_at_its_start():
    flat = {"b": [0.3, 0.3, 0.3], "a": [0.3, 0.3, 0.3]}
    lab = play([flat, flat], faithful=True)
    assert excluded(lab) == ["a", "b"]
    assert rollbacks(lab) == ["base", "base"]
    assert lab.answered == "base"


def test_an_answer_is_replaced_only_by_a_strictly_better_pooled_look():
    lab = play([{"a": [0.1, 0.6, 0.2], "b": [0.1, 0.6, 0.7]}, {"a": [0.6, 0.6, 0.6], "b": [0.6, 0.6, 0.6]}])
    assert [d for v, d in lab.calls if v == "answer"] == ["0:1"]


def test_one_task_ends_after_its_peak():
    lab = play([{"a": [0.1, 0.9, 0.5]}])
    assert excluded(lab) == ["a"]
    assert lab.answered == "0:1"


def test_nan_is_never_a_peak():
    lab = play([{"a": [math.nan, 0.2, math.nan], "b": [0.1, 0.2, 0.3]}])
    assert excluded(lab) == ["a"]
    assert rollbacks(lab) == ["0:1"]


def test_a_task_of_which_nothing_is_known_stays_and_the_others_go_in_order():
    nan = [math.nan] * 3
    lab = play(
        [
            {"a": nan, "b": [0.1, 0.3, 0.2], "c": [0.1, 0.2, 0.3]},
            {"a": nan, "b": [0.3, 0.3, 0.3], "c": [0.2, 0.2, 0.1]},
            {"a": nan, "b": [0.3, 0.3, 0.3], "c": [0.2, 0.2, 0.2]},
        ]
    )
    assert excluded(lab) == ["b", "c"]
    assert rollbacks(lab) == ["0:1", "0:1"]  # c is best where its stage began
    assert trained(lab) == [("a", "b", "c"), ("a", "c"), ("a",)]
    assert lab.answered is None  # no pooled value is a number: the weights at the end


def test_an_exclusion_names_its_task_its_peak_and_where_it_went_back_to():
    lab = play([{"a": [0.1, 0.2, 0.5, 0.4, 0.3], "b": [0.1, 0.2, 0.3, 0.4, 0.5]}], sizes={"a": 3, "b": 500})
    assert [d for v, d in lab.calls if v == "log"] == [
        ("excluded", {"task": "a", "epoch": 0.5, "value": 0.5, "back_to": "0:2"})
    ]


class Strict(ScriptedLab):
    """Writes down how each stage was asked for; cuts the stages in `cuts`."""

    cuts = ()

    def train(self, mixture, length="rest", **arguments):
        self.calls.append(("asked", {"length": length, "weights": dict(mixture.weights), **arguments}))
        history = super().train(mixture, length, **arguments)
        return dataclasses.replace(history, cut=self.budget.spent - 1 in self.cuts)


def test_each_stage_is_one_roll_out_with_a_new_optimizer_over_the_active_data():
    falling = {"a": [0.5, 0.4], "b": [0.1, 0.2], "c": [0.1, 0.2]}
    lab = Strict({"a": 3, "b": 27, "c": 70}, [falling, {"a": [0.5, 0.4], "b": [0.1, 0.0], "c": [0.1, 0.2]}])
    with pytest.raises(BudgetExhausted):
        MSFT(C=3, grid=0.5).run(lab)
    first, second, third = (d for v, d in lab.calls if v == "asked")
    assert first["weights"] == {"a": 0.03, "b": 0.27, "c": 0.7}
    assert second["weights"] == {"b": 27 / 97, "c": 70 / 97}
    assert third["weights"] == {"c": 1.0}
    for asked in (first, second, third):
        assert (asked["length"], asked["eval_every"], asked["metric"]) == ("3 epoch", "0.5 epoch", None)
        assert (asked["keep"], asked["optimizer"]) == ("peaks", "fresh")


def test_as_released_the_grid_is_a_quarter_epoch_of_accuracy():
    lab = Strict({"a": 3}, [{"a": [0.5, 0.4]}])
    MSFT(grid=0.5, stages=99, faithful=True).run(lab)
    (asked,) = (d for v, d in lab.calls if v == "asked")
    assert (asked["eval_every"], asked["metric"], asked["optimizer"]) == ("0.25 epoch", "exact_match", "fresh")


def test_a_stage_that_the_budget_cuts_excludes_nothing():
    lab = Strict({"a": 5, "b": 5}, [{"a": [0.1, 0.5, 0.4], "b": [0.1, 0.2, 0.3]}])
    lab.cuts = (0,)
    with pytest.raises(BudgetExhausted):
        MSFT().run(lab)
    assert excluded(lab) == rollbacks(lab) == []
    assert lab.answered == "0:1"


@pytest.mark.parametrize(
    ("tasks", "fields", "cap"),
    [
        (1, {}, 4),
        (3, {}, 12),
        (1, {"stages": 7}, 7),
        (3, {"stages": 2}, 3),
        (2, {"faithful": True}, 10),
        (12, {"faithful": True, "stages": 40}, 12),
    ],
)
def test_the_stage_cap_is_at_least_the_number_of_tasks(tasks, fields, cap):
    rising = [{f"t{i}": [0.0, k / 100 + 0.001, k / 100 + 0.002] for i in range(tasks)} for k in range(60)]
    assert len(trained(play(rising, **fields))) == cap


def released(script):
    """The published procedure over given accuracies, written out: exclusions, where it went back to, its answer."""
    names, gone, here, out, best = sorted(script[0]), [], "base", [], (-1.0, None)
    for stage, curves in enumerate(script[: max(10, len(names))]):
        active = [t for t in names if t not in gone]
        if not active:
            break
        n = len(curves[names[0]])
        at = [here] + [f"{stage}:{k}" for k in range(1, n)]
        overall = [sum(curves[t][k] for t in names) / len(names) for k in range(n)]
        top = max(overall)
        if top > best[0]:
            best = (top, at[overall.index(top)])
        peak = {t: list(curves[t]).index(max(curves[t])) for t in active}
        m = min(peak.values())
        here = at[m]
        if m < n - 1:
            gone.append(min(t for t in active if peak[t] == m))
            out.append(here)
    return gone, out, best[1]


@pytest.mark.parametrize("seed", range(60))
def test_it_decides_as_the_published_procedure_does(seed):
    rng = np.random.default_rng(seed)
    tasks, looks = int(rng.integers(1, 13)), int(rng.integers(2, 6))
    digits = 1 if seed % 2 else 3  # coarse values: many ties and flat curves
    script = [{f"t{i}": rng.random(looks).round(digits).tolist() for i in range(tasks)} for _ in range(20)]
    lab = play(script, faithful=True)
    assert (excluded(lab), rollbacks(lab), lab.answered) == released(script)
    if not any(len(set(curve)) == 1 for curves in script for curve in curves.values()):
        plain = play(script, stages=max(10, tasks))
        assert plain.calls == lab.calls


def test_plots_run_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from harness.registry import find; from harness.scripted import ScriptedLab\n"
        "lab = ScriptedLab({'a': 5}, [{'a': [0.1, 0.3, 0.2]}]); find('msft').cls().run(lab); print(lab.answered)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0:1", done.stderr


@pytest.mark.parametrize(("name", "tau"), [("proportional", 1), ("uniform", 0), ("temperature", 0.3)])
def test_static_strategies_train_once_on_the_rest(name, tau):
    lab = ScriptedLab({"a": 5, "b": 10}, [{"a": [0.0, 0.1], "b": [0.0, 0.1]}])
    find(name).cls().run(lab)
    assert lab.calls == [("train", ("a", "b"))]
    share = 1 / (1 + 2**tau)
    assert lab.mixtures == [pytest.approx({"a": share, "b": 1 - share})]
    assert (lab.answered, lab.final) == (None, "0:1")
