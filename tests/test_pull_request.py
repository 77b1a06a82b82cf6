"""What the pull request's workflow says of changed results."""

import importlib.util
import json
import os
import random
import subprocess

import pytest
import yaml

from harness.publish import build
from tests.conftest import ROOT
from tests.records import make_record, write_result

spec = importlib.util.spec_from_file_location("pull_request", ROOT / ".github" / "scripts" / "pull_request.py")
pull_request = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pull_request)


def row(strategy="msft", score=0.5, runs="a b", **kw):
    base = {"board": "pocket", "strategy": strategy, "options": "", "learning_rate": 1e-3, "budget": 1.0, "seeds": 2}
    base |= {"entry": strategy, "tuning_row": False, "billed_flops": 1e9}
    return (
        base | {"score": score, "runs": runs, "difference": 0.1, "difference_low": 0.05, "difference_high": 0.15} | kw
    )


def test_the_summary_lists_what_is_new_changed_or_gone_and_nothing_else():
    base = [row("same"), row("moved", 0.5), row("gone")]
    head = [row("same"), row("moved", 0.53, "a b c"), row("new")]
    lines = pull_request.summary(base, head).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == [f"{name} lr 0.001" for name in ("gone", "moved", "new")]
    assert "+3.0" in lines[1]
    assert "+10.0 [+5.0, +15.0]" in lines[1]
    assert "removed" in lines[0]
    assert pull_request.summary(base, base) == "No score changes.\n"


def test_an_entry_and_the_runs_that_chose_its_rate_are_two_lines_of_the_summary():
    """They differ in nothing that a table shows: the row of the board was hidden behind the other."""
    base = [row(score=0.5), row(score=0.6, runs="t", tuning_row=True), row(entry="other source", runs="o")]
    head = [row(score=0.9, runs="a b c"), *base[1:]]
    (line,) = pull_request.summary(base, head).splitlines()[2:]
    assert "+40.0" in line
    assert "tuning" not in line
    (line,) = pull_request.summary(base, [base[0], row(score=0.7, runs="t u", tuning_row=True), base[2]]).splitlines()[
        2:
    ]
    assert "lr 0.001, tuning" in line


def test_a_record_that_was_changed_in_place_is_in_the_summary():
    (line,) = pull_request.summary([row(score=0.5)], [row(score=0.9)]).splitlines()[2:]
    assert "+40.0" in line
    assert pull_request.summary([row()], [row(billed_flops=1e8)]) != "No score changes.\n"


def test_the_keys_of_the_summary_tell_all_rows_apart(tmp_path):
    runs = [make_record("msft", s, {"a": 0.5}) for s in (0, 1, 2, 1000, 1001)]
    runs += [make_record("msft", s, {"a": 0.4}, lr=2e-3) for s in (1000, 1001)]
    runs += [make_record("msft", s, {"a": 0.4}, source="edited") for s in range(3)]
    for r in runs:
        write_result(r, tmp_path / "results")
    build([tmp_path / "results"], tmp_path / "dist")
    rows = json.loads((tmp_path / "dist" / "rows.json").read_text())
    assert len(rows) == len({tuple(r[k] for k in pull_request.KEYS) for r in rows}) == 4


def test_the_workflow_takes_a_record_that_resembles_a_deleted_one_for_a_new_one(tmp_path):
    """git calls it renamed, with default options, and such a record was neither verified nor run again."""
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "pull_request.yml").read_text())
    (step,) = (s for s in flow["jobs"]["check"]["steps"] if s.get("name") == "What changed")

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-b", "work")
    first = write_result(make_record(seed=1), tmp_path / "results")
    git("add", "-A")
    git("commit", "-m", "a")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    first.unlink()
    second = write_result(make_record(seed=2), tmp_path / "results")
    git("add", "-A")
    git("commit", "-m", "b")
    env = os.environ | {"BASE": "main"}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "records.txt").read_text() == f"{second.relative_to(tmp_path)}\0"


def test_names_of_records_are_no_markup_in_the_summary():
    text = pull_request.summary([], [row("<img src=x>|`[a](b)`\n# big")])
    assert "<" not in text
    assert len(text.splitlines()) == 3
    assert text.splitlines()[2].count("|") == 8


def test_a_cell_of_pocket_is_drawn_from_what_changed(tmp_path):
    paths = [write_result(make_record(seed=s, suite=suite), tmp_path) for s in range(4) for suite in ("pocket", "bbh")]
    for name, text in (
        ("0-0a0b0c0d.refuted-00000000.json", {"record": {}}),
        ("x.reference-00000000.json", {"suite": "pocket"}),
    ):
        (paths[0].parent / name).write_text(json.dumps(text))
        paths.append(paths[0].parent / name)
    drawn = {pull_request.choose(paths, random.Random(k)) for k in range(60)}
    assert drawn == {p for p in paths[:8] if "pocket" in p.parts[-4]}
    assert pull_request.choose([p for p in paths if p not in drawn], random.Random(0)) is None


def test_made_up_scores_are_found_and_what_a_seed_does_is_not():
    noise = {"a": (0.05, 9), "b": (0.01, 9), pull_request.ALL: (0.02, 9)}
    old = make_record(scores={"a": 0.8, "b": 0.4}, n=300)

    def found(a, b, noise=noise, **kw):
        lines = pull_request.differences(old, make_record(scores={"a": a, "b": b}, n=300, **kw), noise)
        return [line.split(":")[0] for line in lines]

    # t with 9 degrees of freedom beyond which 0.01 / 6 lies: 3.954 (tables of Student's distribution)
    limit = 3.954 * 2**0.5 * 0.01
    assert found(0.8, 0.4) == []
    assert found(0.7, 0.4 + 0.99 * limit) == []
    assert found(0.8, 0.4 + 1.01 * limit) == ["b"]
    assert found(0.6, 0.4 - 0.9 * limit) == ["all tasks"]
    assert found(0.82, 0.4, noise={}) == []  # nothing known of seeds: the items'
    assert found(0.6, 0.4, noise={}) == ["a", "all tasks"]
    assert found(0.8, 0.4, phases={"train": 500_000})[0].startswith("billed FLOPs")
    other = pull_request.differences(old, make_record(scores={"a": 0.8}, n=300), noise)
    assert other == ["scores of a; of a, b in the record"]


def test_one_item_more_than_seeds_that_all_agree_is_no_difference():
    """Of a task that all seeds of a row have forgotten, another processor may get one item right."""
    noise = {"a": (0.05, 9), "b": (0.0, 9), pull_request.ALL: (0.02, 9)}
    old, new = (make_record(scores={"a": 0.8, "b": b}, n=300) for b in (0.0, 1 / 300))
    assert pull_request.differences(old, new, noise) == []
    far = make_record(scores={"a": 0.8, "b": 0.04}, n=300)
    assert [line.split(":")[0] for line in pull_request.differences(old, far, noise)] == ["b"]


def test_a_run_on_a_learned_mixture_is_repeated_on_that_of_the_submitted_record(tmp_path, monkeypatch):
    learned = make_record("taskpgm", 0, {"a": 0.5}, hyperparameters={"mixture": None})
    reused = {"id": learned.id, "flops": 300_000, "seed": 0}
    mixture = {"run": learned.id, "weights": {"a": 1.0}}
    made = make_record("taskpgm", 0, {"a": 0.6}, passed={"mixture": learned.id}, reused=reused)
    made.identity.hyperparameters["mixture"] = mixture
    path = write_result(made, tmp_path)
    assert pull_request.choose([path], random.Random(0)) is None, "its source is not here"
    source = write_result(learned, tmp_path)
    assert pull_request.choose([path], random.Random(0)) == path
    said = []

    def run(words, **kw):
        said.append(words)
        return subprocess.CompletedProcess(words, 2, "")

    monkeypatch.setattr(pull_request.subprocess, "run", run)
    pull_request.rerun(path, tmp_path / "again", {})
    assert f"mixture={source}" in said[0]


def test_how_far_seeds_lie_apart_is_taken_from_the_row_or_from_its_board(tmp_path):
    def write(strategy, seed, a, b):
        return write_result(make_record(strategy, seed, scores={"a": a, "b": b}, n=100), tmp_path)

    few = [write("uniform", s, a, 0.5) for s, a in enumerate((0.50, 0.60))]
    many = [write("sft", s, a, b) for s, (a, b) in enumerate([(0.2, 0.3), (0.3, 0.3), (0.4, 0.3)])]
    write("msft", 0, 0.9, 0.9)  # one seed says nothing
    own = pull_request.seed_noise(many[0])
    assert {name: (round(s, 9), free) for name, (s, free) in own.items()} == {
        "a": (0.1, 2),
        "b": (0.0, 2),
        "all tasks": (0.05, 2),
    }
    pooled = pull_request.seed_noise(few[0])
    assert pooled["a"] == (pytest.approx(((0.005 + 0.02) / 3) ** 0.5), 3)


def test_the_workflow_of_pull_requests_has_no_secrets_and_reads_only():
    text = (ROOT / ".github" / "workflows" / "pull_request.yml").read_text()
    flow = yaml.safe_load(text)
    assert flow[True] == "pull_request"  # `on` is a boolean in YAML 1.1
    assert flow["permissions"] == {"contents": "read"}
    assert "secrets" not in text.replace("no secrets", "")
    assert "${{ github.head" not in text  # nothing that a stranger names enters a shell
