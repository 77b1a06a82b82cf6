"""`--mode lora` from the request to the record: budget, looks, checkpoints, forks, kills, and what is saved at the end."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from harness.request import Request, prepare
from harness.suite import load_suite
from tests.conftest import make_suite
from tests.labs import make_lab
from tests.test_replay import comparable, plot_file
from tests.test_replay import request as full_request

PHASES = ("train", "validate")
LORA = {"r": 4, "alpha": 8, "lr": 0.01, "lr_grid": [0.01]}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return make_suite(tmp_path_factory.mktemp("suites"), lora=LORA)


def request(suite, tiny, runs, strategy):
    return full_request(suite, tiny, runs, strategy) | {"mode": "lora"}


def losses(engine, items):
    """Mean loss per supervised token, by task."""
    seen = {task: engine.evaluate(group)[0] for task, group in items.items()}
    return {task: sum(s.nll for s in group) / sum(s.supervised for s in group) for task, group in seen.items()}


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a)


def test_the_budget_is_what_lora_costs_and_each_mode_is_a_workload_of_its_own(suite, tiny):
    full, lora = (prepare(Request(suite=str(suite), model=str(tiny), mode=m)) for m in ("full", "lora"))
    config = json.loads((tiny / "config.json").read_text())
    h, ffn, layers, vocab, r = 32, 48, 2, config["vocab_size"], LORA["r"]
    q, kv = 4 * 8, 2 * 8
    w = layers * (h * q + 2 * h * kv + q * h + 3 * h * ffn)
    p = layers * r * ((h + q) + 2 * (h + kv) + (q + h) + 3 * (h + ffn))
    unused = h * (q + 2 * kv) + 3 * r * h  # input gradients of the first block's q, k and v, and of their adapters
    budget = {"full": 0, "lora": 0}
    for item in (i for group in lora.train.values() for i in group):
        t, s = item.tokens, item.supervised
        attention = 3 * 4 * layers * q * t * (t + 1) // 2
        budget["full"] += 6 * w * t + 6 * h * vocab * s + attention
        budget["lora"] += 4 * w * t + 4 * h * vocab * s + 6 * p * t + attention - 2 * unused * t
    epochs = lora.suite.train.epochs
    assert (full.identity.budget.flops, lora.identity.budget.flops) == (
        epochs * budget["full"],
        epochs * budget["lora"],
    )
    assert (full.identity.lr, lora.identity.lr) == (0.003, 0.01)
    assert (full.identity.mode, lora.identity.mode) == ("full", "lora")
    assert full.workload != lora.workload
    assert full.id != lora.id


def test_the_learning_rate_of_lora_is_the_suites_or_ten_times_that_of_full_fine_tuning(tmp_path):
    train = {"lr": 2.0e-5, "lr_grid": [1.0e-5, 2.0e-5, 5.0e-5]}
    default = load_suite(str(make_suite(tmp_path / "a", **train))).train
    assert default.rates("full") == (2.0e-5, (1.0e-5, 2.0e-5, 5.0e-5))
    assert default.rates("lora") == (2.0e-4, (1.0e-4, 2.0e-4, 5.0e-4))
    named = load_suite(str(make_suite(tmp_path / "b", **train, lora={"lr": 4.0e-4}))).train
    assert named.rates("lora") == (4.0e-4, (2.0e-4, 4.0e-4, 1.0e-3))
    both = load_suite(str(make_suite(tmp_path / "c", **train, lora={"lr": 4.0e-4, "lr_grid": [4.0e-4]}))).train
    assert both.rates("lora") == (4.0e-4, (4.0e-4,))


def test_a_suites_digest_holds_what_can_move_a_result_in_that_mode(tmp_path):
    changes = [{}, {"lora": {"r": 16, "alpha": 32}}, {"gradient_checkpointing": True}, {"lora": {"r": 8}}, {"lr": 0.01}]
    suites = [load_suite(str(make_suite(tmp_path / str(i), **train))) for i, train in enumerate(changes)]
    full, lora = ([s.sha256(mode) for s in suites] for mode in ("full", "lora"))
    assert [full.index(x) for x in full] == [0, 0, 0, 0, 4]
    assert [lora.index(x) for x in lora] == [0, 0, 0, 3, 4]
    assert not set(full) & set(lora)


def test_the_base_look_is_that_of_full_fine_tuning(suite, tiny, tmp_path):
    curves = []
    for mode in ("full", "lora"):
        _, core, _, _ = make_lab(tmp_path, suite, tiny, mode=mode)
        core.looks.observe(core.standing, 0)
        curves.append(core.trail.curves)
    assert len(curves[0]) == 3
    assert curves[0] == curves[1]


def test_rollback_forks_and_looks_back_move_adapters_only(suite, tiny, tmp_path):
    lab, core, engine, plan = make_lab(tmp_path, suite, tiny, mode="lora", budget=2.0)
    frozen = {n: p.detach().clone() for n, p in engine.lm.named_parameters() if not p.requires_grad}
    base = losses(engine, plan.validation)
    lab.train(lab.proportional(), "1 epoch")
    here, before, now = lab.checkpoint(), engine.weights(), losses(engine, plan.validation)
    with lab.fork("proxy", budget="0.2 budget") as child:
        assert losses(engine, plan.validation) == base
        child.train(child.only("flip"))
    assert same(engine.weights(), before)
    lab.train(lab.uniform(), "4 step")
    assert not same(engine.weights(), before)
    assert {t: s.loss for t, s in lab.validate(at=here).items()} == pytest.approx(now)
    lab.rollback(here)
    assert same(engine.weights(), before)
    stored = core.store.load(here.weights)[0]["model"]
    assert set(stored) == {n for n, p in engine.lm.named_parameters() if "lora_" in n}
    assert sum(t.numel() for t in stored.values()) == plan.arch.adapters
    assert all(torch.equal(p, frozen[n]) for n, p in engine.lm.named_parameters() if not p.requires_grad)


def test_proportional_lowers_the_loss_and_the_saved_model_is_plain_and_merged(forks, suite, tiny, tmp_path):
    done = forks.run(request(suite, tiny, tmp_path, "proportional"))
    assert done["status"] == 0, done
    record = json.loads(Path(done["record"]).read_text())
    assert record["identity"]["mode"] == "lora"
    assert record["identity"]["lr"] == LORA["lr"]
    assert 0.95 < record["total_model_flops"] / record["identity"]["budget"]["flops"] <= 1
    first, last = ({c["task"]: c["loss"] for c in part} for part in (record["curves"][:3], record["curves"][-3:]))
    assert all(last[task] < first[task] - 0.2 for task in first)  # frozen random embeddings and head learn no faster
    final = AutoModelForCausalLM.from_pretrained(Path(done["record"]).parent / "final", dtype=torch.float32)
    assert not any("lora_" in name for name in final.state_dict())
    plan = prepare(Request(suite=str(suite), model=str(tiny), runs=tmp_path, mode="lora"))
    for task, items in plan.validation.items():
        nll = count = 0.0
        for item in items[: plan.suite.look.items]:
            ids = torch.tensor([item.ids])
            logits = final(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
            nll += torch.nn.functional.cross_entropy(logits, ids[0, -item.supervised :], reduction="sum").item()
            count += item.supervised
        assert nll / count == pytest.approx(last[task], rel=1e-4)


@pytest.mark.parametrize("name", ["msft", "wander", "proxies"])
def test_a_killed_run_ends_in_the_record_of_an_undisturbed_one(forks, suite, tiny, tmp_path, name):
    strategy = plot_file(tmp_path, name)
    calm = forks.run(request(suite, tiny, tmp_path / "calm", strategy), HARNESS_SNAPSHOT_SECONDS="1000")
    assert calm["status"] == 0, calm
    expected = comparable(calm["record"])
    assert expected["identity"]["mode"] == "lora"
    for place in ("step:9", "step:17", "verb:4", "snapshot:14", "score:1"):
        asked = request(suite, tiny, tmp_path / place, strategy)
        first = forks.run(asked, HARNESS_FAULT=f"kill@{place}", HARNESS_SNAPSHOT_SECONDS="0")
        assert first["status"] == -9, (place, first)
        for file in (tmp_path / place).rglob("model*.safetensors"):  # snapshots and checkpoints, not the base
            assert file.parent.name == "final" or all("lora_" in n for n in load_file(file)), file
        again = forks.run(asked, HARNESS_SNAPSHOT_SECONDS="0")
        assert again["status"] == 0, (place, again)
        assert "goes on after" in again["said"][0]
        assert comparable(again["record"]) == expected, place


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_gradient_checkpointing_changes_neither_losses_nor_the_bill(tiny, tmp_path, mode):
    runs = []
    for checkpointing in (False, True):
        path = make_suite(tmp_path / str(checkpointing), lora=LORA, gradient_checkpointing=checkpointing)
        lab, core, engine, _ = make_lab(tmp_path / "runs", path, tiny, mode=mode)
        assert engine.checkpointing == checkpointing
        history = lab.train(lab.proportional(), eval_every="1 epoch", metric="loss")
        entries = core.ledger.entries
        runs.append((history, core.ledger.spent, {p: sum(e.hardware for e in entries if e.phase == p) for p in PHASES}))
    (plain, billed, hardware), (saving, billed_too, more) = runs
    assert saving.train_loss == pytest.approx(plain.train_loss, rel=1e-6)
    assert [k.value for k in saving.looks] == pytest.approx([k.value for k in plain.looks], rel=1e-6)
    assert billed == billed_too
    assert more["validate"] == hardware["validate"]
    # A forward pass of the blocks, less than the third of a step that a whole forward pass with the head would be.
    assert 1.05 * hardware["train"] < more["train"] < (4 / 3 if mode == "full" else 1.5) * hardware["train"]
