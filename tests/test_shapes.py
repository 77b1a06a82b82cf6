"""Seven shapes of strategies, killed at many places: the record and the weights of an undisturbed run, with no resume code.

Each file of `tests/shapes` is one shape. A kill strikes within a training, between verbs, before and after a verb is
computed, while a snapshot or the record is written, and while the answer is scored; snapshots are taken at every
moment, now and then, or never.
"""

import json
import random
from pathlib import Path

import pytest

from tests.forks import comparable, damage

FOLDER = Path(__file__).parent / "shapes"
ALONE = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "weighting")
SHAPES = [*ALONE, "rollback+weighting"]
DEAR = ("selecting", "rollback+weighting")  # few steps fit: much is billed beside training
PLACES = ("step", "verb", "computed", "between", "snapshot")
RHYTHMS = ("0", "0.3", "1000")  # seconds between snapshots


def request(toy, tiny, runs, shape, budget=0.7):
    parts = [FOLDER / f"{part}.py" for part in shape.split("+")]
    strategy = "+".join(map(str, parts))
    return {"strategy": strategy, "suite": toy, "model": tiny, "runs": runs, "budget": budget}


def moments(folder):
    """How often a run came by each place, from its journal and ledger."""
    verbs, book = (
        [json.loads(x) for x in (folder / f"{n}.jsonl").read_text().splitlines()] for n in ("journal", "ledger")
    )
    steps = len({(e["verb"], e["step"]) for e in book if e["step"] and e["phase"] in ("train", "proxy", "probe")})
    done = sum(v["exhausted"] is None for v in verbs)
    last = dict.fromkeys(("score", "scoring", "record"), 1)
    return last | {"step": steps, "verb": done, "computed": done, "between": done, "snapshot": done + steps}


@pytest.fixture(scope="module")
def undisturbed(forks, toy, tiny, tmp_path_factory):
    found = {}

    def run(shape):
        if shape not in found:
            asked = request(toy, tiny, tmp_path_factory.mktemp("calm"), shape)
            done = forks.run(asked, HARNESS_SNAPSHOT_SECONDS="1000")
            assert done["status"] == 0, done
            made = comparable(done["record"])
            assert made["total_model_flops"] > 0.5 * made["identity"]["budget"]["flops"]
            found[shape] = made, moments(Path(done["record"]).parent)
        return found[shape]

    return run


def kill_and_go_on(forks, toy, tiny, folder, shape, place, seconds):
    """Kill at a place, run the same command again; the record, and whether the kill struck."""
    asked = request(toy, tiny, folder, shape)
    first = forks.run(asked, HARNESS_FAULT=f"kill@{place}", HARNESS_SNAPSHOT_SECONDS=seconds)
    assert first["status"] in (0, -9), (place, first)
    again = forks.run(asked, HARNESS_SNAPSHOT_SECONDS=seconds)
    assert again["status"] == 0, (place, seconds, again)
    return comparable(again["record"]), first["status"] == -9


@pytest.mark.parametrize("shape", SHAPES)
def test_a_killed_run_ends_in_the_record_of_an_undisturbed_one(forks, undisturbed, toy, tiny, tmp_path, shape):
    for k, (place, seconds) in enumerate([("step:6", "0"), ("computed:4", "0.3")]):
        found, struck = kill_and_go_on(forks, toy, tiny, tmp_path / str(k), shape, place, seconds)
        assert found == undisturbed(shape)[0], place
        assert struck, place


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_killed_at_twenty_places(forks, undisturbed, toy, tiny, tmp_path, shape):
    rng, struck = random.Random(shape), 0
    record, times = undisturbed(shape)
    for k, place in enumerate([*times, *rng.choices(PLACES, k=20 - len(times))]):
        at, seconds = f"{place}:{rng.randint(1, times[place])}", "0" if place == "snapshot" else RHYTHMS[k % 3]
        found, hit = kill_and_go_on(forks, toy, tiny, tmp_path / str(k), shape, at, seconds)
        assert found == record, (at, seconds)
        struck += hit
    assert struck >= 19


@pytest.mark.parametrize("shape", ["virtual_step", "selecting"])
def test_killed_again_and_again_it_still_gets_there(forks, undisturbed, toy, tiny, tmp_path, shape):
    asked, kills = request(toy, tiny, tmp_path, shape), 0
    while (done := forks.run(asked, HARNESS_FAULT="kill@step:5", HARNESS_SNAPSHOT_SECONDS="0"))["status"] != 0:
        assert done["status"] == -9, done
        kills += 1
        assert kills < 30
    assert kills > 1
    assert comparable(done["record"]) == undisturbed(shape)[0]


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ("group_dro", "journal.jsonl"),
        ("rewriting", "journal.jsonl"),
        ("group_dro", "ledger.jsonl"),
        ("rollback+weighting", "snapshot/*/gold.safetensors"),
        ("selecting", "snapshot/*/table.0.safetensors"),
        ("group_dro", "snapshot/*/memory.0.safetensors"),
        ("rewriting", "snapshot/*/state.json"),
        ("proxies", "checkpoints/*/model.safetensors"),
    ],
)
@pytest.mark.parametrize("how", ["truncate", "flip"])
def test_damage_is_never_gone_on_from(forks, undisturbed, toy, tiny, tmp_path, shape, what, how):
    asked = request(toy, tiny, tmp_path, shape)
    assert (
        forks.run(asked, HARNESS_FAULT=f"kill@step:{6 if shape in DEAR else 14}", HARNESS_SNAPSHOT_SECONDS="0")[
            "status"
        ]
        == -9
    )
    paths = sorted(tmp_path.glob(f"*/{what}"))
    assert paths
    damage(paths[0], how, random.Random(how + what))
    done = forks.run(asked)
    assert done["status"] == 0, done
    assert comparable(done["record"]) == undisturbed(shape)[0]


def test_damaged_items_of_an_earlier_scoring_are_replaced(forks, undisturbed, toy, tiny, tmp_path):
    asked = request(toy, tiny, tmp_path, "group_dro")
    assert forks.run(asked, HARNESS_FAULT="kill@record:1", HARNESS_SNAPSHOT_SECONDS="0")["status"] == -9
    for path in tmp_path.glob("*/items/*.jsonl"):
        damage(path, "truncate", random.Random(0))
    (folder,) = {p.parent for p in tmp_path.glob("*/journal.jsonl")}
    (folder / "final" / "model.safetensors").write_bytes(b"damaged")
    done = forks.run(asked)
    assert comparable(done["record"]) == undisturbed("group_dro")[0]
    kept = [line for path in folder.glob("items/*.jsonl") for line in path.read_text().splitlines()]
    assert all(line.endswith("}") for line in kept)


FICKLE = '''"""Asks something else on replay."""
import os
from dataclasses import dataclass

from harness.api import Lab, Selection


@dataclass(frozen=True)
class Fickle:
    def run(self, lab: Lab) -> None:
        second = os.path.exists({flag!r})
        some = lab.sample("copy", 4)
        here = lab.checkpoint()
        {call}
        lab.train(lab.uniform(), "4 step")
        lab.train(lab.uniform())
'''
CALLS = {
    "logprobs": "lab.logprobs(some[second:])",
    "distributions": "lab.distributions(some, top_k=3 + second)",
    "gradients.of": "lab.gradients(some, normalize=second).gram()",
    "gradients": "lab.gradients(some).rows(project=4 + second)",
    "generate": "lab.generate(some, max_new_tokens=2, n=1 + second)",
    "rewrite": "lab.rewrite(some[0], ' 12' + '3' * second)",
    "draw": "lab.draw(lab.uniform(), 1 + second)",
    "sample": "lab.sample('flip', 2 + second)",
    "examples.get": "lab.examples.get('nll' if second else 'x', some)",
    "examples.set": "lab.examples.set('x', some, float(second))",
    "examples.top": "lab.examples.top('x', 2, smallest=second)",
    "examples.where": "lab.examples.where('x', above=float(second))",
    "state.set": "lab.state.__setitem__('x', second)",
    "state.get": "lab.state.get('y' if second else 'x')",
    "validate": "lab.validate(n=1 + second)",
    "fork": "lab.fork('probe' if second else 'proxy').__enter__().train(lab.uniform(), '1 step')",
    "rollback": "lab.rollback(here, optimizer='fresh' if second else 'restore')",
    "answer": "lab.answer(None if second else here)",
    "log": "lab.log('x', second)",
    "train": "lab.train(lab.uniform(), '1 step', references=[here] if second else [])",
    "train*": "lab.train(lab.uniform(), '4 step', references=[here] if second else [])",  # interrupted
    "budget": "lab.budget.spent if second else lab.checkpoint()",
}


@pytest.mark.parametrize("verb", CALLS)
def test_a_strategy_that_replays_differently_is_stopped_at_the_verb(forks, toy, tiny, tmp_path, verb):
    flag, path = tmp_path / "flag", tmp_path / "fickle.py"
    path.write_text(FICKLE.format(flag=str(flag), call=CALLS[verb]))
    asked = {"strategy": path, "suite": toy, "model": tiny, "runs": tmp_path / "runs", "budget": 0.9}
    place = "kill@step:1" if verb == "fork" else "kill@step:3"
    first = forks.run(asked, HARNESS_FAULT=place, HARNESS_SNAPSHOT_SECONDS="0")
    assert first["status"] == -9, first
    flag.touch()
    done = forks.run(asked)
    assert done["status"] == 1, done
    assert "NonDeterministicStrategy" in done["error"]
    assert verb.rstrip("*") in done["error"]
