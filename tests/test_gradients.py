"""Per-example gradients against autograd over one document at a time."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import harness.factors as factors
import harness.gradients as gradients
import harness.reading as reading
from harness.engine import Engine
from harness.errors import RunFailed
from harness.factors import signs
from harness.flops import Arch
from harness.gradients import Gradients
from harness.lora import LoraSpec
from harness.suite import Optimizer
from tests.conftest import make_model
from tests.test_engine import items_

ITEMS = [dataclasses.replace(item, task="abb"[k % 3]) for k, item in enumerate(items_(7, 6))]
CASES = [("qwen2", None), ("gpt2", None), ("llama", LoraSpec(4, 8.0))]


@pytest.fixture(scope="module", params=CASES, ids=["qwen2", "gpt2", "llama-lora"])
def engine(request, tmp_path_factory):
    family, lora = request.param
    folder = make_model(tmp_path_factory.mktemp("m") / family, family)
    arch = Arch.from_config(json.loads((folder / "config.json").read_text()))
    engine = Engine(folder, arch, Optimizer(), 0, lora=lora)
    engine.step(ITEMS, 1e-2)  # an adapter's second matrix starts at 0
    return engine


def alone(engine, item, wanted):
    """Gradient of the mean token NLL by the trained parameters whose name passes `wanted`, flat."""
    ids = torch.tensor([item.ids])
    logits = engine.lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
    torch.nn.functional.cross_entropy(logits, ids[0, -item.supervised :]).backward()
    named = [(n, p) for n, p in engine.lm.named_parameters() if p.requires_grad]
    flat = torch.cat([p.grad.flatten() for n, p in named if wanted(n, p)]).numpy()
    engine.optimizer.zero_grad()
    return flat


def matrices_of(*blocks):
    return lambda n, p: any(f".{b}." in n for b in blocks) and p.ndim > 1


def expected(engine, wanted):
    return np.stack([alone(engine, item, wanted) for item in ITEMS])


def close(a, b):
    return np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)


def test_rows_are_autograds(engine):
    block = next(n for n, _ in engine.lm.named_parameters() if ".1." in n).split(".1.")[0] + ".1."
    for modules, wanted in [
        ("last:1", matrices_of(1)),
        ("last:3", matrices_of(0, 1)),
        ("all", lambda n, p: True),
        ([block], lambda n, p: n.startswith(block)),
    ]:
        found = Gradients(engine, ITEMS, modules).rows()
        assert found.dtype == np.float32
        assert close(found, expected(engine, wanted))


def test_normalised_rows_gram_and_means(engine):
    rows = expected(engine, matrices_of(0, 1))
    plain, unit = Gradients(engine, ITEMS), Gradients(engine, ITEMS, normalize=True)
    other = Gradients(engine, ITEMS[:2])
    normed = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert close(unit.rows(), normed)
    assert close(plain.gram(), rows @ rows.T)
    assert close(unit.gram(), normed @ normed.T)
    assert close(plain.gram(other), rows @ rows[:2].T)
    means = unit.mean(by="task")
    assert list(means) == ["a", "b"]
    assert close(means["a"], normed[::3].mean(0))


def test_projection_keeps_inner_products_and_is_seeded(engine):
    handle = Gradients(engine, ITEMS, normalize=True)
    exact, wide = handle.gram(), handle.rows(4096, seed=1)
    assert np.abs(wide @ wide.T - exact).max() < 5 / 4096**0.5
    assert np.array_equal(handle.rows(64, seed=1), handle.rows(64, seed=1))
    assert not np.array_equal(handle.rows(64, seed=1), handle.rows(64, seed=2))
    # Without bias, and with the standard error that is stated.
    many = [handle.rows(16, seed=k) for k in range(200)]
    errors = np.array([r @ r.T - exact for r in many])
    assert np.sqrt((errors**2).mean(0)).max() < 3 / 16**0.5
    assert np.abs(errors.mean(0)).max() < 5 * 3 / 16**0.5 / 200**0.5


def test_a_sketch_reads_each_matrix_through_signs_and_adapters_as_they_are(engine, monkeypatch):
    monkeypatch.setattr(reading, "WIDTH", 8)
    found = Gradients(engine, ITEMS, "sketch:1", seed=3)
    if engine.lora:
        assert np.array_equal(found.rows(), Gradients(engine, ITEMS, "last:1").rows())
        assert found.cost() == Gradients(engine, ITEMS, "last:1").cost()
        return
    assert found.size == 64 * len(found.parameters)
    by_name = {n: Gradients(engine, ITEMS, [n]).rows() for n in found.parameters}
    blocks = []
    for name, parameter in found.parameters.items():
        p, q = parameter.shape
        R, S = (signs((k, 8), 3, side, name).numpy() / 8**0.5 for side, k in (("left", p), ("right", q)))
        blocks.append((R.T @ by_name[name].reshape(-1, p, q) @ S).reshape(len(ITEMS), -1))
    rows = np.concatenate(blocks, 1)
    assert close(found.rows(), rows)
    assert close(found.gram(), rows @ rows.T)
    unit = Gradients(engine, ITEMS, "sketch:1", normalize=True, seed=3)
    assert unit.gram().diagonal() == pytest.approx(1.0, rel=1e-5)
    assert close(unit.mean()["a"], (rows / np.linalg.norm(rows, axis=1, keepdims=True))[::3].mean(0))
    assert not np.allclose(found.rows(), Gradients(engine, ITEMS, "sketch:1", seed=4).rows())
    assert found.cost().model < Gradients(engine, ITEMS, "last:1").cost().model
    with pytest.raises(RunFailed, match="same modules"):
        found.gram(Gradients(engine, ITEMS, "last:1"))


def test_inner_products_of_sketches_are_right_on_average_and_within_their_bound(engine, monkeypatch):
    """Standard error at most sqrt((1 + 2/d)^2 - 1) |g||h|, for one matrix; here over several of them."""
    if engine.lora:
        return
    monkeypatch.setattr(reading, "WIDTH", 8)
    exact = Gradients(engine, ITEMS, "last:2").gram()
    size = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    errors = np.array([(Gradients(engine, ITEMS, "sketch:2", seed=k).gram() - exact) / size for k in range(30)])
    bound = ((1 + 2 / 8) ** 2 - 1) ** 0.5
    assert np.sqrt((errors**2).mean(0)).max() < bound
    assert np.abs(errors.mean(0)).max() < 4 * bound / 30**0.5


def kinds(handle):
    handle.compute()
    return {type(part) for part in handle._kept.values()}


def test_short_documents_are_kept_as_factors_and_give_the_same(engine, monkeypatch):
    """13 tokens of 32 + 32 numbers are less than a matrix of 32 x 32; 30 are more."""
    short = [dataclasses.replace(item, task="ab"[k % 2]) for k, item in enumerate(items_(9, 2, 9, 12))]
    mixed = [*short[:2], *items_(1, 1, 39, 39), *short[2:4]]
    for modules in ("last:2", "all"):
        found = {}
        for force in (False, True):
            if force:
                monkeypatch.setattr(gradients, "Factors", Never)
            made = [Gradients(engine, x, modules, normalize=n) for x in (short, mixed, ITEMS) for n in (False, True)]
            if not engine.lora:
                assert (factors.Factors in kinds(made[0])) == (not force)
            found[force] = [
                *(made[i].gram(made[j]) for i in range(6) for j in range(6)),
                *(x.rows() for x in made),
                *(x.rows(32, seed=3) for x in made),
                *(m for x in made for m in x.mean().values()),
                *(x.task_gram(made[0]) for x in made),
            ]
        for one, other in zip(found[False], found[True], strict=True):
            assert close(one, other)
        monkeypatch.undo()


class Never:
    """In the place of Factors: nothing is one, and the choice falls on rows."""

    def __new__(cls, left, right, spans, device):
        return factors.Rows(
            torch.empty(len(spans.lengths), left.shape[1] * right.shape[1]), left.shape[1], right.shape[1], device
        )


def test_parts_and_files_give_the_same(engine, monkeypatch):
    def everything():
        handle = Gradients(engine, ITEMS, "last:1", normalize=True)
        other = Gradients(engine, ITEMS[:3], "last:1")
        return [handle.rows(), handle.gram(), handle.gram(other), handle.rows(8), *handle.mean().values()]

    whole = everything()
    monkeypatch.setattr(gradients, "MEMORY_BYTES", 0)
    for one, other in zip(whole, everything(), strict=True):
        assert np.array_equal(one, other)
    monkeypatch.setattr(factors, "ELEMENTS", 100)
    monkeypatch.setattr(factors, "TOKENS", 20)
    monkeypatch.setattr(factors, "SIDE", 2)
    for one, other in zip(whole, everything(), strict=True):
        assert close(one, other)


class Elsewhere(torch.Tensor):
    """Numbers on another device: they are multiplied with others only after they have been moved."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.to:
            return found.as_subclass(torch.Tensor)
        assert not [x for x in args if type(x) is torch.Tensor and x.is_floating_point()], f"{func} of two devices"
        return found


def test_factors_of_which_a_file_holds_one_give_the_same():
    """Beside a GPU: the last numbers that fit into its room may be a parameter's left factor."""
    left, right, device = torch.randn(7, 2), torch.randn(7, 3), torch.device("cpu")
    spans, expected = factors.Spans([3, 4]), torch.stack([left[:3].T @ right[:3], left[3:].T @ right[3:]]).flatten(1)
    far = [x.as_subclass(Elsewhere) for x in (left, right)]
    for pair in ((left, right), (far[0], right), (left, far[1]), far):
        found = factors.Factors(*pair, spans, device).block(0, 2, factors.Meter())
        assert torch.allclose(found, expected, atol=1e-6)


def test_nothing_of_the_engine_changes_and_the_passes_are_made_once(engine):
    weights, moments = engine.weights(), engine.moments()
    flags, hooks = (
        [p.requires_grad for p in engine.lm.parameters()],
        [len(m._forward_hooks) for m in engine.lm.modules()],
    )
    handle = Gradients(engine, ITEMS)
    assert handle.hardware == 0
    uses = [handle.rows, handle.gram, handle.mean, lambda: handle.rows(8)]
    for use in uses:
        use()
    once = handle.hardware
    handle.compute()
    assert handle.hardware == once > handle.cost(8).model
    for use in uses:
        use()
    passes = engine.forward_cost(ITEMS).model  # at least these were not made again
    assert handle.hardware - once < once - passes
    assert handle.cost(8).model == handle.cost().model + 2 * handle.size * 8 * len(ITEMS)
    assert all(p.grad is None for p in engine.lm.parameters())
    assert flags == [p.requires_grad for p in engine.lm.parameters()]
    assert hooks == [len(m._forward_hooks) for m in engine.lm.modules()]
    assert all(torch.equal(w, weights[n]) for n, w in engine.weights().items())
    assert all(torch.equal(m, moments[n]) for n, m in engine.moments().items())


def test_what_does_not_fit_is_caught_in_smaller_parts_and_counted_once(engine, monkeypatch):
    many = items_(16, 6)
    expected = Gradients(engine, many, "last:1").gram()
    forward, sizes = engine.whole.forward, []

    def full(pack, *more):
        sizes.append(pack.ids.numel())
        if sizes[-1] > 130:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(pack, *more)

    monkeypatch.setattr(engine, "shrunk", None)
    monkeypatch.setattr(engine.whole, "forward", full)
    found = Gradients(engine, many, "last:1")
    assert found.gram() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert max(sizes) > 130
    assert not engine.checkpointing
    del sizes[:]
    again = Gradients(engine, many, "last:1")
    again.gram()
    assert max(sizes) <= 130
    assert found.hardware == again.hardware


def test_a_gradient_that_is_not_finite_is_refused_by_name(engine):
    parameter = next(p for n, p in engine.lm.named_parameters() if ".1." in n and p.ndim == 2 and p.requires_grad)
    saved = parameter.detach().clone()
    with torch.no_grad():
        parameter.fill_(torch.nan)
    for modules in ("last:1", "all"):
        with pytest.raises(RunFailed, match=r"that of example a/\d is not finite"):
            Gradients(engine, ITEMS, modules).rows()
    with torch.no_grad():
        parameter.copy_(saved)


def test_all_costs_a_training_step_and_fewer_blocks_cost_less(engine):
    cost = [Gradients(engine, ITEMS, m).cost().model for m in ("last:1", "last:2", "all")]
    assert cost[2] == engine.training_cost(ITEMS).model
    assert cost[0] < cost[1] <= cost[2]


def test_a_sketch_where_every_matrix_is_small_is_the_gradient(engine, monkeypatch):
    monkeypatch.setattr(reading, "WIDTH", 10**4)
    found, whole = Gradients(engine, ITEMS, "sketch:2"), Gradients(engine, ITEMS, "last:2")
    assert np.array_equal(found.rows(), whole.rows())
    assert found.cost() == whole.cost()


def test_what_cannot_be_differentiated_is_refused(engine):
    cases = [
        ("first:3", "'sketch:n'"),
        ("sketch:x", "'sketch:n'"),
        ("last:0", "'last:n'"),
        ("", "'last:n'"),
        (["nope"], "begins with 'nope'"),
    ]
    for modules, message in [*cases, ([], "empty list")]:
        with pytest.raises(RunFailed, match=message):
            Gradients(engine, ITEMS, modules)
    with pytest.raises(RunFailed, match="same modules"):
        Gradients(engine, ITEMS).gram(Gradients(engine, ITEMS, "last:1"))
    with pytest.raises(RunFailed, match="project=-1"):
        Gradients(engine, ITEMS).rows(-1)
