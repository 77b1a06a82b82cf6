"""Several ranks do as one process: data, ledger and decisions the same, numbers to rounding; a lost rank ends all."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness import ranks
from harness.errors import HarnessError
from harness.journal import near
from harness.rendezvous import fresh
from tests.conftest import ROOT
from tests.spmd import Ranks
from tests.test_replay import FILE

PLOTS = {
    "lens": """
        def objective(t):
            assert len(t.task) == len(t) and t.reference(base).shape == t.nll.shape
            return t.p.sqrt() * t.nll + 0.1 * (t.logits.softmax(-1) * t.reference_logits(base).log_softmax(-1)).sum(-1).abs()

        def weigh(batch):
            seen = batch.state["seen"] if "seen" in batch.state else np.zeros(3)
            batch.state["seen"] = seen + [len(batch), float(batch.nll.sum()), float(batch.rng.random())]
            batch.table["heard"] = np.nan_to_num(batch.table["heard"]) + batch.nll
            return 1 / (1 + batch.nll)

        base = lab.checkpoint()
        with lab.fork("probe", start="now") as child:
            child.train(child.uniform(), "1 step", keep="none")
        given = dict(objective=objective, example_weights=weigh, references=[base], reference_logits=[base])
        h = lab.train(lab.proportional(), "9 step", eval_every="4 step", metric="loss", keep="best", **given)
        lab.log("seen", lab.state["seen"])
        lab.log("heard", lab.examples.get("heard", lab.sample("copy", 5)))
        lab.log("best", [h.best().step, h.best().value])
        lab.rollback(h.best().checkpoint)
        lab.train(lab.only("copy"), "1 step", example_weights=weigh)
    """,
    "selector": """
        def select(pool):
            order = np.argsort(pool.nll, kind="stable")[-pool.batch :]
            gram = pool.gradients(modules="last:1").gram()
            pool.log(f"gram{len(pool)}", float(gram.trace()))
            return Selection(order, 1 + pool.rng.random(pool.batch))

        start = lab.checkpoint()
        lab.train(lab.uniform(), "6 step", pool=3, select=select)
        some = lab.sample("next", 4)
        lab.log("said", [g.text for g in lab.generate(some, max_new_tokens=5, n=2, temperature=1.0)])
        lab.log("before", [float(a.sum()) for a in lab.logprobs(some, at=start)])
        lab.log("most", [d.ids[:, 0].tolist() for d in lab.distributions(some, top_k=2)])
        lab.log("rows", lab.gradients(some, modules="last:1").rows(project=2))
        lab.log("answers", {t: s.value for t, s in lab.validate(metric="generate", n=3).items()})
        with lab.fork("proxy", budget="0.2 budget") as child:
            child.train(child.uniform(), eval_every="5 step", metric="loss")
            kept = child.checkpoint()
        lab.rollback(kept)
        lab.train(lab.temperature(tau=0.5))
    """,
}
CUT = {"HARNESS_FSDP": "1"}
MSFT = ["--strategy", "msft", "-o", "C=0.5", "--budget", "1.5"]


@pytest.fixture(scope="module")
def world():
    server = Ranks()
    yield server
    server.close()


@pytest.fixture(scope="module")
def runs(world, toy, tiny, tmp_path_factory):
    """A run of these arguments on so many ranks; the same one is not run twice."""
    made = {}

    def run(*args, ranks=1, folder=None, **env):
        key = (args, ranks, folder, *sorted(env.items()))
        if key not in made:
            runs = folder or tmp_path_factory.mktemp("runs")
            made[key] = world.run(["--suite", toy, "--model", tiny, "--runs", runs, *args], ranks, **env)
        return made[key]

    return run


@pytest.fixture
def plot(tmp_path_factory):
    def write(name):
        path = tmp_path_factory.getbasetemp() / f"{name}.py"
        head = "import numpy as np\nfrom harness.api import Lab, Selection"
        path.write_text(FILE.format(body=PLOTS[name].strip("\n")).replace("from harness.api import Lab", head))
        return ["--strategy", path, "--budget", "2"]

    return write


def close(one, other, tolerance):
    """Whether two values of JSON differ in nothing but the rounding of floats."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=tolerance, abs=tolerance)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(v, other[k], tolerance) for k, v in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(close(a, b, tolerance) for a, b in zip(one, other, strict=True))
    return one == other


def same(one, other, tolerance):
    """The same run but for the number of ranks: identity, ledger, mixture and decisions; curves to the tolerance."""
    a, b = one["record"], other["record"]
    assert one["status"] == [0] * len(one["status"]), one["stderr"]
    assert other["status"] == [0] * len(other["status"]), other["stderr"]
    assert (a["id"], a["identity"], a["status"]) == (b["id"], b["identity"], b["status"])
    for phase, row in a["ledger"].items():
        for column in ("model_flops", "tokens"):
            assert b["ledger"][phase][column] == row[column], (phase, column)
    assert a["mixture"] == b["mixture"]
    for what in ("curves", "events"):
        apart = [x for x in zip(a[what], b[what], strict=True) if not close(*x, tolerance)]
        assert not apart, apart
    return True


def weights(done):
    return load_file(done["folder"] / "final" / "model.safetensors")


@pytest.mark.parametrize("env", [{}, CUT], ids=["replicas", "fsdp2"])
def test_two_ranks_train_as_one_process_does(runs, env):
    one, two = runs(), runs(ranks=2, **env)
    assert same(one, two, 1e-5)
    assert one["record"]["environment"]["ranks"] is None
    assert two["record"]["environment"]["ranks"] == 2
    assert max(float((w - weights(two)[n]).abs().max()) for n, w in weights(one).items()) < 1e-4
    assert two["stdout"].count("record.json") == 1


@pytest.mark.parametrize("env", [{}, CUT], ids=["replicas", "fsdp2"])
@pytest.mark.parametrize("name", PLOTS)
def test_callbacks_looks_and_forks(runs, plot, name, env):
    assert same(runs(*plot(name)), runs(*plot(name), ranks=2, **env), 2e-3)


def test_more_ranks_than_examples_of_a_batch(runs, plot):
    assert same(runs(*plot("lens")), runs(*plot("lens"), ranks=5), 2e-3)


@pytest.mark.parametrize("env", [{}, CUT], ids=["replicas", "fsdp2"])
def test_msft_takes_the_same_decisions(runs, env):
    assert same(runs(*MSFT), runs(*MSFT, ranks=2, **env), 1e-2)


def test_lora(runs):
    asked = ["--mode", "lora", "--budget", "0.5"]
    # Adapters begin with gradients near 0, of which AdamW makes full steps: rounding shows sooner.
    assert same(runs(*asked), runs(*asked, ranks=2), 1e-3)
    assert same(runs(*asked), runs(*asked, ranks=2, **CUT), 1e-3)


@pytest.mark.parametrize(
    ("first", "struck", "then"),
    [((2, {}), 1, (1, {})), ((2, CUT), 0, (2, {})), ((1, {}), 0, (2, CUT))],
    ids=["2 to 1", "cut to whole", "1 to 2"],
)
def test_a_killed_run_goes_on_with_another_number_of_ranks(runs, tmp_path, first, struck, then):
    fault = {"HARNESS_FAULT": "kill@step:30", "HARNESS_FAULT_RANK": str(struck), "HARNESS_SNAPSHOT_SECONDS": "0"}
    killed = runs(*MSFT, ranks=first[0], folder=tmp_path, **first[1], **fault)
    assert killed["record"] is None
    assert killed["status"][struck] == -9
    if first[0] > 1:
        assert killed["status"][1 - struck] == 1
        (said,) = [line for line in killed["stderr"].splitlines() if "another rank" in line]
        assert said.startswith("harness: " + "rank 1: " * (struck == 0))
        assert "the same command, with any number of ranks, goes on" in said
    done = runs(*MSFT, ranks=then[0], folder=tmp_path, **then[1])
    assert "goes on after" in done["stderr"]
    assert same(runs(*MSFT), done, 1e-2)


def test_an_option_that_the_plot_refuses_begins_no_run_and_is_said_once(runs, tmp_path):
    done = runs("--strategy", "msft", "-o", "C=0", ranks=2, folder=tmp_path / "runs")
    assert done["status"] == [2, 2]
    (line,) = [line for line in done["stderr"].splitlines() if line.startswith("harness: ")]
    assert line.startswith("harness: option C='0' of msft: length '0.0 epoch': expected a positive")
    assert not (tmp_path / "runs").exists()


def test_apart_a_rank_waits_for_nobody_and_comes_back(monkeypatch):
    monkeypatch.setattr(ranks, "_world", ranks._World(0, 3))
    with ranks.apart():
        assert (ranks.count(), ranks.gather("mine"), ranks.first("mine")) == (1, ["mine"], "mine")
    with pytest.raises(HarnessError), ranks.apart():
        raise HarnessError
    assert ranks.count() == 3


def test_what_all_ranks_find_wrong_is_said_once(runs, tmp_path):
    path = tmp_path / "bad.py"
    body = "        lab.train(lab.uniform(), objective=lambda t: t.nll.detach())"
    path.write_text(FILE.format(body=body))
    done = runs("--strategy", path, ranks=2)
    assert done["status"] == [1, 1]
    assert done["stderr"].count("without a gradient") == 1


def test_ranks_that_part_ways_are_stopped(runs, tmp_path):
    path = tmp_path / "apart.py"
    body = "        import os\n        lab.train(lab.uniform(), f\"{1 + int(os.environ['RANK'])} step\")"
    path.write_text(FILE.format(body=body))
    done = runs("--strategy", path, ranks=2)
    assert done["status"] == [1, 1]
    assert done["stderr"].count("all ranks do the same") == 1


def test_a_share_is_even_and_whole():
    costs = [7, 1, 1, 9, 3, 3, 2]
    old = ranks._world
    try:
        parts = []
        for rank in range(3):
            ranks._world = ranks._World(rank, 3)
            parts.append(ranks.share(costs))
    finally:
        ranks._world = old
    assert sorted(i for part in parts for i in part) == list(range(7))
    assert max(sum(costs[i] for i in part) for part in parts) == 9
    assert ranks.share(costs) == list(range(7))


def test_one_process_gets_back_what_it_gave():
    value, tensor = object(), torch.ones(2)
    assert ranks.first(value) is value
    assert ranks.total(tensor) is tensor
    assert ranks.gather(3) == [3]
    assert (ranks.main(), ranks.count(), ranks.sharded()) == (True, 1, False)


def test_gloo_takes_the_interfaces_that_are_asked_for(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,lo")
    group = ranks._gloo(torch.distributed.HashStore(), 0, 1, timedelta(seconds=9))
    assert len(group.options._devices) == 2
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")
    with pytest.raises(RuntimeError, match="none0"):
        ranks._gloo(torch.distributed.HashStore(), 0, 1, timedelta(seconds=9))


def test_gloo_works_in_one_thread():
    """Two of them free the same string now and then (torch 2.13): one run in some tens died of it."""
    group = ranks._gloo(torch.distributed.HashStore(), 0, 1, timedelta(seconds=9))
    assert group.options._threads == 1
    assert group.options._timeout == timedelta(seconds=9)


def test_half_a_launcher_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(HarnessError, match=r"WORLD_SIZE=2 without RANK, .*torchrun"), ranks.together():
        pass


def test_more_ranks_than_gpus_is_one_line(monkeypatch):
    for name, value in zip(ranks.VARIABLES, ("1", "2", "1", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HARNESS_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(HarnessError, match=r"LOCAL_RANK=1, but this process sees 1 GPUs"), ranks.together():
        pass


@pytest.mark.slow
def test_torchrun_begins_again_after_a_lost_rank(toy, tiny, tmp_path):
    """The launcher itself, with one restart: the first time rank 1 is killed, the second time the run ends."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HARNESS_FAULT": "kill@step:30", "HARNESS_FAULT_RANK": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    asked = ["run", "--suite", toy, "--model", tiny, "--runs", tmp_path]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.spmd", *map(str, asked)],
        env=env | {"HARNESS_SNAPSHOT_SECONDS": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "goes on after" in done.stderr
    made = json.loads(Path(done.stdout.split()[-1]).read_text())
    assert made["environment"]["ranks"] == 2
    assert made["status"] in ("finished", "budget")


def test_results_that_differ_by_rounding_only():
    had = {"looks": [[0, 0.5, {"a": 1.0}, None]], "cut": False}
    assert near(had, {"looks": [[0, 0.5, {"a": 1.0005}, None]], "cut": False})
    assert not near(had, {"looks": [[0, 0.5, {"a": 1.01}, None]], "cut": False})
    assert not near(had, {"looks": [[1, 0.5, {"a": 1.0}, None]], "cut": False})
    assert not near(had, {"looks": [[0, 0.5, {"a": 1.0}, None]], "cut": True})


def test_ranks_of_an_attempt_meet_where_the_dead_have_left_word():
    """One store through three attempts, as torchrun keeps it: what was asked and answered before is still there."""
    from torch.distributed import TCPStore

    limit = timedelta(seconds=60)
    master = TCPStore("127.0.0.1", 0, None, True, limit, wait_for_workers=False)

    def client():
        return TCPStore("127.0.0.1", master.port, None, False, limit)

    def meet(rank, size):
        part = fresh(client(), rank, size, limit)
        part.set(f"here {rank}", str(attempt))
        part.wait([f"here {r}" for r in range(size)], limit)
        return [part.get(f"here {r}").decode() for r in range(size)]

    for attempt, size in enumerate((3, 3, 2)):
        master.set("asked 1", f"1-{attempt}-long gone")
        with ThreadPoolExecutor(size) as pool:
            found = list(pool.map(meet, range(size), [size] * size))
        assert found == [[str(attempt)] * size] * size


def test_a_rank_that_does_not_come_is_one_line():
    from torch.distributed import HashStore

    with pytest.raises(HarnessError, match=r"ranks that did not come within 0\.1 s: 1, 2"):
        fresh(HashStore(), 0, 3, timedelta(seconds=0.1))
