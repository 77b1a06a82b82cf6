"""Trackers and the live view: what they are told is what the lab did."""

import io
import re
import sys
import types
from importlib.machinery import ModuleSpec

import pytest
from rich.console import Console

from harness import progress, tracking
from harness.cli import cli
from harness.core import Progress
from harness.errors import HarnessError
from tests.labs import make_lab


def state(**changed):
    plain = {"billed": 50, "cap": 100, "step": 3, "tokens": 200, "loss": 1.5, "seconds": 0.5, "line": 7, "lr": 0.01}
    return Progress(**plain | {"tasks": {"a": 1.0, "b": 2.0}, "mixture": {"a": 0.25, "b": 0.75}} | changed)


def scalars(folder):
    """(line, value) of each scalar by tag, of all of a folder's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_holds_every_step_of_a_training(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny)
    seen = []
    for length in ("2 step", "3 step"):  # in two goes, as by a run that was interrupted
        with tracking.Tracker("tensorboard", tmp_path / "t", "id", {}, pytest.fail) as tracker:

            def watch(p, log=tracker.log):
                seen.append(p)
                log(p, 10**6)

            core.watch = watch
            history = lab.train(lab.proportional(), length)
    found = scalars(tmp_path / "t" / "tensorboard")
    assert [step for step, _ in found["loss"]] == [p.line for p in seen]
    assert [value for _, value in found["loss"]] == pytest.approx([p.loss for p in seen], rel=1e-6)
    assert [step for step, _ in found["loss"]] == sorted({step for step, _ in found["loss"]})
    assert found["billed_share"][-1][1] == pytest.approx(core.ledger.spent / core.ledger.cap)
    assert {tag for tag in found if tag.startswith("mixture/")} == {"mixture/copy", "mixture/flip", "mixture/next"}
    assert found["memory_bytes"][0][1] == 10**6
    # A task's losses by step, weighted by its supervised tokens, are the history's: here each step's own figures.
    for task in history.train_loss:
        values = [p.tasks[task] for p in seen[2:] if task in p.tasks]
        assert min(values) <= history.train_loss[task] <= max(values)


def test_in_a_fork_scalars_carry_its_phase():
    assert tracking.values(state(phase="proxy"), 1)["proxy/loss/a"] == 1.0
    assert tracking.values(state(), 1)["tokens_per_s"] == 400


def test_a_tracker_that_is_not_there_is_one_line_and_exit_2(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        HarnessError, match="tracker 'wandb': its package is not installed; pip install wandb"
    ) as missing:
        cli.main(["run", "--tracker", "wandb"], standalone_mode=False)
    assert missing.value.exit_code == 2
    with pytest.raises(HarnessError, match=r"unknown tracker 'tensorbord'; did you mean 'tensorboard'\?"):
        tracking.require("tensorbord")


@pytest.mark.parametrize(("name", "identity"), [("trackio", {}), ("wandb", {"id": "r1"})])
def test_runs_elsewhere_are_named_by_the_run_and_resumed(name, identity, monkeypatch, tmp_path):
    calls = []

    class Run:
        def log(self, values, step, **more):
            calls.append((values["loss"], step))

        def finish(self):
            calls.append("finished")

    def init(**asked):
        calls.append(asked)
        return Run()

    fake = types.ModuleType(name)
    fake.__spec__, fake.init = ModuleSpec(name, None), init
    monkeypatch.setitem(sys.modules, name, fake)
    with tracking.Tracker(name, tmp_path, "r1", {"seed": 0}, pytest.fail) as tracker:
        tracker.log(state(), 1)
        tracker.log(state(loss=1.25, line=9), 1)
    expected = {"project": "sft-harness", "name": "r1", "config": {"seed": 0}, "resume": "allow"} | identity
    assert calls == [expected, (1.5, 7), (1.25, 9), "finished"]


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(monkeypatch, tmp_path):
    said = []
    with tracking.Tracker("tensorboard", tmp_path, "id", {}, said.append) as tracker:
        tracker.log(state(), 1)
        monkeypatch.setattr(tracker._open, "log", lambda *args, **named: 1 / 0)
        tracker.log(state(), 1)
        tracker.log(state(), 1)
    assert said == ["tracker tensorboard is left out from here on: ZeroDivisionError: division by zero"]


@pytest.fixture(params=[True, False])
def shown(request, monkeypatch):
    """(whether there is a terminal, what it shows)."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=request.param, width=150, color_system=None, legacy_windows=False)
    monkeypatch.setattr(progress, "Console", lambda **asked: console)
    return request.param, screen


def test_a_person_sees_loss_and_weight_by_task_budget_and_memory(shown):
    terminal, screen = shown
    with progress.Live("msft on toy") as live:
        live.watch(state())
        live.watch(state(billed=60, tasks={"a": 2.0}, mixture={"a": 1.0}))
        picture = Console(file=io.StringIO(), width=150)
        picture.print(live.render())
        drawn = picture.file.getvalue()
    assert live.losses == pytest.approx({"a": 1.1, "b": 2.0})
    words = drawn.split()
    assert words[words.index("a") + 1 : words.index("a") + 3] == ["1.100", "100.0%"]
    assert words[words.index("b") + 1 : words.index("b") + 3] == ["2.000", "0.0%"]  # left out of the mixture
    if terminal:
        assert "60.0 % of budget" in drawn
        assert "GB" in drawn
    else:
        lines = screen.getvalue().splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("harness: msft on toy: 50% of budget, loss 1.500, 400 tokens/s, ETA ")
        assert lines[0].endswith(" GB; 2 tasks: b 2.00, a 1.00")
        assert lines[1].endswith(" GB; 1 task: a 1.10")


def test_a_terminal_of_80_columns_shows_all_numbers_and_both_times(monkeypatch):
    """They stood beside the bar, which cut off the elapsed time and the ETA: `0.6 GB 0… ETA 0…`."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    monkeypatch.setattr(progress, "Console", lambda **asked: console)
    with progress.Live("taskpgm+partitionsel on mol-instructions") as live:
        for view in range(2):
            picture = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
            picture.print(live.render())
            drawn = picture.file.getvalue()
            assert "…" not in drawn
            assert "nan" not in drawn
            assert re.search(r"% of budget +\d:\d\d:\d\d +ETA +[-\d]:[-\d]{2}:[-\d]{2}", drawn), drawn
            if view:
                assert re.search(r"loss 1\.500  \d+ tokens/s  \d+\.\d GB", drawn), drawn
            live.watch(state())


def test_a_proxys_losses_are_named_so_and_do_not_go_on_into_the_runs_own(monkeypatch):
    """Smoothed over both they showed a proxy's loss of a task for the first steps of the training."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **asked: Console(file=screen, width=200))
    with progress.Live("taskpgm on toy") as live:
        live.watch(state(billed=20, phase="proxy", tasks={"a": 9.0, "b": 8.0}))
        live.watch(state(billed=30, tasks={"a": 1.0}))
        assert live.losses == {"a": 1.0}
        live.watch(state(billed=40, tasks={"a": 2.0}))
        assert live.losses == pytest.approx({"a": 1.1})
    first, second, _ = screen.getvalue().splitlines()
    assert first.startswith("harness: taskpgm on toy (proxy): 20% of budget, ")
    assert second.startswith("harness: taskpgm on toy: 30% of budget, ")


def test_time_left_is_reckoned_from_what_this_process_has_done(monkeypatch):
    """A run that goes on at 80 % and takes ten seconds for the next ten per cent needs ten more, not one."""
    screen, now = io.StringIO(), [100.0]
    monkeypatch.setattr(progress, "Console", lambda **asked: Console(file=screen, width=200))
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    with progress.Live("msft on toy") as live:
        live.watch(state(billed=80))
        now[0] += 10
        live.watch(state(billed=90))
    first, second = screen.getvalue().splitlines()
    assert "80% of budget" in first
    assert "ETA unknown" in first
    assert "90% of budget" in second
    assert "ETA 10 s" in second


def test_memory_is_at_least_what_this_process_holds():
    assert progress.memory() > 10**7
