"""Nothing a verb computes escapes the ledger: every verb of the lab inside PyTorch's own counter.

`tests/test_flops_proof.py` proves the formulas pass by pass; here the whole lab runs, and what the counter sees during a
verb is what the verb booked in the `hardware` column - the harness's own looks included - and nothing for free verbs.
"""

from types import SimpleNamespace

import pytest

from harness.api import Lab, Selection
from harness.ledger import BILLED
from tests.conftest import make_model, make_suite
from tests.labs import make_lab
from tests.test_flops_proof import additive, agree, counted  # noqa: F401  # additive: a fixture


def proxy(lab, _):
    with lab.fork("proxy", budget="0.3 budget") as child:
        child.train(child.only("flip"), "2 step")
        child.validate(n=2)


def virtual_step(lab, begun):
    with lab.fork("probe", start="now") as child:
        child.train(child.just(begun.batch), "1 step", keep="none")


# The phases that a verb books to, and one use of it.
PAID = {
    "train": ({"train", "look"}, lambda lab, _: lab.train(lab.proportional(), "0.3 budget")),
    "train with looks": (
        {"train", "validate", "look"},
        lambda lab, _: lab.train(lab.uniform(), "0.3 budget", eval_every="4 step", keep="peaks"),
    ),
    "train with callbacks": (
        {"train"},
        lambda lab, _: lab.train(
            lab.uniform(), "3 step", objective=lambda t: t.p * t.nll, example_weights=lambda b: 0 * b.nll + 2
        ),
    ),
    "train with a reference": (
        {"train"},
        lambda lab, begun: lab.train(
            lab.uniform(),
            "3 step",
            objective=lambda t: t.nll * t.reference(begun.here).exp(),
            references=[begun.here],
        ),
    ),
    "train with a reference's logits": (
        {"train"},
        lambda lab, begun: lab.train(
            lab.uniform(),
            "3 step",
            objective=lambda t: t.nll + t.reference_logits(begun.here).logsumexp(-1),
            reference_logits=[begun.here],
        ),
    ),
    "train with a selector": (
        {"train", "probe"},
        lambda lab, _: lab.train(
            lab.uniform(), "3 step", pool=2, select=lambda pool: Selection(pool.nll.argsort()[: pool.batch])
        ),
    ),
    "validate": ({"validate"}, lambda lab, _: lab.validate()),
    "validate at a checkpoint": ({"validate"}, lambda lab, begun: lab.validate(["flip"], n=3, at=begun.here)),
    "validate by answers": ({"validate"}, lambda lab, begun: lab.validate(metric="generate", n=3, at=begun.here)),
    "train with answers": (
        {"train", "validate"},
        lambda lab, _: lab.train(lab.uniform(), "2 step", eval_every="2 step", metric="generate"),
    ),
    "fork": ({"proxy"}, proxy),
    "fork from here": ({"probe"}, virtual_step),
    "logprobs": ({"probe"}, lambda lab, _: lab.logprobs(lab.sample("copy", 5))),
    "distributions": ({"probe"}, lambda lab, begun: lab.distributions(lab.sample("copy", 5), top_k=4, at=begun.here)),
    "gradients": ({"gradients"}, lambda lab, _: lab.gradients(lab.sample("copy", 5), modules="last:1").rows(project=8)),
    "gradients compared": (
        {"gradients"},
        lambda lab, begun: lab.gradients(lab.sample("copy", 5), normalize=True).gram(
            lab.gradients(lab.sample("flip", 2), normalize=True, at=begun.here)
        ),
    ),
    "gradients of tasks": ({"gradients"}, lambda lab, begun: lab.gradients(begun.batch, modules="all").gram(by="task")),
    "gradients of tasks compared": (
        {"gradients"},
        lambda lab, begun: lab.gradients(begun.batch).gram(
            lab.gradients([*lab.sample("copy", 4), *lab.sample("flip", 4)], at=begun.here), by="task"
        ),
    ),
    "train on matched gradients": (
        {"train", "gradients"},
        lambda lab, _: lab.train(
            lab.uniform(),
            "3 step",
            pool=2,
            select=lambda pool: Selection(pool.gradients(modules="sketch:2").gram().sum(0).argsort()[: pool.batch]),
        ),
    ),
    "generate": (
        {"generate"},
        lambda lab, _: lab.generate(lab.sample("copy", 5), max_new_tokens=4, temperature=1.0, top_p=1.0, n=2),
    ),
}
FREE = {
    "checkpoint": lambda lab, _: lab.checkpoint(),
    "rollback": lambda lab, begun: lab.rollback(begun.here),
    "answer": lambda lab, begun: lab.answer(begun.here),
    "draw": lambda lab, _: lab.draw(lab.uniform(), 2),
    "sample": lambda lab, _: lab.sample("flip", 3),
    "log": lambda lab, _: lab.log("name", {"x": 1.0}),
    "uniform": lambda lab, _: lab.uniform(),
    "proportional": lambda lab, _: lab.proportional(),
    "temperature": lambda lab, _: lab.temperature(tau=0.5),
    "only": lambda lab, _: lab.only("flip"),
    "just": lambda lab, _: lab.just(lab.sample("flip", 3)),
    "mixture": lambda lab, _: lab.mixture({"flip": 1.0}),
    "counts": lambda lab, _: lab.counts({"flip": 3}),
    "grade": lambda lab, _: lab.grade(lab.sample("flip", 1)[0], "12"),
    "rewrite": lambda lab, _: lab.rewrite(lab.sample("flip", 1)[0], " 12"),
}


@pytest.fixture(
    scope="module",
    params=[("qwen2", "full", False), ("llama", "lora", False), ("gpt2", "full", True), ("qwen2", "lora", True)],
)
def files(request, tmp_path_factory):
    family, mode, checkpointing = request.param
    folder = tmp_path_factory.mktemp(f"{family}-{mode}")
    suite = make_suite(folder / "suite", gradient_checkpointing=checkpointing, lora={"r": 4, "alpha": 8})
    return suite, make_model(folder / "model", family), mode


@pytest.fixture
def begun(files, tmp_path):
    """A lab in the middle of its run, whose attention the counter can see; an earlier checkpoint and a drawn batch."""
    suite, model, mode = files
    lab, core, engine, _ = make_lab(tmp_path, suite, model, mode=mode)
    engine.lm.set_attn_implementation("eager")
    lab.train(lab.proportional(), "2 step")
    here = lab.checkpoint()
    lab.train(lab.proportional(), "1 step")
    return SimpleNamespace(lab=lab, core=core, here=here, batch=lab.draw(lab.uniform()))


@pytest.mark.parametrize("name", PAID)
def test_what_the_counter_sees_during_a_verb_is_what_it_booked(begun, name):
    core = begun.core
    phases, verb = PAID[name]
    before, spent = len(core.ledger.entries), core.ledger.spent
    seen, _ = counted(lambda: verb(begun.lab, begun))
    booked = core.ledger.entries[before:]
    assert {e.phase for e in booked} == phases
    agree(seen, sum(e.hardware for e in booked))
    assert core.ledger.spent - spent == sum(e.model for e in booked if e.phase in BILLED) > 0


@pytest.mark.parametrize("name", FREE)
def test_a_free_verb_computes_nothing(begun, name):
    core = begun.core
    before = len(core.ledger.entries)
    seen, _ = counted(lambda: FREE[name](begun.lab, begun))
    assert seen == 0
    assert len(core.ledger.entries) == before


def test_a_reference_is_billed_once_an_example_and_its_logits_in_every_step(begun):
    lab, core, batch = begun.lab, begun.core, begun.batch
    arch, items = core.engine.arch, core.data.items(batch)
    forward = sum(arch.forward(i.tokens, i.supervised) for i in items)
    step = sum(arch.train_step(i.tokens, i.supervised) for i in items)
    bills = []
    for asked in (
        {},
        {"references": [begun.here]},
        {"references": [begun.here]},
        *[{"reference_logits": [begun.here]}] * 2,
    ):
        spent = core.ledger.spent
        lab.train(lab.just(batch), "1 step", keep="none", **asked)
        bills.append(core.ledger.spent - spent)
    assert bills == [step, step + forward, step, step + forward, step + forward]


def test_every_verb_of_the_protocol_is_here():
    verbs = {name for name, value in vars(Lab).items() if not name.startswith("_") and callable(value)}
    assert verbs <= {name.split()[0] for name in PAID} | set(FREE)


def test_inner_products_of_gradients_are_billed_at_every_call(begun):
    lab, core = begun.lab, begun.core
    tasks = {"copy": 5, "flip": 2}
    handle = lab.gradients([e for t, n in tasks.items() for e in lab.sample(t, n)], modules="last:1")
    other = lab.gradients(lab.sample("next", 3), modules="last:1")
    P = handle.rows().shape[1]
    other.rows()
    uses = [
        (handle.gram, 7 * 8 * P),
        (lambda: handle.gram(other), 2 * 7 * 3 * P),
        (lambda: other.gram(handle), 2 * 7 * 3 * P),
        (lambda: handle.gram(by="task"), 2 * 3 * P),
        (lambda: handle.gram(other, by="task"), 2 * 2 * 1 * P),
        (handle.mean, 0),
    ]
    for use, price in [*uses, *uses]:
        spent = core.ledger.spent
        use()
        assert core.ledger.spent - spent == price
    assert {e.phase for e in core.ledger.entries[-5:]} == {"gradients"}
