"""The command line as a person and a script meet it: exit status, one line, JSON and nothing else."""

import json
import os
import subprocess
import sys

import pytest

from harness import record
from harness.plain import number
from tests.conftest import make_suite
from tests.records import make_record, write_run


def harness(*args, cwd=None, **env):
    done = subprocess.run(
        [sys.executable, "-m", "harness", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"HARNESS_THREADS": "1", "COLUMNS": "200"} | env,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def ran(toy, tiny, tmp_path_factory):
    """One whole mSFT run on the toy suite: (record path, the finished process, the common arguments)."""
    runs = tmp_path_factory.mktemp("runs")
    args = (
        "run",
        "--strategy",
        "msft",
        "--suite",
        toy,
        "--model",
        tiny,
        "--runs",
        runs,
        "-o",
        "C=0.5",
        "--budget",
        "2x",
    )
    done = harness(*args)
    assert done.returncode == 0, done.stderr
    path = done.stdout.strip().splitlines()[-1]
    return path, done, args


def test_the_last_line_is_the_record_and_it_holds_every_key(ran):
    path, done, _ = ran
    found = json.loads(harness("show", path, "--json").stdout)
    keys = (
        "schema_version rules_version harness_version id workload status official started ended identity environment "
        "ledger total_model_flops mixture curves events scores reports"
    )
    assert set(found) >= set(keys.split())
    assert set(found["ledger"]) == {
        "train",
        "discarded",
        "proxy",
        "validate",
        "probe",
        "gradients",
        "generate",
        "look",
        "score",
    }
    billed = ["train", "discarded", "proxy", "validate", "probe", "gradients", "generate"]
    assert sum(found["ledger"][p]["model_flops"] for p in billed) == found["total_model_flops"]
    assert found["total_model_flops"] <= found["identity"]["budget"]["flops"]
    assert found["ledger"]["discarded"]["model_flops"] > 0
    assert found["ledger"]["look"]["model_flops"] > 0
    assert found["ledger"]["score"]["model_flops"] > 0
    assert set(found["scores"]) == {"copy", "flip", "next"}
    assert found["identity"]["hyperparameters"] == {"C": 0.5, "grid": 0.25, "stages": None, "faithful": False}
    assert found["identity"]["passed"] == {"C": "0.5"}
    assert set(found["identity"]["data_sha256"]) == {"train", "validation", "test"}
    assert {e["verb"] for e in found["events"]} >= {"answer", "rollback", "log"}
    assert found["reports"]["checkpoints_peak"] <= 3 + 2
    assert "scores" in done.stdout
    assert "ledger" in done.stdout


def test_no_record_names_a_path_a_host_or_a_user(ran):
    text = open(ran[0]).read()
    assert os.path.expanduser("~") not in text
    assert "/tmp" not in text
    assert os.uname().nodename not in text


def test_an_identical_run_is_already_done(ran):
    path, _, args = ran
    again = harness(*args)
    assert again.returncode == 0
    assert "already done" in again.stderr
    assert again.stdout.strip().splitlines()[-1] == path


def comparable(path):
    r = json.loads(open(path).read())
    for row in r["ledger"].values():
        row.pop("seconds")
    return {k: r[k] for k in ("id", "scores", "ledger", "mixture", "curves", "events")} | {
        "weights": r["reports"]["weights_sha256"]
    }


def test_same_seed_same_bytes_other_seed_other_order(ran, toy, tiny, tmp_path):
    path, _, args = ran
    forced = harness(*[tmp_path if a == args[8] else a for a in args])
    assert comparable(forced.stdout.strip().splitlines()[-1]) == comparable(path)
    other = harness(*args, "--seed", "1", "--runs", tmp_path)
    assert comparable(other.stdout.strip().splitlines()[-1])["weights"] != comparable(path)["weights"]


def test_the_order_of_tasks_and_keys_in_the_suite_file_changes_nothing(ran, tiny, tmp_path):
    path, _, args = ran
    back = make_suite(tmp_path / "back", order=-1)
    done = harness(*[back if a == args[4] else a for a in args], "--runs", tmp_path / "runs")
    assert comparable(done.stdout.strip().splitlines()[-1]) == comparable(path)


def test_items_and_raw_output_are_kept_and_give_the_scores(ran):
    from pathlib import Path

    folder = Path(ran[0]).parent
    r = record.read(folder)
    for task, score in r.scores.items():
        items = [json.loads(line) for line in (folder / "items" / f"{task}.jsonl").read_text().splitlines()]
        assert sum(i["correct"]["exact"] for i in items) / len(items) == score.value
        assert all(i["correct"]["exact"] == (i["response"].strip() == i["target"]) for i in items)
    assert (folder / "lm_eval" / "results.json").exists()
    assert (folder / "final" / "model.safetensors").exists()
    assert (folder / "config.yaml").exists()


def test_scoring_a_run_again_gives_its_scores_and_leaves_its_record(ran, tmp_path):
    from pathlib import Path

    path = Path(ran[0])
    before = path.read_bytes()
    done = harness("score", path.parent, "--runs", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert {task: record.TaskScore(**row) for task, row in found["scores"].items()} == record.read(path).scores
    assert found["backend"]["name"] == found["scorer"] == "hf"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "--strategy", "mstf"], "unknown strategy 'mstf'; did you mean 'msft'?"),
        (["run", "--suite", "poket"], "unknown suite 'poket'; did you mean 'pocket'?"),
        (["run", "--model", "qwen2"], "unknown model 'qwen2'; did you mean 'qwen2.5'?"),
        (["run", "--strategy", "msft", "-o", "c=1"], "unknown option of msft 'c'; did you mean 'C'?"),
        (["run", "-o", "x"], "option 'x': expected key=value"),
        (["run", "--budget", "lots"], "budget 'lots': expected a positive multiple"),
        (["run", "--budget", "0"], "expected a positive multiple"),
        (["run", "--budget", "1001"], "expected a positive multiple up to 1000"),
        (["run", "--budget", "1e-6"], "one step of this suite needs"),
        (["run", "--lr", "-1"], "lr -1.0: expected a positive number"),
        (["run", "--limit", "0"], "limit 0: expected at least 2"),
        (["run", "--mode", "qlora"], "unknown mode 'qlora'; did you mean 'lora'?"),
        (["run", "--mirror", "/nowhere"], "is not a folder"),
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["show", "nothing"], "no record at 'nothing'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(args, message, tmp_path):
    done = harness(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("harness: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_the_bare_command_prints_its_help_and_exits_2(tmp_path):
    done = harness(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")
    assert "verify  " in done.stderr


STRATEGY = '''"""{summary}"""
from dataclasses import dataclass
from harness.api import Lab

@dataclass(frozen=True)
class Mine:
    def run(self, lab: Lab) -> None:
        {body}
'''


def test_a_strategy_of_ones_own_and_what_it_does_wrong(toy, tiny, tmp_path):
    def go(name, body):
        path = tmp_path / f"{name}.py"
        path.write_text(STRATEGY.format(summary="Mine.", body=body))
        return harness("run", "--strategy", path, "--suite", toy, "--model", tiny, "--runs", tmp_path / "r")

    good = go("good", "lab.train(lab.only('copy'), '1 epoch')")
    assert good.returncode == 0, good.stderr
    assert record.read((tmp_path / "r").glob("*/record.json").__next__()).status == "finished"
    wrong = go("wrong", "lab.train(lab.only('coppy'))")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("harness: strategy wrong: unknown task 'coppy'; did you mean 'copy'")
    broken = go("broken", "1 / 0")
    assert broken.returncode == 1
    assert "ZeroDivisionError" in broken.stderr
    listed = json.loads(harness("list", "runs", "--runs", tmp_path / "r", "--json").stdout)
    assert sorted(r["status"] for r in listed) == ["failed", "finished"], (
        "what was refused in its first lines began no run"
    )


def test_an_option_that_the_strategy_refuses_is_named_before_a_run_begins(toy, tiny, tmp_path):
    where = ("--suite", toy, "--model", tiny, "--runs", tmp_path / "r")
    done = harness("run", "--strategy", "msft", *where, "-o", "C=-1")
    assert done.returncode == 2
    assert done.stderr.startswith("harness: option C='-1' of msft: length '-1.0 epoch': expected a positive")
    assert not (tmp_path / "r").exists()


def test_nan_loss_fails_the_run_and_keeps_the_journal(toy, tiny, tmp_path):
    done = harness("run", "--suite", toy, "--model", tiny, "--runs", tmp_path, "--lr", "1e30")
    assert done.returncode == 1
    assert "not finite at step" in done.stderr
    (path,) = tmp_path.glob("*/record.json")
    assert record.read(path).status == "failed"
    assert (path.parent / "journal.jsonl").exists()
    assert (path.parent / "ledger.jsonl").read_text().count("\n") >= 1


@pytest.mark.parametrize("what", ["strategies", "models", "suites"])
def test_lists_are_json_objects_with_names(what):
    rows = json.loads(harness("list", what, "--json").stdout)
    names = {r["name"] for r in rows}
    expected = {
        "strategies": {"msft", "proportional", "uniform", "temperature"},
        "models": {"pocket", "qwen2.5", "smollm2-135m", "llama-3.2-1b"},
        "suites": {"pocket", "bbh"},
    }[what]
    assert expected <= names
    assert all(r in harness("list", what).stdout for r in expected)


def test_environment_variables_are_options(tmp_path):
    done = harness("run", cwd=tmp_path, HARNESS_STRATEGY="mstf", HARNESS_SEED="3")
    assert done.returncode == 2
    assert "unknown strategy 'mstf'" in done.stderr
    assert "-1" in harness("run", cwd=tmp_path, HARNESS_SEED="-1").stderr


def test_help_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None; sys.argv = ['harness', '--help']\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "from harness.cli import main; main()"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_no_free_disk_is_said_before_anything_is_written(toy, tiny, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    from harness.errors import HarnessError
    from harness.request import Request, prepare
    from harness.run import execute

    plan = prepare(Request(suite=str(toy), model=str(tiny), runs=tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(1, 1, 1000))
    with pytest.raises(HarnessError, match="no free disk for a run"):
        execute(plan)
    assert not plan.folder.exists()


def test_records_that_cannot_be_read_hide_no_others(tmp_path):
    folder = tmp_path / "abc"
    folder.mkdir()
    (folder / "config.yaml").write_text("x: 1")
    (folder / "record.json").write_bytes(b"\xcc\xff")
    listed = json.loads(harness("list", "runs", "--runs", tmp_path, "--json").stdout)
    assert [r["status"] for r in listed] == ["unfinished"]
    assert "not UTF-8" in harness("show", folder).stderr


def test_runs_fit_a_terminal_of_80_columns_and_their_ids_can_be_pasted(tmp_path):
    long = "strategy dft (alpha=0.5): the loss is not finite at step 17 [of 20]; a smaller learning rate may help"
    made = [
        make_record(),
        make_record("msft+cadft", 3, suite="metamathqa", model="Qwen--Qwen2.5-0.5B", multiple=1 / 3),
        make_record("dft", 12, status="failed", error=long),
    ]
    for r in made:
        (write_run(r, tmp_path).parent / "config.yaml").write_text("x: 1")
    (tmp_path / "0123456789abcdef").mkdir()
    (tmp_path / "0123456789abcdef" / "config.yaml").write_text("x: 1")
    lines = harness("list", "runs", "--runs", tmp_path, COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells if row[0]] == sorted([*(r.id for r in made), "0123456789abcdef"])
    starts = {row[0]: k for k, row in enumerate(cells) if row[0]}
    ends = dict(zip(starts, [*list(starts.values())[1:], len(cells)], strict=True))
    text = {name: " ".join(row[3] for row in cells[at : ends[name]]).strip() for name, at in starts.items()}
    assert text[made[0].id] == "proportional on pocket x pocket seed 0, budget 1x"
    assert text[made[1].id] == "msft+cadft on metamathqa x Qwen--Qwen2.5-0.5B seed 3, budget 0.333333x"
    assert text[made[2].id] == f"dft on pocket x pocket seed 12, budget 1x {long}"
    assert text["0123456789abcdef"] == ""
    listed = json.loads(harness("list", "runs", "--runs", tmp_path, "--json").stdout)
    assert [r["name"] for r in listed] == sorted(starts)
    keys = ["name", "status", "strategy", "suite", "model", "seed", "budget", "score", "reason"]
    assert {r["name"]: list(r) for r in listed}[made[1].id] == keys
    assert {r["name"]: r.get("budget") for r in listed}[made[1].id] == 1 / 3


def test_options_are_shown_as_they_can_be_given():
    """`-o proxy=None` asks for a model called None."""
    from harness import registry, show
    from harness.plain import option

    plugin = registry.find("taskpgm")
    shown = {key: option(value) for key, value in plugin.fields.items()}
    assert (shown["r"], shown["faithful"], shown["B"]) == ("null", "false", 0.5)
    given = {key: str(text) for key, text in shown.items()}
    assert plugin.build(given) == plugin.build({})
    assert "r=null, " in show._cell(plugin.fields)


def test_a_number_of_many_digits_is_shown_as_people_write_it():
    shown = {
        1 / 3: "1/3",
        2 / 7: "2/7",
        0.1 + 0.2: "0.3",
        1 / 997: "0.00100301",
        -5 / 6: "-5/6",
        0.25: 0.25,
        1e-6: 1e-6,
    }
    assert {x: number(x) for x in shown} == shown
    assert [number(x) for x in (float("inf"), 10**17, "0.3333333333333333", None, True)] == [
        float("inf"), 10**17, "0.3333333333333333", None, True,
    ]  # fmt: skip
    row = " ".join(harness("list", "strategies").stdout.partition("CADFT")[2].partition("CoLM")[0].split())
    assert "every=1/3," in row
    listed = json.loads(harness("list", "strategies", "--json").stdout)
    assert next(s for s in listed if s["name"] == "cadft")["options"]["every"] == 1 / 3


def test_a_test_file_that_is_missing_is_said_before_training(tiny, tmp_path):
    suite = make_suite(tmp_path / "s")
    (tmp_path / "s" / "test.jsonl").unlink()
    done = harness("run", "--suite", suite, "--model", tiny, "--runs", tmp_path / "r")
    assert done.returncode == 2
    assert "test file is missing" in done.stderr


def test_a_folder_that_cannot_be_made_is_one_line(toy, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    done = harness("run", "--suite", toy, "--model", tiny, "--runs", tmp_path / "file" / "x")
    assert done.returncode == 2
    assert done.stderr.startswith("harness: Not a directory")
