"""The Ray executor: what it decides without Ray, and a real cluster of two nodes of which one dies."""

import fcntl
import functools
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness import cluster, matrix, matrix_view, rundir
from harness.campaign import Campaign
from harness.errors import HarnessError, RunFailed
from harness.executor import Report
from harness.process import End, Job
from harness.request import Request
from tests.conftest import ROOT
from tests.matrices import STRATEGY, by_id, go, matrix_file, start, until


@pytest.fixture
def write(toy, tiny, tmp_path):
    return functools.partial(matrix_file, tmp_path, toy, tiny)


# --- without Ray


def test_without_ray_one_line_says_so_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HarnessError, match=r"Ray is not installed; pip install 'sft-harness\[ray\]'") as found:
        Campaign(Path("nowhere.yaml"), executor="ray").go()
    assert found.value.exit_code == 2
    assert "\n" not in str(found.value)


class Lost(Exception):
    pass


class FakeRay:
    """Ray's side of `Cluster.run`: every attempt at a cell plays the next script of messages, errors or exceptions."""

    def __init__(self, **scripts):
        self.scripts, self.cancelled, self.asked = scripts, [], {}
        names = ("RayTaskError", "NodeDiedError", "OutOfMemoryError")
        self.exceptions = SimpleNamespace(RayError=Lost, **{n: type(n, (Lost,), {"cause": None}) for n in names})

    def remote(self, **resources):
        self.asked = resources
        task = SimpleNamespace(remote=lambda job, given: iter(self.scripts[job.id].pop(0)))
        return lambda function: SimpleNamespace(options=lambda **_: task)

    def wait(self, streams, num_returns, timeout):
        return streams, []

    def get(self, message):
        if isinstance(message, type):
            raise message()
        return message

    def cancel(self, stream):
        self.cancelled.append(stream)

    def nodes(self):
        two = {"CPU": 8.0, "GPU": 2.0}
        return [{"Alive": a, "Resources": r} for a, r in [(True, two), (False, two), (True, {"CPU": 3.0})]]


def fake_cluster(ray, jobs=None, cpus=1, gpus=0.0):
    made = cluster.Cluster.__new__(cluster.Cluster)
    made.ray, made.jobs, made.cpus, made.gpus = ray, jobs, cpus, gpus
    return made


def fake_cell(tmp_path, name, recorded=True):
    folder = tmp_path / name
    record = folder / "record.json" if recorded else None
    return SimpleNamespace(id=name, request=Request(runs=tmp_path), record=record, plan=SimpleNamespace(folder=folder))


class Diary:
    def __init__(self):
        self.lines = []

    def __getattr__(self, kind):
        return lambda *what: self.lines.append(
            (kind, *(w if isinstance(w, str) else getattr(w, "id", w) for w in what))
        )


def at(share):
    return "report", Report(share, 1.0, 100.0)


def test_a_lost_attempt_is_made_again_as_long_as_it_gets_further(tmp_path):
    ray = FakeRay()
    node, memory = ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError
    on = ("started", "n1")
    killed = ("end", End("killed by SIGKILL", died=True))
    ray.scripts = {
        # Six losses, but never three in a row without getting further.
        "far": [[on, at(0.1), node], [on, at(0.1), node], [on, at(0.5), memory], [on, killed], [on, at(0.6), Lost],
                [node], [on, ("end", End(None))]],
        "stuck": [[on, at(0.3), node], [on, at(0.3), killed], [on, at(0.2), node]],
        "wrong": [[on, ("end", End("strategy failed: no"))]],
        "apart": [[on, ("end", End(None))]],
        "broken": [[ray.exceptions.RayTaskError]],
    }  # fmt: skip
    diary = Diary()
    cells = [fake_cell(tmp_path, name, recorded=name == "far") for name in ray.scripts]
    fake_cluster(ray).run(cells, diary)
    ended = {line[1]: line[2] for line in diary.lines if line[0] == "ended"}
    assert ended["far"] is None
    assert ended["stuck"] == "node n1 was lost, 3 times without getting further; the same command goes on"
    assert ended["wrong"] == "strategy failed: no"
    assert "its record is not in" in ended["apart"]
    assert ended["broken"] == "on node : RayTaskError"
    assert [line[2] for line in diary.lines if line[:2] == ("lost", "far")] == [
        *("node n1 was lost",) * 2,
        "node n1 ran out of memory",
        "killed by SIGKILL on node n1",
        "its worker on node n1 was lost (Lost)",
        "node n1 was lost",
    ]
    assert not ray.cancelled
    assert all((tmp_path / name).is_dir() for name in ray.scripts), "nodes look for these to know shared storage"


def test_an_interrupted_matrix_cancels_what_is_under_way(tmp_path):
    ray = FakeRay(a=[[("started", "n1"), KeyboardInterrupt]], b=[[("started", "n1"), ("alive", None)]], c=[])
    with pytest.raises(KeyboardInterrupt):
        fake_cluster(ray, jobs=2).run([fake_cell(tmp_path, name) for name in "abc"], Diary())
    assert len(ray.cancelled) == 2


@pytest.mark.parametrize(
    ("cpus", "gpus", "jobs", "width", "said"),
    [
        (1, 0.0, None, 11, "11 at a time on 2 Ray nodes, 1 CPU each"),
        (2, 0.0, 3, 3, "3 at a time on 2 Ray nodes, 2 CPUs each"),
        (1, 1.0, None, 2, "2 at a time on 1 Ray node, 1 CPU and 1 GPU each"),
        (1, 0.1, None, 8, "8 at a time on 1 Ray node, 1 CPU and 0.1 GPU each"),
        (1, 4.0, None, 0, "none at a time yet (no node of the Ray cluster has 1 CPU and 4 GPU)"),
    ],
)
def test_the_room_of_a_cluster(cpus, gpus, jobs, width, said):
    made = fake_cluster(FakeRay(), jobs, cpus, gpus)
    assert (made.width, made.capacity) == (width, said)


def test_a_node_unlike_the_planning_one_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    here = cluster.Surroundings.here(2, 0.0)
    assert here.environment["HARNESS_THREADS"] == os.environ.get("HARNESS_THREADS", "2")
    assert here.environment["CUDA_VISIBLE_DEVICES"] == ""
    job = Job(Request(runs=Path("runs")), "abc")
    other = cluster.Surroundings("0.0.0", here.folder, None, {})
    gone = cluster.Surroundings(here.version, str(tmp_path / "gone"), None, {})
    for given, said in [
        (other, "and the matrix was planned by 0.0.0"),
        (gone, "No such file or directory; it must be on every node"),
        (here, "folder 'runs/abc' is not there: --runs must be on storage that all nodes share"),
    ]:
        (kind, _), (last, end) = cluster.attempt(job, given)
        assert (kind, last, end.died) == ("started", "end", False)
        assert end.error.startswith("on node ")
        assert said in end.error


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "expected HOST:PORT of a cluster that this machine is a node of"),
        ("head", "expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379"),
        ("127.0.0.1:1", "no cluster answers there (Connection refused)"),
    ],
)
def test_a_wrong_address_is_refused_at_once(address, said):
    made = fake_cluster(FakeRay())
    made.address = address
    with pytest.raises(HarnessError) as found:
        made._connect()
    assert said in str(found.value)
    assert found.value.exit_code == 2


def test_pages_of_rays_threads_do_not_reach_the_terminal():
    sink = io.StringIO()
    stream = cluster._WithoutRay(sink)
    loud = threading.Thread(target=stream.write, args=("(raylet) page",), name="ray_listen_error_messages")
    loud.start()
    loud.join()
    stream.write("line")
    assert sink.getvalue() == "line"


def test_a_lost_cell_waits_again_on_the_board(tmp_path):
    plan = SimpleNamespace(identity=SimpleNamespace(budget=SimpleNamespace(flops=10)))
    row, request = ("s", "m", "full", "e", 1.0), SimpleNamespace(seed=0)
    cell = SimpleNamespace(id="a", request=request, state="missing", row=row, plan=plan)
    out = io.StringIO()
    with matrix_view.Board([cell], Console(file=out, width=200)) as board:  # type: ignore[list-item]
        board.started(cell, "n1")
        board.lost(cell, "node n1 was lost")
        assert (board.states, board.running) == ({"a": "missing"}, {})
        board.started(cell, "n2")
        board.ended(cell, None)
    lines = out.getvalue().splitlines()
    assert "started (a on n1)" in lines[0]
    assert lines[1].endswith("node n1 was lost; it will go on from its last snapshot")
    assert lines[-1].endswith("1 of 1 done")


HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_waited_for_and_a_dead_process_leaves_none(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        with pytest.raises(RunFailed, match="another process is working on run"), rundir.locked(tmp_path):
            pass
        threading.Timer(0.3, holder.kill).start()
        with rundir.locked(tmp_path, 60):
            assert holder.wait() == -signal.SIGKILL


def test_storage_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(HarnessError, match=r"has no file locks \(No locks available\)"),
        rundir.locked(tmp_path / "x", 60),
    ):
        pass


# --- with Ray


@pytest.fixture
def nodes(monkeypatch):
    """A Ray cluster on this machine: a head and a second node, one CPU each."""
    for name, value in {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "HARNESS_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    soon = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    made = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False, "_system_config": soon})
    second = made.add_node(**small)
    (raylet,) = second.all_processes["raylet"]
    yield SimpleNamespace(
        address=made.address,
        second=raylet.process.pid,
        kill=lambda: made.remove_node(second, allow_graceful=False),
    )
    made.shutdown()


@pytest.mark.slow
def test_a_killed_node_costs_no_cell_and_changes_none(nodes, write, tmp_path, capsys):
    flag = tmp_path / "flag"
    waits = f"while not Path({str(flag)!r}).exists(): time.sleep(0.05)"
    (tmp_path / "waits.py").write_text(STRATEGY.format(body=waits))
    path = write("waits.py", {"name": "msft", "options": {"C": 0.5}, "seeds": 2}, seeds="0-2")
    ray = ("matrix", path, "--yes", "--executor", "ray")
    cells = matrix.build(path, {}, Request(runs=tmp_path / "runs")).cells
    locks = [c.plan.folder / "lock" for c in cells if Path(c.request.strategy).name == "waits.py"]
    assert len(locks) == 3

    def under_way(process, look):
        """Two cells, whichever of those that wait Ray has begun."""
        try:
            return until(look, 2)
        except AssertionError as error:
            process.send_signal(signal.SIGINT)
            raise AssertionError(process.communicate(timeout=900)[1]) from error

    # Interrupted: the cells end, and can go on.
    process = start(tmp_path, *ray, RAY_ADDRESS=nodes.address)
    journals = [lock.with_name("journal.jsonl") for lock in locks]
    under_way(process, lambda: [p for p in journals if p.exists() and p.stat().st_size])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 1
    assert "2 at a time on 2 Ray nodes, 1 CPU each" in err
    assert "GPU-hours at MFU 0.4" in err
    assert err.splitlines()[-1] == "harness: interrupted; run the same command to go on"
    assert "Traceback" not in err
    assert not any(map(holder, locks)), "nothing is left running"

    # One of two nodes dies. Its cell hangs on to its lock, as a file server lets a dead machine do until a lease is over.
    process = start(tmp_path, *ray, RAY_ADDRESS=nodes.address)
    under_way(process, lambda: [lock for lock in locks if holder(lock)])
    (orphan,) = [pid for pid in filter(None, map(holder, locks)) if nodes.second in ancestors(pid)]
    os.killpg(orphan, signal.SIGSTOP)
    nodes.kill()
    early = read_until(process.stderr, "was lost; it will go on from its last snapshot")
    flag.touch()
    early += read_until(process.stderr, early[-1].split(": ")[1] + ": started")
    assert holder(next(lock for lock in locks if holder(lock) == orphan)) == orphan
    os.killpg(orphan, signal.SIGKILL)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    err = "".join(early) + err
    assert re.search(r"4 runs: (2 to go on, 2|1 done, 2 to go on, 1) to start", err), (
        "in whatever order Ray begins them"
    )
    assert err.count("was lost") == 1
    assert "raylet" not in err
    assert "waits" in out

    # Nothing is left to do, and what was done is what one machine does.
    Campaign(path, runs=tmp_path / "runs", executor="ray", ray_address="127.0.0.1:1").go()
    assert "4 runs: 4 done" in capsys.readouterr().err
    calm = go(tmp_path, "matrix", path, "--yes", "--runs", "calm", "--jobs", "2")
    assert calm.returncode == 0, calm.stderr
    assert len(by_id(tmp_path / "calm")) == 4
    assert by_id(tmp_path / "runs") == by_id(tmp_path / "calm")
    assert all((p.parent / "log.txt").exists() for p in tmp_path.glob("runs/*/record.json"))
    assert [c.state for c in matrix.build(path, {}, Request(runs=tmp_path / "runs")).cells] == ["done"] * 4


def read_until(stream, text):
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def holder(lock):
    """The process that holds a lock, None if nobody does."""
    time.sleep(0.1)
    if not lock.exists():
        return None
    inode = lock.stat().st_ino
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    return next((int(words[4]) for words in held if words[5].endswith(f":{inode}")), None)


def ancestors(pid):
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found
