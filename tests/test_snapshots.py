"""What going back costs: bytes held, written and copied - not seconds, which benchmarks/rollback.py measures."""

from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

from harness import checkpoint
from harness.checkpoint import host_copy, n_bytes
from harness.errors import BudgetExhausted, RunFailed
from strategies.msft import MSFT
from tests.labs import make_lab

BESIDE = (
    0.25  # of the weights' bytes: what a snapshot holds beside them on the toy suite (a few columns and a manifest)
)


@pytest.fixture
def run(tmp_path, toy, tiny, monkeypatch):
    """mSFT to its end on the toy suite, with what its checkpoints were and what each rollback copied."""
    lab, core, engine, plan = make_lab(tmp_path, toy, tiny, budget=6)
    weights = n_bytes(engine.weights())
    saved, disk, copied, events = [], [], [], []
    save, restore = core.store.save, core.restore

    def saving(name, groups, state):
        save(name, groups, state)
        core.store.flush()  # a snapshot at every checkpoint is what takes most disk
        saved.append({group: n_bytes(tensors) for group, tensors in groups.items()})
        disk.append((len(core.store.names()), sum(f.stat().st_size for f in core.store.folder.rglob("*.safetensors"))))

    def restoring(name, optimizer):
        before = len(copied)
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "load_file", lambda path: pytest.fail("read from disk"))
            restore(name, optimizer)
        events.append(sum(copied[before:]))

    def counting(tensors, load=engine.load_weights):
        copied.append(n_bytes(tensors))
        load(tensors)

    monkeypatch.setattr(core.store, "save", saving)
    monkeypatch.setattr(core, "restore", restoring)
    monkeypatch.setattr(engine, "load_weights", counting)
    monkeypatch.setattr(
        engine, "load_moments", lambda tensors: pytest.fail("mSFT's stages begin with a fresh optimizer")
    )
    with suppress(BudgetExhausted):
        MSFT(grid=0.5).run(lab)
    return weights, saved, disk, events, plan, core


def test_msft_keeps_one_snapshot_of_weights_alone_per_active_task(run):
    weights, saved, disk, _, plan, core = run
    tasks = len(plan.train)
    assert saved
    assert all(groups["model"] == weights and "optimizer" not in groups for groups in saved)
    assert max(n for n, _ in disk) <= tasks + 2
    assert max(sum(groups.values()) for groups in saved) <= (1 + BESIDE) * weights
    assert core.store.peak == max(n for n, _ in disk)


def test_disk_stays_within_its_bound(run):
    weights, _, disk, _, plan, _ = run
    assert max(size for _, size in disk) <= (len(plan.train) + 2) * (1 + BESIDE) * weights


def test_a_rollback_from_memory_moves_less_than_one_step_of_the_optimizer(run):
    """One copy of the weights, no file, no moments. A step reads weights, gradients and two moments and writes three of
    them back, and passes over the data beside: in one memory a rollback is below two steps whatever the model."""
    weights, _, _, events, _, core = run
    assert events
    assert set(events) == {weights}
    core.engine.step([i for items in core.train.values() for i in items][:4], 0.0)
    moments = n_bytes(core.engine.moments())
    step = (weights + weights + moments) + (weights + moments)
    assert 2 * weights < step  # a rollback reads and writes them


def test_copies_are_of_their_moment():
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones((), dtype=torch.bfloat16)}
    found = host_copy(tensors.items())
    tensors["a"].add_(1)
    assert torch.equal(found["a"], torch.arange(6.0).view(2, 3).T)
    assert found["b"].dtype == torch.bfloat16


def test_copies_still_on_their_way_are_waited_for_before_they_are_read(tmp_path, monkeypatch):
    """A checkpoint's tensors hold nothing when it is kept; they arrive when they are waited for, as off a GPU."""
    under_way = []

    def arrive():
        for tensor, value in under_way:
            tensor.fill_(value)
        under_way.clear()

    monkeypatch.setattr(checkpoint, "arrived", arrive)
    store = checkpoint.Store(tmp_path / "c")

    def keep(name, value):
        tensor = torch.zeros(3)
        under_way.append((tensor, value))
        store.save(name, {"model": {"w": tensor}}, {})
        assert under_way, "keeping a checkpoint does not wait"

    keep("1:1", 1.0)
    assert torch.equal(store.load("1:1")[0]["model"]["w"], torch.ones(3))
    keep("1:2", 2.0)
    store.flush()
    store.room = 0
    keep_at_once = torch.zeros(3)
    under_way.append((keep_at_once, 3.0))
    store.save("1:3", {"model": {"w": keep_at_once}}, {})
    for name, value in (("1:2", 2.0), ("1:3", 3.0)):
        written = load_file(store.path(name) / "model.safetensors")["w"]
        assert torch.equal(written, torch.full((3,), value))


def test_only_the_store_is_given_copies_that_are_still_on_their_way(tmp_path, toy, tiny, monkeypatch):
    lab, core, engine, _ = make_lab(tmp_path, toy, tiny, budget=6)
    lab.train(lab.mixture(dict.fromkeys(lab.tasks, 1.0)), "0.2 budget")
    waited = []

    def noting(whole):
        return lambda wait=True: waited.append(wait) or whole(wait)

    for name in ("weights", "moments"):
        monkeypatch.setattr(engine, name, noting(getattr(engine, name)))
    lab.checkpoint()
    kept, waited[:] = list(waited), []
    core.tensors()
    with lab.fork("proxy"):
        pass
    assert (kept, set(waited)) == ([False, False], {True})


def test_copies_of_a_run_on_the_cpu_leave_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: pytest.fail("a context is made, which takes memory"))
    assert torch.equal(host_copy([("a", torch.ones(3))])["a"], torch.ones(3))


def test_copies_that_do_not_fit_into_memory_come_from_disk(tmp_path):
    store = checkpoint.Store(tmp_path / "c")
    store.room = 100
    one, two = ({"model": {"w": torch.full((20,), float(x))}} for x in (1, 2))
    store.save("1:1", one, {})
    store.save("2:1", two, {})
    assert list(store._memory) == ["1:1"]
    assert float(store.load("2:1")[0]["model"]["w"][0]) == 2
    assert checkpoint.host_bytes() >= checkpoint.MEMORY_BYTES


def test_a_pinned_copy_takes_a_power_of_two_bytes_of_the_room(tmp_path, monkeypatch):
    """torch's host allocator rounds up: 80 bytes take 128, 64 take 64."""
    found = {"w": torch.zeros(20), "v": torch.zeros(16), "none": torch.zeros(0)}
    assert checkpoint.held_bytes(found) == 144
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
    assert checkpoint.held_bytes(found) == 192
    store = checkpoint.Store(tmp_path / "c")
    store.room = 191
    store.save("1:1", {"model": found}, {})
    assert list(store._memory) == []


def tensors(x):
    return {"model": {"w": torch.full((20,), float(x))}}


def files(store):
    return sorted(p.name for p in store.folder.iterdir())


def test_what_is_dropped_before_a_snapshot_never_reaches_the_disk(tmp_path):
    store = checkpoint.Store(tmp_path / "c")
    store.save("1:1", tensors(1), {"x": 1})
    store.save("1:2", tensors(2), {"x": 2})
    store.drop("1:1")
    assert files(store) == []
    assert store.names() == ["1:2"]
    assert "1:2" in store
    assert "1:1" not in store
    assert [store.holds("1:2", group) for group in ("model", "optimizer")] == [True, False]
    assert store.peak == 2
    store.flush()
    assert files(store) == ["1-2"]
    assert checkpoint.intact(store.path("1:2"))["state"] == {"x": 2}


def test_what_a_snapshot_knows_stays_until_the_next_one(tmp_path):
    store = checkpoint.Store(tmp_path / "c")
    store.save("1:1", tensors(1), {})
    store.flush()
    store.settle()
    store.drop("1:1")
    assert "1:1" not in store
    assert files(store) == ["1-1"]
    store.save("1:1", tensors(7), {})  # the same name again, before anything settled
    assert store.names() == ["1:1"]
    assert checkpoint.intact(store.path("1:1"))
    assert float(store.load("1:1")[0]["model"]["w"][0]) == 7
    store.drop("1:1")
    assert files(store) == ["1-1"]
    store.save("1:1", tensors(8), {})
    store.flush()
    store.settle()
    again = checkpoint.Store(tmp_path / "c", resume=True)
    again.resume({"1:1"})
    assert float(again.load("1:1")[0]["model"]["w"][0]) == 8
    store.drop("1:1")
    store.flush()
    store.settle()
    assert files(store) == []


def test_more_checkpoints_than_the_limit_are_refused_wherever_they_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LIMIT", 2)
    store = checkpoint.Store(tmp_path / "c")
    for name in ("1:1", "1:2"):
        store.save(name, tensors(1), {})
    store.flush()
    store.settle()
    with pytest.raises(RunFailed, match="2 checkpoints already"):
        store.save("1:3", tensors(1), {})
    store.drop("1:2")
    store.save("1:3", tensors(1), {})
    with pytest.raises(RunFailed, match="2 checkpoints already"):
        store.save("1:2", tensors(1), {})
    assert store.names() == ["1:1", "1:3"]
