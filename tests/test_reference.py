"""Scores from elsewhere: a results file that lm-eval 0.4.13 wrote (its paths replaced), in, verified, and shown apart."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import reference
from harness.board import sections
from harness.cli import cli
from harness.errors import HarnessError
from harness.exchange import export
from harness.gather import gather
from harness.publish import build
from harness.verify import verify
from tests import worlds

FILE = Path(__file__).parent / "fixtures" / "lm_eval_0.4.13.json"
SOURCE = "https://example.org/report?x=1"


def bring(tmp_path, file=FILE, name="Some model, 5-shot"):
    return reference.bring(file, "pocket", name, SOURCE, tmp_path / "results")


def changed(tmp_path, edit):
    raw = json.loads(FILE.read_text())
    edit(raw)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(raw))
    return path


def test_a_real_results_file_comes_in_with_its_numbers_and_without_its_paths(tmp_path):
    done = bring(tmp_path)
    assert done.path.name.startswith("some-model-5-shot.reference-")
    assert done.left == []
    assert set(done.missing) == set(worlds.TASKS) - {"larger", "last"}
    found, raw = reference.load(done.path), json.loads(FILE.read_text())
    assert {t: (s.value, s.n, s.of) for t, s in found.scores.items()} == {
        "larger": (0.8, 40, 300),
        "last": (0.95, 40, 300),
    }
    assert found.scores["last"].stderr == raw["results"]["harness_pocket_last"]["exact_match_stderr,exact"]
    assert found.scores["last"].task_hash == raw["task_hashes"]["harness_pocket_last"]
    assert found.macro == pytest.approx(0.875)
    assert (found.lm_eval_version, found.date[:10], found.model) == ("0.4.13", "2026-11-21", "")
    assert "/home" not in done.path.read_text()
    assert bring(tmp_path).path == done.path
    assert verify([tmp_path / "results"]).exit_code == 0


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("value", 0.9, "stderr 0.064051"),
        ("value", 0.8125, "a share of 40 items"),
        ("value", 0.81, "a share of 40 items"),
        ("value", 1.2, "a share of 40 items"),
        ("value", math.nan, "finite"),
        ("n", 400, "400 of 300 items"),
        ("stderr", 0.01, "expected 0.064051"),
        ("filter", "other", "exact_match under exact"),
        ("lm_eval_task", "<b>", "plain name"),
        ("extra", 1, "unknown key"),
        ("n", "40", "another type"),
    ],
)
def test_a_score_that_was_changed_is_found(tmp_path, key, value, says):
    path = bring(tmp_path).path
    raw = json.loads(path.read_text())
    raw["scores"]["larger"][key] = value
    path.write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")
    found = [str(f) for f in verify([tmp_path / "results"]).findings]
    assert any(says in line for line in found), found


def test_text_and_place_are_verified(tmp_path):
    path = bring(tmp_path).path
    for edit, says in (
        ({"source": "javascript:alert(1)"}, "https:// address"),
        ({"name": "<script>alert(1)</script>"}, "name:"),
        ({"model": "/home/someone/run"}, "model:"),
        ({"suite": "none"}, "a suite of suites/"),
        ({"name": "other"}, "file name"),
    ):
        raw = json.loads(path.read_text()) | edit
        (path.parent / "x.reference-00000000.json").write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")
        found = [str(f) for f in verify([path.parent / "x.reference-00000000.json"]).findings]
        assert any(says in line for line in found), (edit, found)
    away = tmp_path / "results" / path.name
    path.rename(away)
    assert any("folder" in str(f) for f in verify([away]).findings)


def test_what_is_no_results_file_of_the_suite_is_one_line(tmp_path):
    def only_others(raw):
        raw["results"] = {"arc": raw["results"]["harness_pocket_last"]}

    def other_metric(raw):
        raw["results"]["harness_pocket_last"] = {"acc,none": 0.5}

    def twice(raw):
        raw["results"] |= {"a_reverse": {}, "b_reverse": {}}

    for edit, says in (
        (only_others, "none of its tasks is of suite 'pocket': it has arc"),
        (other_metric, "has no 'exact_match,exact'.*it has acc,none"),
        (twice, "task 'reverse' may be any of a_reverse, b_reverse"),
        (lambda raw: raw.pop("n-samples"), "no results file of lm-eval"),
        (lambda raw: raw.pop("date"), "no results file of lm-eval"),
        (lambda raw: raw.update({"results": []}), "no results file of lm-eval"),
    ):
        with pytest.raises(HarnessError, match=says):
            bring(tmp_path, changed(tmp_path, edit))
    for text in ("[1]", "no JSON", "[" * 100_000):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(HarnessError, match="no results file of lm-eval"):
            bring(tmp_path, tmp_path / "bad.json")
    assert not (tmp_path / "results").exists()


def test_a_stock_task_is_known_by_the_end_of_its_name(tmp_path):
    def stock(raw):
        for part in ("results", "n-samples", "n-shot", "task_hashes"):
            raw[part] = {"bbh_zeroshot_" + k.removeprefix("harness_pocket_"): v for k, v in raw[part].items()}
        raw["model_name"] = "Qwen/Qwen2.5-0.5B"
        raw["results"]["bbh_zeroshot_last"]["exact_match_stderr,exact"] = "N/A"

    found = reference.load(bring(tmp_path, changed(tmp_path, stock)).path)
    assert found.scores["last"].lm_eval_task == "bbh_zeroshot_last"
    assert found.scores["last"].stderr is None
    assert found.model == "Qwen/Qwen2.5-0.5B"


def test_a_reference_stands_apart_and_changes_no_row(tmp_path):
    worlds.world(tmp_path / "results", 2, {"proportional": 0.7, "uniform": 0.6}, n=40)
    before = build([tmp_path / "results"], tmp_path / "before")
    bring(tmp_path)
    after = build([tmp_path / "results"], tmp_path / "after")
    assert "Scores from elsewhere" not in before.read_text()
    page = after.read_text()
    assert SOURCE in page
    assert '87.5 <span class="quiet">of 2 tasks' in page
    assert (tmp_path / "before" / "rows.csv").read_bytes() == (tmp_path / "after" / "rows.csv").read_bytes()
    lines = (tmp_path / "after" / "references.csv").read_text().splitlines()
    assert len(lines) == 3
    assert [len(s.rows) for s in sections(gather([tmp_path / "results"]))] == [2]
    assert len(export([tmp_path / "results"], tmp_path / "out", "somebody", "other")) == 4
    path = next((tmp_path / "results").rglob("*.reference-*.json"))
    path.write_text(path.read_text().replace(SOURCE, "javascript:alert(1)"))
    assert "javascript" not in build([tmp_path / "results"], tmp_path / "after").read_text()
    assert not (tmp_path / "after" / "references.parquet").exists()


def test_the_command(tmp_path):
    def call(*args):
        return CliRunner().invoke(cli, ["submit", *map(str, args), "--results", str(tmp_path / "results")])

    given = ("--lm-eval", FILE, "--suite", "pocket", "--name", "x", "--source", SOURCE)
    done = call(*given)
    assert done.exit_code == 0
    assert done.output.splitlines()[-1].endswith(".json")
    assert "without a score: addition" in done.output
    for args, says in (
        (given[:-2], "goes with --suite"),
        ((*given, tmp_path), "without RUN_DIR"),
        ((), "nothing to submit"),
        (("--lm-eval", FILE, "--suite", "poket", "--name", "x", "--source", SOURCE), "did you mean 'pocket'"),
        (("--lm-eval", FILE, "--suite", "pocket", "--name", "x", "--source", "http://a"), "https://"),
        (("--lm-eval", tmp_path / "no", "--suite", "pocket", "--name", "x", "--source", SOURCE), "No such file"),
    ):
        assert says in str(call(*args).exception), args
