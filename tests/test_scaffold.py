"""`harness new` makes what works, and docs/suites.md can be followed to the letter."""

import re
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from harness import record, stock
from harness.data import load_rows
from harness.errors import BudgetExhausted, HarnessError
from harness.registry import find
from harness.scaffold import SUITE, new_strategy, new_suite
from harness.scripted import ScriptedLab
from harness.suite import load_suite
from tests.conftest import ROOT
from tests.mirrors import write
from tests.test_cli import harness

GUIDE = (ROOT / "docs" / "suites.md").read_text()


def test_a_file_that_is_called_by_its_name_alone_is_pointed_at(tmp_path, monkeypatch):
    new_strategy("my_method", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find("my_method.py").name == "my_method"
    with pytest.raises(HarnessError, match=r"unknown strategy 'my_method'; did you mean the file 'my_method.py'\?"):
        find("my_method")


def test_the_guide_shows_the_file_that_new_writes():
    shown, *_ = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
    assert shown == SUITE.replace("NAME", "mine")


def test_the_guide_can_be_followed(tmp_path):
    commands = [x for x in re.findall(r"^harness .*$", GUIDE, re.M) if "msft" not in x]
    assert len(commands) == 3
    for command in commands:
        done = harness(*command.split()[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/record.json")
    found = record.read(path)
    assert found.identity.suite == "mine"
    assert set(found.scores) == {"capitals", "plurals"}
    assert found.reports.overlap["capitals"] == {"n": 3, "exact": 0, "rare_13_gram": 0}
    assert (tmp_path / "dist" / "index.html").exists()


def blocks(tmp_path):
    """The guide's suite, and the parts that it shows beside it, over files and a mirror such as they name."""
    whole, *parts = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.S))
    rows = [
        {
            "topic": ("history", "geography", "music")[i % 3],
            "difficulty": i % 5,
            "question": f"What is number {i // 2}?",
            "options": [f"{i}", f"{i + 1}"],
            "answer": f"{i}" if i % 7 else "",
        }
        for i in range(300)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "questions.parquet")
    hub = {
        "main": {
            split: [{"question": f"When was {split} {i}?", "answer": f"{i}"} for i in range(40)]
            for split in ("train", "test")
        }
    }
    write(tmp_path / "hub" / "datasets" / "OWNER" / "NAME", hub)
    items = [{"question": f"What is {i} and {i}?", "answer": f"It is\n#### {2 * i}"} for i in range(9)]
    write(tmp_path / "hub" / "datasets" / "openai" / "gsm8k", {"main": {"test": items}})
    return whole, parts, rows


def test_the_guides_sources_can_be_followed(tmp_path):
    whole, (part, _), rows = blocks(tmp_path)
    raw = whole | part | {"tasks": {"history": {}, "geography": {}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    suite = load_suite(str(tmp_path / "mine.yaml"))
    found = {s: load_rows(suite, s, tmp_path / "hub") for s in ("train", "validation", "test")}
    mine = [r for r in rows if r["topic"] != "music" and r["difficulty"] < 4 and r["answer"]]
    read = [r.input for rows in found.values() for group in rows.values() for r in group]
    asked = [f"{r['question']}\nOptions: {', '.join(r['options'])}" for r in mine]
    hub = [f"When was {split} {i}?" for split in ("train", "test") for i in range(40)]
    assert sorted(read) == sorted(asked + hub)
    where = {q: s for s, rows in found.items() for g in rows.values() for q in {r.input.split("\n")[0] for r in g}}
    for split, groups in found.items():
        assert all(where[r.input.split("\n")[0]] == split for g in groups.values() for r in g)


def test_the_guides_scoring_tasks_can_be_followed(tmp_path):
    whole, (_, part), _ = blocks(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(whole | part))
    suite = load_suite(str(tmp_path / "mine.yaml"))
    stock.check(suite)
    test = load_rows(suite, "test", tmp_path / "hub")
    assert [r.prompt for r in test["gsm8k"]] == [f"Q: What is {i} and {i}?\nA:" for i in range(9)]
    how = suite.scored["gsm8k"]
    assert (how.filter, how.max_new_tokens, how.until) == ("flexible-extract", 256, ("### Instruction",))


def test_a_new_strategy_has_a_test_that_passes_whatever_plot_it_is_made_into(tmp_path):
    made = new_strategy("my_method", tmp_path)
    assert [p.name for p in made] == ["my_method.py", "test_my_method.py"]
    assert find(str(made[0])).cls.__name__ == "MyMethod"
    lab = ScriptedLab({"a": 10}, [{"a": [0.1, 0.4]}, {"a": [0.4, 0.5]}, {"a": [0.5, 0.2]}])
    with pytest.raises(BudgetExhausted):
        find(str(made[0])).cls().run(lab)
    assert lab.answered == lab.final == "1:1", "the best look of all stages"
    plots = {
        "simple": "lab.train(lab.proportional(), '1 epoch')\n        lab.answer()",
        "simplest": "lab.train(lab.uniform())",
        "kept": "h = lab.train(lab.only('a'), keep='last')\n        lab.answer(h.last.checkpoint)",
        "idle": "lab.answer()",
    }
    for name, body in plots.items():
        path, _ = new_strategy(name, tmp_path)
        head, run, _ = path.read_text().partition("    def run(self, lab: Lab) -> None:\n")
        path.write_text(f"{head}{run}        {body}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "4 passed" in done.stdout, done.stdout
    assert "1 failed" in done.stdout
    assert "AssertionError: nothing was trained" in done.stdout


def test_nothing_is_overwritten_and_names_are_checked(tmp_path):
    new_suite("mine", tmp_path)
    with pytest.raises(HarnessError, match="exists already"):
        new_suite("mine", tmp_path)
    with pytest.raises(HarnessError, match="expected lower-case"):
        new_strategy("My Method", tmp_path)
    for taken in ("random", "numpy", "class", "msft", "pocket"):
        with pytest.raises(HarnessError, match=repr(taken)):
            new_strategy(taken, tmp_path)
    assert harness("new", cwd=tmp_path).returncode == 2


def test_what_new_has_made_in_the_current_folder_is_no_module_in_the_way(tmp_path):
    assert harness("new", "mine", cwd=tmp_path).returncode == 0
    again = harness("new", "mine", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (2, "harness: 'mine.py' exists already; nothing was written\n")
    assert harness("new", "--suite", "ours", cwd=tmp_path).returncode == 0
    again = harness("new", "--suite", "ours", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (2, "harness: 'ours.yaml' exists already; nothing was written\n")
    assert harness("new", "ours", cwd=tmp_path).returncode == 0  # the suite's folder of rows is no module
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").touch()
    assert "'theirs' is a Python module's" in harness("new", "theirs", cwd=tmp_path).stderr
