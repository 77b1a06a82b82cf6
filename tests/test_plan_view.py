"""A plan as it is read: its curves, its JSON document, its tables, and one line for what is wrong."""

import json
from itertools import pairwise

import pytest
from click.testing import CliRunner

from harness import plan as planning
from harness import plan_view
from harness.cli import cli
from harness.curves import SCENARIOS
from harness.errors import HarnessError
from harness.ledger import BILLED
from tests.test_plan import planned


def test_curves_are_what_their_names_say():
    by_name = {s.name: s for s in SCENARIOS}
    at = [k / 40 for k in range(1, 400)]
    rising = [by_name["rising"].match(x, 10.0, 0.5) for x in at]
    assert all(b > a for a, b in pairwise(rising))
    falling = [by_name["falling"].loss(x, 10.0, 0.5) for x in at]
    assert all(b > a for a, b in pairwise(falling))

    def peak(name, rank):
        return max(at, key=lambda x: by_name[name].match(x, 10.0, rank))

    assert all(peak("early", rank) <= 1.0 for rank in (0.1, 0.5, 0.9))
    assert [round(peak("spread", rank)) for rank in (0.1, 0.5, 0.9)] == [1, 5, 9]
    assert [round(peak("reversed", rank)) for rank in (0.1, 0.5, 0.9)] == [9, 5, 1]
    assert by_name["late"].match(2.0, 10.0, 0.5) == 0 < by_name["late"].match(3.0, 10.0, 0.5)
    for scenario in SCENARIOS:
        for rank in (0.1, 0.9):
            assert all(0 <= scenario.match(x, 10.0, rank) < 1 for x in at), scenario.name
            assert all(scenario.loss(x, 10.0, rank) > 0 for x in at), scenario.name


def run(*args):
    return CliRunner().invoke(cli, ["plan", *map(str, args)], env={"COLUMNS": "80"})


def test_json_is_one_document_with_these_keys(tmp_path, toy, tiny):
    done = run("--suite", toy, "--model", tiny, "--strategy", "msft", "--json", "--mfu", "0.3")
    found = json.loads(done.stdout)
    keys = (
        "strategy model suite mode seed lr budget hyperparameters reused adaptive ledger total_model_flops share_of_budget "
        "steps looks verbs disk memory gpu_hours scenarios"
    )
    assert set(found) == set(keys.split())
    assert set(found["ledger"]) == {*BILLED, "look"}
    assert found["gpu_hours"]["mfu"] == 0.3
    assert found["budget"] == {"multiple": 1.0, "flops": found["budget"]["flops"]}
    assert found["hyperparameters"] == found["hyperparameters"] | {"C": 1.0, "grid": 0.25}
    total = found["scenarios"][0]["total_model_flops"]
    assert total == sum(found["scenarios"][0]["ledger"][p]["model_flops"] for p in BILLED)


def test_tables_fit_80_columns(tmp_path, toy, tiny, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = planned(tmp_path, toy, tiny, strategy="msft", budget=4.0)
    found["ledger"]["validate"]["tokens"] = {"min": 11_234_567_890, "max": 99_234_567_890}
    plan_view.tables(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for word in (
        "discarded",
        "11.23 B - 99.23 B",
        "A100-80GB",
        "two snapshots",
        "exact matches come late",
        "toy x tiny",
    ):
        assert word in text, word


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--mfu", "1.5"), "mfu 1.5"),
        (("--mfu", "0"), "mfu 0"),
        (("--strategy", "mstf"), "did you mean 'msft'"),
        (("-o", "C=1"), "no options"),
        (("--budget", "0.0001x"), "one step"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_planned(toy, tiny, args, reason, monkeypatch):
    monkeypatch.setattr(planning, "rehearse", lambda *_: pytest.fail("planned"))
    done = run("--suite", toy, "--model", tiny, *args)
    assert isinstance(done.exception, HarnessError)
    assert done.exception.exit_code == 2
    assert reason in str(done.exception)
