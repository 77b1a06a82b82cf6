"""What the engine computes on a GPU, on tensors that only say they lie on one: no two devices meet, and shapes are right.

No GPU is needed, but torch's build for CUDA is, without which an index of such a tensor is refused. There are no numbers
here, and no backward pass, which asks the driver; tests/test_gpu.py has both.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from harness import attention, factors, supervised
from harness.factors import Factors, Rows, Spans
from harness.generate import choose
from harness.packing import packs
from harness.tokens import Frame, Tokens, token_losses
from tests.conftest import make_model
from tests.test_engine import items_

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="needs torch's build for CUDA, though no GPU")
GPU = torch.device("cuda")
TENSORS = ("ids", "positions", "mask", "gather", "targets", "owner", "starts")
OBJECTIVES = {
    "nll": None,
    "entropy": lambda t: t.entropy() * t.nll,
    "entropy of the likeliest": lambda t: t.entropy(5) * t.nll,
    "a reference": lambda t: t.reference("r") * t.nll,
    "logits of a reference": lambda t: (t.reference_logits("r") * t.logits).sum(-1),
    "a column of the table": lambda t: t.column("x") * t.nll,
    "the task": lambda t: t.task * t.nll,
}


@contextmanager
def autocast():
    """torch.autocast("cuda", torch.bfloat16), which does not believe in a GPU that is not there."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


@pytest.fixture
def flashes(monkeypatch):
    """How often the kernel for variable lengths is called."""
    calls, kernel = [], attention.flash
    monkeypatch.setattr(attention, "flash", lambda *a: calls.append(a) or kernel(*a))
    return calls


@pytest.fixture(params=["qwen2", "llama", "gpt2"])
def made(request, tmp_path):
    """A fake model on a fake GPU, its items, and their real micro-batches by whether they lie flat."""
    config = AutoConfig.from_pretrained(make_model(tmp_path / request.param, request.param))
    items = items_(12, 3)
    real = {flat: list(packs(items, 32_768, 0, flat)) for flat in (True, False)}
    with FakeTensorMode() as mode:
        with torch.device(GPU):
            lm = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)

        def moved(pack):
            tensors = {name: getattr(pack, name) for name in TENSORS}
            return replace(pack, **{n: None if t is None else mode.from_tensor(t).to(GPU) for n, t in tensors.items()})

        yield lm, items, {flat: [moved(pack) for pack in made] for flat, made in real.items()}


@pytest.mark.parametrize("flat", [True, False])
def test_a_step_up_to_its_loss(made, flat, flashes):
    lm, items, found = made
    model = supervised.SupervisedLM(lm).train()
    for pack in found[flat]:
        with autocast():
            scores, nll = model(pack), model(pack, 8)
        assert (scores.shape, scores.dtype) == ((len(pack.targets), lm.config.vocab_size), torch.bfloat16)
        assert (nll.shape, nll.dtype) == (pack.targets.shape, torch.float32)
        rows = {"r": [np.zeros(item.supervised, np.float32) for item in items]}
        tokens = Tokens(
            scores.float(), pack.targets, pack.owner, pack.items, Frame(items, rows, 1e-3, 0.5), {"r": scores.float()}
        )
        weights = torch.ones(len(items), dtype=torch.float64)  # on the host, as callbacks' weights are
        for name, objective in OBJECTIVES.items():
            losses = token_losses(tokens, objective)
            losses = losses * weights.to(losses)[tokens.example]
            assert (losses.device.type, losses.shape) == ("cuda", pack.targets.shape), name
    layers = lm.config.num_hidden_layers
    assert len(flashes) == (2 * layers * len(found[True]) if flat else 0)


def test_generation_with_a_cache(made, flashes):
    lm, *_ = made
    with torch.no_grad(), autocast():
        out = lm.base_model(input_ids=torch.zeros(3, 5, dtype=torch.long, device=GPU), use_cache=True)
        one = torch.zeros(3, 1, dtype=torch.long, device=GPU)
        out = lm.base_model(input_ids=one, past_key_values=out.past_key_values, use_cache=True)
    assert out.last_hidden_state.shape[:2] == (3, 1)
    assert flashes == []
    chosen = choose(torch.empty(3, 50, device=GPU), 0.7, 0.9, torch.empty(3, dtype=torch.float64, device=GPU))
    assert (chosen.device.type, chosen.shape) == ("cuda", (3,))


@pytest.mark.parametrize("place", ["cuda", "cpu"])
def test_gradients_of_examples(place):
    """Factors whose one half lies on the device and whose other half waits elsewhere."""
    with FakeTensorMode():
        spans, meter = Spans([5, 3, 9, 4]), factors.Meter()
        kinds = (
            Factors(torch.empty(21, 6, device=place), torch.empty(21, 7, device=GPU), spans, GPU),
            Factors(torch.empty(21, 6, device=GPU), torch.empty(21, 7, device=place), spans, GPU),
            Rows(torch.empty(4, 42, device=place), 6, 7, GPU),
        )
        left, right = torch.empty(6, 16, device=GPU), torch.empty(7, 16, device=GPU)
        for one in kinds:
            assert one.block(0, 3, meter).device.type == "cuda"
            assert one.squares(meter).device.type == "cuda"
            assert one.sketch(left, right, meter).device.type == "cuda"
            for two in kinds:
                found = factors.products(one, two, meter)
                assert (found.device.type, found.shape) == ("cuda", (4, 4))
