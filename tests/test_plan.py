"""A plan says what a run does, without weights: equal where the plot is fixed, a range where it reacts."""

import shutil
from contextlib import suppress

import pytest

from harness.curves import SCENARIOS
from harness.errors import BudgetExhausted, HarnessError
from harness.ledger import BILLED, by_phase
from harness.plan import estimate, gpu_hours
from harness.request import Request
from tests.conftest import make_model
from tests.labs import make_lab

HEAD = "from dataclasses import dataclass\nimport numpy as np\nfrom harness.api import Lab, Selection\n"


def strategy(folder, body, name="mine"):
    """A strategy file whose run has this body."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    path = folder / f"{name}.py"
    path.write_text(f"{HEAD}\n@dataclass(frozen=True)\nclass Mine:\n    def run(self, lab: Lab) -> None:\n{lines}\n")
    return str(path)


def real(folder, suite, model, **request):
    """The ledger by phase, the core and the engine of a real run with real weights."""
    lab, core, engine, plan = make_lab(folder / "real", suite, model, **request)
    with suppress(BudgetExhausted):
        plan.strategy.run(lab)
    lab._session.unwind()
    answer = core.trail.answer or core.standing
    if answer != core.standing:
        core.restore(answer, "fresh")
    core.looks.observe(answer, core.verb, last=True)
    return by_phase(core.ledger.root.entries, core.trail.path(answer)), core, engine


def planned(folder, suite, model, **request):
    return estimate(Request(suite=str(suite), model=str(model), runs=folder / "planned", **request))


def within(span, value):
    return span["min"] <= value <= span["max"]


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("proportional", {}),
        ("uniform", {"seed": 3, "budget": 0.7}),
        ("temperature", {"options": {"tau": "0.3"}, "budget": 1.5}),
    ],
)
def test_a_static_strategy_costs_exactly_what_it_does(tmp_path, toy, tiny, name, request_, mode):
    table, _, _ = real(tmp_path, toy, tiny, strategy=name, mode=mode, **request_)
    found = planned(tmp_path, toy, tiny, strategy=name, mode=mode, **request_)
    assert not found["adaptive"]
    assert len(found["scenarios"]) == 1
    assert table["train"]["model_flops"] > 0.9 * found["budget"]["flops"]
    for phase, row in found["ledger"].items():
        for column in ("model_flops", "tokens"):
            expected = table[phase][column]
            assert row[column] == {"min": expected, "max": expected}, (phase, column)
    assert found["total_model_flops"]["max"] == sum(table[p]["model_flops"] for p in BILLED)
    assert not (tmp_path / "planned").exists()


EVERY_VERB = """
some = [e for t in lab.tasks for e in lab.sample(t, 3)]
lab.logprobs(some); lab.logprobs(some)
top = lab.distributions(some, top_k=5)
lab.distributions(some[:4], support=top[:4])
for modules in ("last:1", "sketch:2", "all", ["model.layers.0.mlp"]):
    g = lab.gradients(some, modules=modules, normalize=True)
    assert g.gram().shape == (9, 9) and g.gram(by="task").shape == (3, 3)
    assert g.rows(project=4).shape == (9, 4) and set(g.mean()) == set(lab.tasks)
h = lab.train(lab.uniform(), "5 step", eval_every="2 step", keep="last", metric="loss")
here = lab.checkpoint()
lab.train(lab.counts({"copy": 6}), "2 step", references=[here], objective=lambda t: t.nll * t.reference(here).exp())
lab.train(lab.only("flip"), "2 step", reference_logits=[here], objective=lambda t: t.nll + t.reference_logits(here).sum(-1))
def weights(batch):
    batch.state["seen"] = batch.state.get("seen", np.zeros(1)) + len(batch)
    batch.table["mine"] = batch.nll
    return 1.0 + 0.0 * batch.nll
def select(pool):
    assert len(pool.nll) == len(pool) == 2 * pool.batch
    pool.gradients(pool.examples[:2], modules="last:1").gram()
    return Selection(np.arange(pool.batch))
lab.train(lab.proportional(), "3 step", example_weights=weights, pool=2, select=select)
assert lab.state["seen"][0] == 12, lab.state["seen"]
assert len(lab.examples.top("mine", 99)) > 0
lab.rollback(here)
assert "seen" not in lab.state
lab.validate(n=2); lab.validate(["copy"], at=here)
lab.rewrite(some[0], " 1234")
with lab.fork("proxy", budget="0.1 budget") as proxy:
    proxy.train(proxy.uniform())
    proxy.train(proxy.uniform(), "1 step")
with lab.fork("probe", start="now") as child:
    child.train(child.just(child.draw(child.uniform())), "1 step", keep="none")
lab.answer(here)
lab.train(lab.proportional())
"""


def test_every_verb_and_callback_costs_exactly_what_it_does(tmp_path, toy, tiny):
    file = strategy(tmp_path, EVERY_VERB)
    table, core, engine = real(tmp_path, toy, tiny, strategy=file, budget=9.0)
    found = planned(tmp_path, toy, tiny, strategy=file, budget=9.0)
    (scenario,) = [s for s in found["scenarios"] if s["name"] == "rising"]
    for phase in (*BILLED, "look"):
        assert scenario["ledger"][phase]["model_flops"] == table[phase]["model_flops"], phase
        assert scenario["ledger"][phase]["tokens"] == table[phase]["tokens"], phase
    for phase in ("train", "discarded", "validate", "probe", "gradients", "proxy"):
        assert table[phase]["model_flops"] > 0, phase
    assert scenario["checkpoints_at_peak"] == core.store.peak > 1
    core.store.flush()
    held = tmp_path / "real"
    whole = next(held.glob("*/checkpoints/*/optimizer.safetensors")).parent
    sizes = {p.stem: p.stat().st_size for p in whole.glob("*.safetensors")}
    one = found["disk"]["checkpoint_bytes"]
    # A file has a header of names beside its tensors, of about 100 bytes each.
    assert 0 <= sizes["model"] - one["without_optimizer"] < 120 * len(engine.weights()) + 100
    assert 0 <= sizes["model"] + sizes["optimizer"] - one["with_optimizer"] < 120 * 4 * len(engine.weights()) + 200


@pytest.mark.parametrize(
    ("seed", "budget", "options"), [(0, 2.0, {"C": "0.5"}), (1, 1.0, {}), (2, 4.0, {"C": "1.0", "grid": "0.5"})]
)
def test_an_adaptive_strategy_gets_a_range_that_holds_a_real_run(tmp_path, toy, tiny, seed, budget, options):
    request = {"strategy": "msft", "seed": seed, "budget": budget, "options": options}
    table, core, _ = real(tmp_path, toy, tiny, **request)
    found = planned(tmp_path, toy, tiny, **request)
    assert found["adaptive"]
    assert {s["name"] for s in found["scenarios"]} == {s.name for s in SCENARIOS}
    assert within(found["total_model_flops"], core.ledger.spent)
    for phase in ("train", "discarded", "validate", "proxy", "probe", "gradients", "generate"):
        assert within(found["ledger"][phase]["model_flops"], table[phase]["model_flops"]), phase
    assert found["disk"]["checkpoints_at_peak"]["max"] >= core.store.peak
    assert found["share_of_budget"]["max"] <= 1


def test_rising_spends_on_training_and_falling_rolls_back(tmp_path, toy, tiny):
    found = planned(tmp_path, toy, tiny, strategy="msft", budget=2.0)
    rising, falling = found["scenarios"][:2]
    assert rising["name"] == "rising"
    assert rising["ledger"]["discarded"]["model_flops"] == 0
    assert rising["status"] == "budget"
    assert falling["ledger"]["train"]["model_flops"] == 0  # the answer is the base
    assert falling["ledger"]["discarded"]["model_flops"] > 0


def test_a_plot_that_stops_early_meets_both_ends(tmp_path, toy, tiny):
    body = """
best = -1.0
while (h := lab.train(lab.uniform(), "4 step", eval_every="4 step", metric="exact_match")).last.value > best:
    best = h.last.value
"""
    found = planned(tmp_path, toy, tiny, strategy=strategy(tmp_path, body), budget=3.0)
    ends = {s["name"]: (s["status"], s["steps"], s["looks"]) for s in found["scenarios"]}
    assert ends["rising"][0] == "budget"
    assert ends["falling"] == ("finished", 8, 3)  # at step 0, 4 and 8; the look at 4 is paid once
    assert found["steps"] == {"min": min(s for _, s, _ in ends.values()), "max": ends["rising"][1]}


@pytest.mark.parametrize("key", ["pool.nll", "pool.gradients(modules='last:1').gram().sum(1)"])
def test_who_chooses_by_what_the_model_says_gets_a_range(tmp_path, toy, tiny, key):
    body = f"""
def select(pool):
    return Selection(np.argsort({key})[:pool.batch])
lab.train(lab.uniform(), "6 step", pool=3, select=select)
"""
    file = strategy(tmp_path, body)
    table, _, _ = real(tmp_path, toy, tiny, strategy=file, budget=4.0)
    found = planned(tmp_path, toy, tiny, strategy=file, budget=4.0)
    assert found["adaptive"]
    train = found["ledger"]["train"]["model_flops"]
    assert train["min"] < train["max"]
    assert 0.9 * train["min"] < table["train"]["model_flops"] < 1.1 * train["max"]
    looked = "probe" if key == "pool.nll" else "gradients"
    assert within(found["ledger"][looked]["model_flops"], table[looked]["model_flops"])


def test_responses_end_early_or_run_to_the_limit(tmp_path, toy, tiny):
    body = """
lab.train(lab.uniform(), "8 step")
every = [e for t in lab.tasks for e in lab.sample(t, lab.tasks[t].n_validation, "validation")]
lab.generate(every, max_new_tokens=16, n=2)
"""
    file = strategy(tmp_path, body)
    table, _, _ = real(tmp_path, toy, tiny, strategy=file, budget=3.0)
    found = planned(tmp_path, toy, tiny, strategy=file, budget=3.0)
    span = found["ledger"]["generate"]["model_flops"]
    assert 0 < span["min"] < span["max"]
    assert within(span, table["generate"]["model_flops"])
    _, core, _ = real(tmp_path, toy, tiny)
    prompts = [i.ids[: -i.supervised] for t in core.validation for i in core.validation[t]]
    limit = sum(2 * core.engine.arch.generate(len(p), 16) for p in prompts)
    assert span["max"] == limit  # all of them run to it, n=2 each


def test_a_proxy_of_another_model_has_its_own_price(tmp_path, toy, tiny):
    small = make_model(tmp_path / "small", "llama")
    body = f"with lab.fork('proxy', model={str(small)!r}) as p:\n    p.train(p.uniform(), '3 step')\nlab.train(lab.uniform())"
    file = strategy(tmp_path, body)
    table, _, _ = real(tmp_path, toy, tiny, strategy=file, budget=2.0)
    found = planned(tmp_path, toy, tiny, strategy=file, budget=2.0)
    for phase in ("proxy", "train"):
        expected = table[phase]["model_flops"]
        assert expected > 0
        assert found["ledger"][phase]["model_flops"] == {"min": expected, "max": expected}


def test_a_larger_model_of_a_fork_is_what_the_device_must_hold(tmp_path, toy, tiny):
    """One of them is there at a time; a fork leaves nothing behind."""
    large = make_model(tmp_path / "large", "llama")  # its output matrix is one more of the embedding's size
    alone = planned(tmp_path, toy, large)["memory"]["device_bytes"]
    own = planned(tmp_path, toy, tiny)["memory"]["device_bytes"]
    assert own < alone
    for model, other in ((tiny, large), (large, tiny)):
        file = strategy(
            tmp_path, f"with lab.fork('proxy', model={str(other)!r}) as p:\n    pass\nlab.train(lab.uniform())"
        )
        assert planned(tmp_path, toy, model, strategy=file)["memory"]["device_bytes"] == alone


def test_a_look_that_the_lab_refuses_is_refused_by_a_plan_in_its_words(tmp_path, toy, tiny):
    with pytest.raises(
        HarnessError, match=r"strategy taskpgm \(affinity=jsd, top_k=0\): distributions: top_k is 0; exp"
    ):
        planned(tmp_path, toy, tiny, strategy="taskpgm", options={"affinity": "jsd", "top_k": "0"})


def test_hours_are_flops_over_peak_and_mfu():
    found = gpu_hours({"min": 312e12 * 1800, "max": 989e12 * 3600}, 0.5)
    assert found["mfu"] == 0.5
    assert found["hours"]["A100-80GB"]["min"] == pytest.approx(1.0)
    assert found["hours"]["H100"]["max"] == found["hours"]["H200"]["max"] == pytest.approx(2.0)
    assert found["hours"]["A100-80GB"]["peak_flops_per_second"] == 312e12


def test_no_weights_are_read_or_needed(tmp_path, toy, tiny, monkeypatch):
    import transformers

    bare = shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    never = classmethod(lambda *_, **__: pytest.fail("weights were loaded"))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", never)
    with_weights = planned(tmp_path, toy, tiny, strategy="msft")
    without = planned(tmp_path, toy, bare, strategy="msft")
    assert without | {"model": tiny.name} == with_weights | {"model": tiny.name}
    with pytest.raises(HarnessError, match="safetensors"):
        make_lab(tmp_path, toy, bare)


def test_disk_and_memory_in_bytes(tmp_path, toy, tiny):
    full, lora = (planned(tmp_path, toy, tiny, mode=mode) for mode in ("full", "lora"))
    _, _, engine = real(tmp_path, toy, tiny)
    trained = sum(t.numel() for t in engine.weights().values())
    disk = full["disk"]
    assert disk["checkpoint_bytes"] == {"without_optimizer": 4 * trained, "with_optimizer": 12 * trained}
    assert disk["final_bytes"] == lora["disk"]["final_bytes"] == 4 * trained  # adapters are merged there
    assert disk["checkpoints_at_peak"] == disk["checkpoints_bytes"] == {"min": 0, "max": 0}
    table = 2 * 4 * 48  # nll and visits of 48 examples
    assert disk["snapshots_bytes"]["max"] == pytest.approx(2 * (12 * trained + table), abs=128)
    assert disk["total_bytes"]["max"] == disk["snapshots_bytes"]["max"] + disk["final_bytes"]
    assert full["memory"]["device_bytes"] == 16 * trained
    assert lora["disk"]["checkpoint_bytes"]["without_optimizer"] < 4 * trained
    assert lora["memory"]["device_bytes"] == 4 * trained + 4 * lora["disk"]["checkpoint_bytes"]["without_optimizer"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("while True:\n    lab.sample('copy', 2)", "10,000 verbs in a row cost nothing"),
        ("raise ValueError('no such thing')", "strategy mine: no such thing"),
        ("lab.train(lab.uniform(), '1 step')\n1 / 0", "strategy mine cannot be planned: ZeroDivisionError"),
        ("lab.train(lab.uniform(), '1 step')\nlab.train(lab.uniform(), 'x')", "strategy mine: length 'x'"),
        ("for _ in range(70):\n    lab.train(lab.uniform(), '1 step'); lab.checkpoint()", "64 checkpoints"),
        ("lab.train(lab.uniform(), example_weights=lambda b: [1.0])", r"expected \(4,\)"),
        ("lab.train(lab.uniform(), '1 parsec')", "parsec"),
    ],
)
def test_a_plot_that_cannot_work_is_one_line(tmp_path, toy, tiny, body, reason):
    file = strategy(tmp_path, body)
    with pytest.raises(HarnessError, match=reason) as caught:
        planned(tmp_path, toy, tiny, strategy=file, budget=9.0)
    assert caught.value.exit_code == 2


def test_the_cap_ends_what_would_not_end(tmp_path, toy, tiny):
    file = strategy(tmp_path, "while True:\n    lab.train(lab.uniform(), '1 step')")
    found = planned(tmp_path, toy, tiny, strategy=file)
    assert found["scenarios"][0]["status"] == "budget"
    assert found["share_of_budget"]["max"] > 0.9
