"""mSFT's plot over given curves: which tasks are excluded, where it goes back to, what it answers (no torch)."""

import math
import subprocess
import sys

import pytest

from harness.api import Lab, Strategy
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


def test_flat_curves_drop_everything_at_the_start():
    flat = {"a": [0.3, 0.3, 0.3], "b": [0.3, 0.3, 0.3]}
    lab = play([flat, flat])
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


def test_the_stage_cap_is_four_per_task_by_default():
    rising = [{"a": [0.0, k / 100 + 0.001, k / 100 + 0.002]} for k in range(50)]
    lab = play(rising)
    assert sum(v == "train" for v, _ in lab.calls) == 4
    assert sum(v == "train" for v, _ in play(rising, stages=7).calls) == 7


def test_plots_run_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from harness.registry import find; from harness.scripted import ScriptedLab\n"
        "lab = ScriptedLab({'a': 5}, [{'a': [0.1, 0.3, 0.2]}]); find('msft').cls().run(lab); print(lab.answered)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0:1", done.stderr


@pytest.mark.parametrize("name", ["proportional", "uniform", "temperature"])
def test_static_strategies_train_once_on_the_rest(name):
    lab = ScriptedLab({"a": 5, "b": 10}, [{"a": [0.0], "b": [0.0]}])
    find(name).cls().run(lab)
    assert [v for v, _ in lab.calls] == ["train"]
