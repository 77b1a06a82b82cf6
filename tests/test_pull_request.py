"""What the pull request's workflow says of changed results."""

import importlib.util
import json
import random

import yaml

from tests.conftest import ROOT
from tests.records import make_record, write_result

spec = importlib.util.spec_from_file_location("pull_request", ROOT / ".github" / "scripts" / "pull_request.py")
pull_request = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pull_request)


def row(strategy="msft", score=0.5, runs="a b", **kw):
    base = {"board": "pocket", "strategy": strategy, "options": "", "learning_rate": 1e-3, "budget": 1.0, "seeds": 2}
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


def test_made_up_scores_are_found_and_rounding_is_not():
    old = make_record(scores={"a": 0.8, "b": 0.4}, n=300)
    assert pull_request.differences(old, old) == []
    near = make_record(scores={"a": 0.81, "b": 0.4}, n=300)
    assert pull_request.differences(old, near) == []
    far = make_record(scores={"a": 0.6, "b": 0.4}, n=300)
    assert [line.split(":")[0] for line in pull_request.differences(old, far)] == ["a"]
    cheap = make_record(scores={"a": 0.8, "b": 0.4}, n=300, phases={"train": 500_000})
    assert "billed FLOPs" in pull_request.differences(old, cheap)[0]


def test_the_workflow_of_pull_requests_has_no_secrets_and_reads_only():
    text = (ROOT / ".github" / "workflows" / "pull_request.yml").read_text()
    flow = yaml.safe_load(text)
    assert flow[True] == "pull_request"  # `on` is a boolean in YAML 1.1
    assert flow["permissions"] == {"contents": "read"}
    assert "secrets" not in text.replace("no secrets", "")
    assert "${{ github.head" not in text  # nothing that a stranger names enters a shell
