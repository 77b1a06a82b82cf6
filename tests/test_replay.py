"""Kill a run anywhere, run the same command again: the same record (times aside) and weights as an undisturbed run."""

import json
import os
import random
import resource
import subprocess
import sys

import pytest

from tests.forks import comparable, damage

PLOTS = {
    "msft": None,
    "wander": """
        for _ in range(3):
            h = lab.train(lab.uniform(), "0.5 epoch", eval_every="2 step", keep="best")
            here = lab.checkpoint()
            lab.log("seen", {"spent": lab.budget.spent, "value": h.best().value, "draw": float(lab.rng.random())})
            lab.train(lab.just(lab.sample("flip", 3)), "2 step")
            if lab.validate(metric="loss", n=3)["flip"].value < lab.validate(metric="loss", n=3, at=here)["flip"].value:
                lab.rollback(here)
            lab.answer(here)
        lab.train(lab.temperature(tau=0.5))
    """,
    "proxies": """
        proxies = {}
        for task in lab.tasks:
            with lab.fork("proxy", budget="0.15 budget") as child:
                h = child.train(child.only(task), eval_every="3 step", keep="best", metric="loss")
                with child.fork("probe", start="now") as inner:
                    inner.train(inner.uniform(), "1 step")
                    child_value = inner.validate(n=2)
                proxies[task] = child.checkpoint()
        lab.log("seen", {t: lab.validate([t], metric="loss", at=c)[t].value for t, c in proxies.items()})
        lab.train(lab.proportional())
    """,
    "probe": """
        mixture = lab.proportional()
        for _ in range(4):
            lab.train(mixture, "4 step", keep="none")
            batch = lab.draw(mixture)
            before = lab.validate(metric="loss", n=3)
            with lab.fork("probe", start="now") as child:
                child.train(child.just(batch), "1 step", keep="none")
                after = child.validate(metric="loss", n=3)
            gain = {t: after[t].value - before[t].value for t in lab.tasks}
            mixture = lab.mixture({t: 1.0 + max(0.0, g) for t, g in gain.items()})
        with lab.fork("proxy") as child:
            child.train(child.uniform())
    """,
}
FILE = '''"""A test's plot."""
from dataclasses import dataclass
from harness.api import Lab

@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
{body}
'''


def plot_file(tmp_path, name):
    if PLOTS[name] is None:
        return name
    path = tmp_path / f"{name}.py"
    path.write_text(FILE.format(body=PLOTS[name].strip("\n")))
    return path


def request(toy, tiny, runs, strategy):
    options = {"C": "0.5"} if strategy == "msft" else {}
    return {"strategy": strategy, "suite": toy, "model": tiny, "runs": runs, "budget": 1.5, "options": options}


@pytest.fixture(scope="module")
def undisturbed(forks, toy, tiny, tmp_path_factory):
    found = {}
    for name in PLOTS:
        folder = tmp_path_factory.mktemp(f"calm-{name}")
        done = forks.run(request(toy, tiny, folder, plot_file(folder, name)), HARNESS_SNAPSHOT_SECONDS="1000")
        assert done["status"] == 0, done
        found[name] = comparable(done["record"])
    return found


PLACES = [("step", 60), ("verb", 12), ("between", 12), ("snapshot", 60), ("score", 1), ("scoring", 1), ("record", 1)]


def kills(name, n, seed):
    """n places to be killed at: each kind once, the rest drawn."""
    rng = random.Random(f"{name}{seed}")
    fixed = [f"{place}:{rng.randint(1, top)}" for place, top in PLACES]
    return (fixed + [f"step:{rng.randint(1, 60)}" for _ in range(n)])[:n]


def kill_and_go_on(forks, undisturbed, toy, tiny, tmp_path, name, n, seconds):
    """Kill at n places, each in a run of its own; returns how many of the kills struck."""
    strategy, struck = plot_file(tmp_path, name), 0
    for k, place in enumerate(kills(name, n, seconds)):
        asked = request(toy, tiny, tmp_path / str(k), strategy)
        first = forks.run(asked, HARNESS_FAULT=f"kill@{place}", HARNESS_SNAPSHOT_SECONDS=seconds)
        struck += first["status"] == -9
        again = forks.run(asked, HARNESS_SNAPSHOT_SECONDS=seconds)
        assert again["status"] == 0, (place, again)
        assert comparable(again["record"]) == undisturbed[name], place
    return struck


@pytest.mark.parametrize("name", PLOTS)
def test_a_killed_run_ends_in_the_record_of_an_undisturbed_one(forks, undisturbed, toy, tiny, tmp_path, name):
    assert kill_and_go_on(forks, undisturbed, toy, tiny, tmp_path, name, 8, "0") >= 5


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["0", "0.2"])
@pytest.mark.parametrize("name", PLOTS)
def test_killed_at_twenty_places(forks, undisturbed, toy, tiny, tmp_path, name, seconds):
    assert kill_and_go_on(forks, undisturbed, toy, tiny, tmp_path, name, 20, seconds) >= 8


def test_killed_again_and_again_it_still_gets_there(forks, undisturbed, toy, tiny, tmp_path):
    asked = request(toy, tiny, tmp_path, "msft")
    kills = 0
    while (done := forks.run(asked, HARNESS_FAULT="kill@step:7", HARNESS_SNAPSHOT_SECONDS="0"))["status"] != 0:
        assert done["status"] == -9, done
        kills += 1
        assert kills < 40
    assert kills > 3
    assert comparable(done["record"]) == undisturbed["msft"]


def test_going_on_computes_only_what_is_missing(forks, toy, tiny, tmp_path):
    asked = request(toy, tiny, tmp_path, "msft")
    forks.run(asked, HARNESS_FAULT="kill@score", HARNESS_SNAPSHOT_SECONDS="0")
    done = forks.run(asked, HARNESS_FAULT="kill@step:1")  # not one step is taken again
    assert done["status"] == 0
    assert "goes on after" in done["said"][0]


@pytest.mark.parametrize("how", ["truncate", "flip"])
@pytest.mark.parametrize(
    "what",
    [
        "journal.jsonl",
        "ledger.jsonl",
        "snapshot/pointer.json",
        "snapshot/*/model*.safetensors",
        "snapshot/*/state.json",
    ],
)
def test_damage_is_detected_said_and_computed_again(forks, undisturbed, toy, tiny, tmp_path, what, how):
    asked = request(toy, tiny, tmp_path, "msft")
    assert forks.run(asked, HARNESS_FAULT="kill@step:23", HARNESS_SNAPSHOT_SECONDS="0")["status"] == -9
    (path,) = tmp_path.glob(f"*/{what}")
    damage(path, how, random.Random(how + what))
    done = forks.run(asked)
    assert done["status"] == 0, done
    assert len(done["said"]) >= 1
    assert comparable(done["record"]) == undisturbed["msft"]


def test_a_snapshot_of_another_version_is_neither_misread_nor_thrown_away(forks, undisturbed, toy, tiny, tmp_path):
    asked = request(toy, tiny, tmp_path, "msft")
    assert forks.run(asked, HARNESS_FAULT="kill@step:23", HARNESS_SNAPSHOT_SECONDS="0")["status"] == -9
    (path,) = tmp_path.glob("*/snapshot/pointer.json")
    written = path.read_text()
    pointer = json.loads(written)
    del pointer["layout"]
    path.write_text(json.dumps(pointer))
    refused = forks.run(asked)
    assert refused["status"] != 0
    assert "begun by a version of harness whose snapshots this one cannot read" in refused["error"]
    assert "--force" in refused["error"]
    path.write_text(written)
    done = forks.run(asked)
    assert "goes on after" in done["said"][0]
    assert comparable(done["record"]) == undisturbed["msft"]


@pytest.mark.parametrize("how", ["truncate", "flip", "gone"])
def test_a_damaged_checkpoint_is_never_trained_from(forks, undisturbed, toy, tiny, tmp_path, how):
    asked = request(toy, tiny, tmp_path, "msft")
    assert forks.run(asked, HARNESS_FAULT="kill@step:40", HARNESS_SNAPSHOT_SECONDS="0")["status"] == -9
    paths = sorted(tmp_path.glob("*/checkpoints/*/model.safetensors"))
    assert paths
    for path in paths:
        if how == "gone":
            path.unlink()
        else:
            damage(path, how, random.Random(1))
    done = forks.run(asked)
    assert done["status"] == 0, done
    assert comparable(done["record"]) == undisturbed["msft"]


def test_a_strategy_that_replays_differently_is_stopped(forks, toy, tiny, tmp_path):
    flag = tmp_path / "flag"
    body = f"""
        import os
        name = "2 step" if os.path.exists({str(flag)!r}) else "3 step"
        lab.train(lab.uniform(), name)
        lab.train(lab.uniform())
    """
    path = tmp_path / "fickle.py"
    path.write_text(FILE.format(body=body.strip("\n")))
    asked = request(toy, tiny, tmp_path / "runs", path)
    assert forks.run(asked, HARNESS_FAULT="kill@step:9", HARNESS_SNAPSHOT_SECONDS="0")["status"] == -9
    flag.touch()
    done = forks.run(asked)
    assert done["status"] == 1
    said = "verb 0 was train and is train on replay with other arguments"
    assert f"NonDeterministicStrategy: strategy fickle: {said}" in done["error"]


@pytest.mark.parametrize("place", ["verb:3", "between:4", "snapshot:5", "step:7", "score:1", "record:1"])
def test_a_full_disk_stops_with_a_line_and_the_run_goes_on(forks, undisturbed, toy, tiny, tmp_path, place):
    asked = request(toy, tiny, tmp_path, plot_file(tmp_path, "wander"))
    stopped = forks.run(asked, HARNESS_FAULT=f"full@{place}")
    assert stopped["status"] == 1
    assert (
        stopped["error"]
        == f"RunFailed: the disk below {str(tmp_path)!r} is full; free some, and the same command goes on"
    )
    again = forks.run(asked)
    assert again["status"] == 0
    assert comparable(again["record"]) == undisturbed["wander"]


def test_a_limit_on_files_that_the_system_sets_is_a_full_disk(toy, tiny, tmp_path):
    """Weights do not fit: the kernel refuses the write, and safetensors says so in its own words."""
    asked = f"run --suite {toy} --model {tiny} --runs {tmp_path} --budget 0.2x".split()
    weights = (tiny / "model.safetensors").stat().st_size
    done = subprocess.run(
        [sys.executable, "-m", "harness", *asked],
        env=os.environ | {"HARNESS_SNAPSHOT_SECONDS": "0"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (weights // 2, weights // 2)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "is full; free some, and the same command goes on" in done.stderr.splitlines()[-1]


def test_a_second_process_on_a_run_directory_is_refused(forks, toy, tiny, tmp_path):
    from harness.request import Request, prepare
    from harness.rundir import locked

    asked = request(toy, tiny, tmp_path, "proportional")
    plan = prepare(Request(suite=str(toy), model=str(tiny), runs=tmp_path, budget=1.5))
    with locked(plan.folder):
        done = forks.run(asked)
    assert "another process is working on run" in done["error"]
    assert forks.run(asked)["status"] == 0


def test_who_has_waited_for_another_process_takes_the_record_that_it_left(forks, toy, tiny, tmp_path):
    from harness.request import Request, prepare
    from harness.run import execute

    done = forks.run(request(toy, tiny, tmp_path, "proportional"))
    plan = prepare(Request(suite=str(toy), model=str(tiny), runs=tmp_path, budget=1.5))
    before = os.stat(done["record"])
    assert str(execute(plan, patience=1.0)) == done["record"]
    after = os.stat(done["record"])  # read, and not written again
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
