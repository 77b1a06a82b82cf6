"""The losses of the loss-level strategies: by hand on given logits, against autograd of their formulas, on a tiny model."""

import math

import pytest
import torch

from harness.api import Checkpoint
from harness.engine import MICRO_TOKENS
from harness.registry import find, resolve
from harness.tokens import Frame, Tokens
from tests.labs import make_lab
from tests.test_engine import items_
from tests.test_lab import same
from tests.test_tokens import ITEMS, TOTAL, close, engine, entropy, logp, reference  # noqa: F401

BASE = Checkpoint("base")


class Asked:
    """A lab that keeps what a lens asks of it."""

    def __init__(self):
        self.state = {}

    def checkpoint(self, **_):
        return BASE

    def train(self, mixture, length="rest", **asked):
        self.asked = asked

        class Done:
            paused = None

        return Done()


def objective(name, **fields):
    lab = Asked()
    find(name).cls(**fields).wrap(lab).train(None)
    return lab.asked["objective"]


def tokens(rows, targets, gold=None, owner=None, others=None):
    """Tokens of given logits; all of one example unless `owner` says."""
    scores = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    owner = torch.tensor(owner if owner is not None else [0] * len(rows))
    n = int(owner.max()) + 1
    counts = [int((owner == k).sum()) for k in range(n)]
    items = [i for i, _ in zip(items_(n, 1), range(n), strict=True)]
    items = [type(i)(i.id, i.task, (1,) * (c + 2), c) for i, c in zip(items, counts, strict=True)]
    given = None
    if gold is not None:
        given = {BASE: [t.numpy() for t in torch.tensor(gold, dtype=torch.float32).split(counts)]}
    frame = Frame(items, given, 0.1, 0.5)
    seen = {BASE: torch.tensor(others, dtype=torch.float32)} if others is not None else None
    return scores, Tokens(scores, torch.tensor(targets), owner, range(n), frame, seen)


def worked(name, given, **fields):
    """(losses, gradient of their sum by the logits)."""
    scores, t = given
    losses = objective(name, **fields)(t)
    losses.sum().backward()
    return losses.detach().tolist(), scores.grad


L2 = math.log(2)
ROW = [0.0, L2, 0.0]  # softmax (1/4, 1/2, 1/4)


def test_dft_by_hand():
    losses, gradient = worked("dft", tokens([ROW, ROW], [0, 1]))
    assert losses == pytest.approx([0.25 * math.log(4), 0.5 * L2])
    # p (softmax - onehot): the gradient of -p
    assert gradient[0].tolist() == pytest.approx([-0.1875, 0.125, 0.0625])
    assert gradient[1].tolist() == pytest.approx([0.125, -0.25, 0.125])


def test_eaft_by_hand():
    flat, sure = [0.0] * 25, [30.0] + [0.0] * 24
    losses, gradient = worked("eaft", tokens([flat, sure], [3, 1]))
    weight = math.log(20) / 3
    assert losses == pytest.approx([weight * math.log(25), 0.0], abs=1e-6)
    expected = torch.full((25,), weight / 25)
    expected[3] -= weight
    assert torch.allclose(gradient[0], expected)  # the weight is detached
    assert worked("eaft", tokens([flat], [3]), alpha=2.0)[0] == pytest.approx([weight**2 * math.log(25)])


def test_iw_sft_by_hand():
    # Example 0: log ratios 0 and ln 4, so the weight is exp of their mean, 2; example 1: exp(3) is clipped to 16.
    gold = [-math.log(4), -math.log(4) - math.log(4), -math.log(4) - 3]
    given = lambda: tokens([ROW] * 3, [0, 0, 0], gold, [0, 0, 1])  # noqa: E731
    nll = math.log(4)
    assert worked("iw_sft", given())[0] == pytest.approx([2 * nll, 2 * nll, 16 * nll])
    assert worked("iw_sft", given(), tau=0.5)[0] == pytest.approx([L2**0 * 2**0.5 * nll] * 2 + [math.exp(1.5) * nll])
    per_token = worked("iw_sft", given(), per="token")
    assert per_token[0] == pytest.approx([nll, 1.8 * nll, 1.8 * nll])
    assert per_token[1][1].tolist() == pytest.approx([1.8 * x for x in (-0.75, 0.5, 0.25)])


def test_psft_clips_from_above_only():
    ratios = [0.1, 0.5, 1.0, 1.2, 1.5]
    losses, gradient = worked("psft", tokens([ROW] * 5, [0] * 5, [-math.log(4) - math.log(r) for r in ratios]))
    assert losses == pytest.approx([-0.1, -0.5, -1.0, -1.2, -1.28])
    by_logp = [g[0].item() / 0.75 for g in gradient]
    assert by_logp == pytest.approx([-0.1, -0.5, -1.0, -1.2, 0.0])


def test_the_kl_is_from_the_base_to_the_model_over_the_whole_vocabulary():
    base = [0.0, 0.0, L2]  # (1/4, 1/4, 1/2) against (1/4, 1/2, 1/4): KL = (1/4) ln (1/2) + (1/2) ln 2
    kl = 0.25 * L2
    for name, first in [("sft_kl", math.log(4)), ("asft", 0.25 * math.log(4))]:
        losses, gradient = worked(name, tokens([ROW], [0], others=[base]), lam=2.0)
        assert losses == pytest.approx([first + 2 * kl])
        pull = torch.tensor([0.25, 0.5, 0.25]) - torch.tensor([0.25, 0.25, 0.5])  # softmax - base
        own = torch.tensor([-0.75, 0.5, 0.25]) * (1 if name == "sft_kl" else 0.25)
        assert torch.allclose(gradient[0], own + 2 * pull)


def other_weights(engine):  # noqa: F811
    torch.manual_seed(3)
    return {n: w + 0.05 * torch.randn_like(w) for n, w in engine.weights().items()}


@pytest.fixture
def seen_by_base(engine):  # noqa: F811
    """(tensors, logits of each item's supervised tokens, log-probabilities of the gold ones) of other weights."""
    tensors, rows, gold = other_weights(engine), {}, {}
    with engine.wearing(tensors), torch.no_grad():
        for item in ITEMS:
            ids = torch.tensor([item.ids])
            rows[item.id] = engine.lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :].clone()
            gold[item.id] = logp(rows[item.id], ids[0, -item.supervised :])
    return tensors, rows, gold


def kl(z, q):
    q, p = q.softmax(-1), z.log_softmax(-1)
    return torch.nn.functional.kl_div(p, q, reduction="none").sum(-1)


def formula(name, rows, gold):
    """Losses of an item's tokens from its logits and labels, written another way."""

    def weight(z, y, i):
        return (logp(z, y) - gold[i.id]).mean().exp().clamp(max=16).detach()

    def clipped(z, y, i):
        r = (logp(z, y) - gold[i.id]).exp()
        return torch.where(r < 1.28, -r, torch.full_like(r, -1.28))

    return {
        "dft": lambda z, y, i: -logp(z, y).exp(),
        "asft": lambda z, y, i: -logp(z, y).exp() + 0.05 * kl(z, rows[i.id]),
        "sft_kl": lambda z, y, i: -logp(z, y) + 0.05 * kl(z, rows[i.id]),
        "eaft": lambda z, y, i: -logp(z, y) * entropy(z, y, i, 20).detach() / 3,
        "iw_sft": lambda z, y, i: -logp(z, y) * weight(z, y, i),
        "psft": clipped,
    }[name]


@pytest.mark.parametrize("name", ["dft", "asft", "sft_kl", "eaft", "iw_sft", "psft"])
def test_the_gradient_is_autograds_of_the_formula_whatever_the_split(engine, seen_by_base, name, monkeypatch):  # noqa: F811
    tensors, rows, gold = seen_by_base
    expected = reference(engine, formula(name, rows, gold))
    given = {BASE: [gold[i.id].numpy() for i in ITEMS]}
    for micro in (4096, 100):
        monkeypatch.setitem(MICRO_TOKENS, "cpu", micro)
        engine._backward(ITEMS, Frame(ITEMS, given, 0.1, 0.5), objective(name), None, {BASE: tensors})
        found = torch.cat([p.grad.flatten() for p in engine.lm.parameters()])
        engine.optimizer.zero_grad()
        assert close(found, expected), micro
    assert TOTAL


def run(tmp_path, toy, tiny, name, options=None, budget=0.6):
    lab, core, model, _ = make_lab(tmp_path / name.replace("+", "_"), toy, tiny, budget=budget)
    resolve(name).build(options or {}).run(lab)
    return core, model


def bill(core):
    return [(e.phase, e.verb, e.step, e.model, e.hardware) for e in core.ledger.entries]


def test_dft_is_proportional_through_dft(toy, tiny, tmp_path):
    (one, a), (two, b) = (run(tmp_path, toy, tiny, name) for name in ("dft", "proportional+dft"))
    assert same(a, b)
    assert bill(one) == bill(two)


@pytest.mark.parametrize(
    ("name", "fields", "plain"),
    [
        ("eaft", {"alpha": 0.0}, None),
        ("iw_sft", {"tau": 0.0}, None),
        ("sft_kl", {"lam": 0.0}, None),
        ("asft", {"lam": 0.0}, "dft"),
    ],
)
def test_with_its_term_at_zero_a_method_is_what_it_is_built_on(engine, seen_by_base, name, fields, plain):  # noqa: F811
    tensors, _, gold = seen_by_base
    given = {"references": {BASE: [gold[i.id].numpy() for i in ITEMS]}, "others": {BASE: tensors}}
    found = []
    for asked in (objective(name, **fields), objective(plain) if plain else None):
        engine.load_base()
        engine.fresh_optimizer()
        found.append([(s.nll, s.grad_norm) for s in (engine.step(ITEMS, 1e-3, asked, **given) for _ in range(3))])
    assert found[0] == found[1]


def test_psft_holds_two_checkpoints_and_looks_once_at_each_example_of_a_period(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny, budget=4.0)
    resolve("psft").build({}).parts[0].wrap(lab).train(lab.proportional(), "20 step", keep="none")
    assert core.standing.endswith(":20")
    assert len(core.store.names()) <= 2
    assert len({e.verb for e in core.ledger.entries if e.phase == "train"}) == 3
    steps = [e for e in core.ledger.entries if e.phase == "train"]
    assert [e.step for e in steps] == list(range(1, 21))
    plain, plain_core, _, _ = make_lab(tmp_path / "plain", toy, tiny, budget=4.0)
    plain.train(plain.proportional(), "20 step")
    for mine, theirs in zip(steps, [e for e in plain_core.ledger.entries if e.phase == "train"], strict=True):
        least = 1.2 if mine.step <= 8 else 1.0  # the old policy's forward pass; from step 12 on, examples come again
        assert least < mine.model / theirs.model < 1.4
