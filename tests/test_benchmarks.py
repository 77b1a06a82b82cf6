"""What the benchmarks do about a GPU, without one: which steps count, what is kept, how long the script may take."""

import json
import os
import subprocess
from contextlib import nullcontext

import pytest
import torch
from scipy import optimize
from scipy import stats as scipy_stats

from benchmarks import hardware, power, selection_conflicts, throughput
from benchmarks.throughput_peers import Turns, available
from harness import record
from harness.compare import Comparison, Difference
from harness.standings import Standings
from harness.stats import Estimate
from harness.study import Row
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


def gpu_sh(tmp_path, *asked, **env):
    for name, text in (("python", STUB), ("timeout", TIMEOUT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    given = {"PYTHON": str(tmp_path / "python"), "OUT": str(tmp_path / "out"), "LACKS": "", "PATH": path}
    env = os.environ | given | env
    return subprocess.run([ROOT / "benchmarks" / "gpu.sh", *asked], env=env, capture_output=True, text=True, timeout=60)


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


def test_checks_are_run_by_name_in_the_scripts_order(tmp_path):
    done = gpu_sh(tmp_path, "ledger", "tests")
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("== ")][:2] == ["== tests", "== ledger"]
    assert [line for line in done.stdout.splitlines() if line.startswith("limit ")] == ["limit 200", "limit 90"]
    done = gpu_sh(tmp_path, "--cpu", "throughput-0.5b")
    assert done.returncode == 2
    assert done.stderr == (
        "gpu.sh: unknown check 'throughput-0.5b'; there are tests throughput-tiny memory rollback duel\n"
    )


def test_a_summary_keeps_what_other_checks_came_to(tmp_path):
    file = tmp_path / "s.json"
    assert not hardware.summary(file, ["tests=1:3", "duel=0:9"])
    assert hardware.summary(file, ["tests=0:4"], add=True)
    found = json.loads(file.read_text())["checks"]
    assert {row["check"]: (row["status"], row["seconds"]) for row in found} == {"tests": (0, 4), "duel": (0, 9)}
    assert hardware.summary(file, ["tests=0:4"])
    assert len(json.loads(file.read_text())["checks"]) == 1


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


def test_power_is_that_of_the_pooled_variance_within_reach_of_the_reference():
    def row(entry, value, error, df):
        found = Difference(Estimate(value, None, None, 10), error, df, 0.5, 0.02, 0.03)
        means = dict.fromkeys(("reference", *apart), 0.5)
        standing = Standings({}, Comparison("reference", means, {entry: found}, {}, {}))
        return Row("toy", "tiny", "full", entry, 1.0, 10, (), standings=standing)

    apart = {"near": (-0.02, 0.010, 9.0), "nearer": (0.01, 0.007, 12.0), "far": (-0.4, 0.05, 9.0)}
    table = list(power.lines([row(name, *of) for name, of in apart.items()], near=10))
    assert "| toy x tiny | near | 1x | 10 | -2.0 | no | 2.0 | 3.0 |" in table
    error = ((9 * 0.010**2 + 12 * 0.007**2) / 21) ** 0.5
    for k, alpha in ((-2, 0.05), (-1, 0.05 / 3)):
        critical = scipy_stats.t.ppf(1 - alpha / 2, 21)
        power_at = lambda d, c=critical: scipy_stats.nct.sf(c, 21, d / error)  # noqa: E731
        expected = 100 * optimize.brentq(lambda d: power_at(d) - 0.8, 1e-4, 0.2)  # noqa: B023
        assert float(table[-1].split("|")[k - 1]) == pytest.approx(expected, abs=0.051)
    assert "*pooled within 10 points: 2*" in table[-1]
    assert float(table[-2].split("|")[-3]) > 2 * float(table[-1].split("|")[-3])
