"""What the benchmarks do about a GPU, without one: which steps count, what is kept, how long the script may take."""

import json
import os
import subprocess
from contextlib import nullcontext

import pytest
import torch

from benchmarks import selection_conflicts, throughput
from benchmarks.throughput_peers import Turns, available
from harness import record
from tests.conftest import ROOT
from tests.records import make_record


class Pipe:
    def __init__(self, *orders):
        self.orders, self.sent = list(orders), []

    def recv(self):
        return self.orders.pop(0)

    def send(self, what):
        self.sent.append(what)


@pytest.mark.parametrize("cuda", [False, True])
def test_on_a_gpu_a_turns_first_step_fills_the_cache_and_is_not_counted(cuda, monkeypatch):
    emptied, steps = [], []
    for name in ("synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(steps)))
    pipe = Pipe("step", "step", "stop")
    turns = Turns(pipe)
    turns.cuda = cuda
    while turns.wait():
        steps.append(1)
        turns.done()
    assert len(pipe.sent) == 2
    assert len(steps) == (4 if cuda else 2)
    assert emptied == ([2, 4] if cuda else [])


def test_what_was_measured_is_kept_if_a_later_case_fails(monkeypatch, tmp_path):
    found = {"model": "pocket", "loss_apart": 0.0}

    def measure(names, case, *more):
        if case.rows == "long":
            raise SystemExit("out of memory")
        return found

    monkeypatch.setattr(throughput, "measure", measure)
    monkeypatch.setattr(throughput, "table", lambda case: "")
    monkeypatch.setattr(throughput, "model_folder", lambda *asked: nullcontext((tmp_path, "random")))
    out = tmp_path / "t.json"
    monkeypatch.setattr("sys.argv", ["throughput", "--peers", "harness", "--rows", "short,long", "--out", str(out)])
    with pytest.raises(SystemExit, match="out of memory"):
        throughput.main()
    assert json.loads(out.read_text())["cases"] == [found]


def test_the_trainer_of_transformers_needs_nothing_beside_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert available(["harness", "hf", "trl"], "cuda", present=True) == ["harness", "hf"]


STUB = """#!/usr/bin/env bash
case "$*" in
  -c*find_spec*) echo "$LACKS";;
  -c*) ;;
  *--name) echo stub;;
  *--summary*) echo "${@:4}";;
esac
"""
TIMEOUT = """#!/usr/bin/env bash
echo "limit $2"
"""


def gpu_sh(tmp_path, **env):
    for name, text in (("python", STUB), ("timeout", TIMEOUT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    asked = {"PYTHON": str(tmp_path / "python"), "OUT": str(tmp_path / "out"), "LACKS": "", "PATH": path}
    env = os.environ | asked | env
    return subprocess.run([ROOT / "benchmarks" / "gpu.sh"], env=env, capture_output=True, text=True, timeout=60)


def test_all_checks_of_the_script_together_end_in_time(tmp_path):
    done = gpu_sh(tmp_path, WITHIN="50")
    assert done.returncode == 0
    limits = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("limit ")]
    assert len(limits) == 9
    assert max(limits) <= 50, "no check may go on beyond what is left of all the time"
    done = gpu_sh(tmp_path, WITHIN="0")
    rows = dict(check.split("=") for check in done.stdout.splitlines()[-2].split())
    assert "limit" not in done.stdout
    assert len(rows) == 9
    assert set(rows.values()) == {"124:0"}, "no time was left to begin"


def test_what_the_script_lacks_is_one_line(tmp_path):
    done = gpu_sh(tmp_path, LACKS="pydantic peft")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "has no pydantic, peft;" in done.stderr


def test_a_runs_conflicts_weigh_each_line_by_its_selections():
    """Two selections of 4 with 10 conflicts each, then one with 40: 20 a selection."""
    lines = [
        {"conflicts": 10, "random_conflicts": 20, "overlap": 0.5, "tasks": [6, 2]},
        {"conflicts": 40, "random_conflicts": 20, "overlap": 0.2, "tasks": [0, 4]},
    ]
    made = make_record("partitionsel")
    events = [record.Event(billed_flops=k, verb="log", note="selection", data=line) for k, line in enumerate(lines)]
    found = selection_conflicts.of_run(made.model_copy(update={"events": events}))
    assert found == pytest.approx(
        {"conflicts": 20, "random_conflicts": 20, "ratio": 1.0, "overlap": 0.4, "largest": 0.5}
    )
    assert selection_conflicts.of_run(made) == {}
