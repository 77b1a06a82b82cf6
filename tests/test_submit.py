"""`harness submit`: what lands in results/, what is refused, and refutations."""

import gzip
import hashlib
import json

import pytest
from click.testing import CliRunner

from harness import refutation
from harness.cli import cli
from harness.errors import HarnessError
from harness.items import Items, outcomes
from harness.publish import load as published
from harness.record import read
from harness.submit import Refused, submit
from harness.verify import verify
from tests.records import pocket_run, rehashed, write_run, write_whole_run


@pytest.fixture(scope="module")
def good():
    return pocket_run()


@pytest.fixture
def run(good, tmp_path):
    return write_whole_run(*good, tmp_path / "runs")


def call(*args):
    done = CliRunner().invoke(cli, ["submit", *map(str, args)])
    return done.exit_code, done.stdout, done.stderr


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_record_and_items_land_where_the_rules_say(good, run, tmp_path):
    made, _items = good
    results = tmp_path / "results"
    code, out, _ = call(run, "--results", results)
    name = f"pocket/pocket/proportional/0-{made.id[:8]}"
    assert (code, out.strip()) == (0, str(results / f"{name}.json"))
    questions = sorted((results / "pocket" / "questions").iterdir())
    assert files(results) == [f"{name}.items.jsonl.gz", f"{name}.json", str(questions[0].relative_to(results))]
    assert read(results / f"{name}.json") == made
    text = gzip.decompress(questions[0].read_bytes()).decode()
    head, *rows = map(json.loads, gzip.decompress((results / f"{name}.items.jsonl.gz").read_bytes()).splitlines())
    sha = hashlib.sha256(text.encode()).hexdigest()
    assert head == {"questions": sha}
    assert questions[0].name == f"{sha[:16]}.jsonl.gz"
    assert len(rows) == len(text.splitlines()) == 2400
    assert set(rows[0]) == {"correct", "filtered", "response", "truncated"}
    assert set(json.loads(text.splitlines()[0])) == {"id", "item_sha256", "prompt_sha256", "target"}
    assert verify([results], regrade=True).findings == []
    assert list(published([results])) == [made]


def test_verdicts_are_read_alike_from_a_run_and_from_its_submitted_copy(good, run, tmp_path):
    made, items = good
    want = [[float(x["correct"]["exact"]) for x in rows] for _, rows in sorted(items.rows.items())]
    copy = submit(run, tmp_path / "r").path
    for file in (run / "record.json", copy):
        assert outcomes(made.scores, file, {}) == outcomes(made.scores, file, {"addition": "exact"}) == want
    assert outcomes(made.scores, tmp_path / "none" / "record.json", {}) is None
    with pytest.raises(HarnessError, match="no verdict of filter 'other'"):
        outcomes(made.scores, copy, {"addition": "other"})
    fewer = made.scores["reverse"].model_copy(update={"n": 299})
    with pytest.raises(HarnessError, match="expected 2399"):
        outcomes({**made.scores, "reverse": fewer}, copy, {})


def test_twice_is_once_and_says_so(run, tmp_path):
    assert call(run, "--results", tmp_path / "r")[0] == 0
    before = {p: (tmp_path / "r" / p).read_bytes() for p in files(tmp_path / "r")}
    code, _, err = call(run, "--results", tmp_path / "r")
    assert code == 0
    assert "is already submitted" in err
    assert {p: (tmp_path / "r" / p).read_bytes() for p in files(tmp_path / "r")} == before


def test_an_unofficial_run_is_taken_and_said_to_be_one(good, run, tmp_path):
    assert "unofficial" not in call(run, "--results", tmp_path / "r")[2]
    git = good[0].environment.git.model_copy(update={"dirty": True})
    environment = good[0].environment.model_copy(update={"git": git})
    made = good[0].model_copy(update={"environment": environment, "official": False})
    folder = write_whole_run(made, good[1], tmp_path / "other")
    status, out, err = call(folder, "--results", tmp_path / "q")
    assert (status, out.strip().endswith(".json")) == (0, True)
    assert f"run {folder.name} is unofficial (the harness is of no clean commit)" in err


def test_the_packed_items_are_the_same_bytes_anywhere(good, run, tmp_path):
    one, two = (submit(run, tmp_path / name).path for name in ("a", "b"))
    assert (
        one.with_name(one.stem + ".items.jsonl.gz").read_bytes()
        == two.with_name(two.stem + ".items.jsonl.gz").read_bytes()
    )


def test_several_runs_and_a_folder_of_runs(good, run, tmp_path):
    other = write_whole_run(*pocket_run(seed=1), tmp_path / "runs")
    code, out, _ = call(run, other, "--results", tmp_path / "r")
    assert code == 0
    assert len(out.splitlines()) == 2
    code, out, _ = call(tmp_path / "runs", "--results", tmp_path / "r2")
    assert (code, len(out.splitlines())) == (0, 2)


def test_what_does_not_verify_is_refused_and_nothing_is_copied(good, run, tmp_path):
    raw = json.loads((run / "record.json").read_text())
    raw["scores"]["addition"]["value"] = 0.99
    (run / "record.json").write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")
    other = write_whole_run(*pocket_run(seed=1), tmp_path / "runs")
    code, out, err = call(run, other, "--results", tmp_path / "r")
    assert code == 1
    assert "scores.'addition'.value 0.99" in err
    assert len(out.splitlines()) == 1, "the good one is in"
    assert len(files(tmp_path / "r")) == 3


def test_a_strategy_that_nobody_has_leaves_nothing_behind(good, tmp_path):
    made, items = good
    identity = made.identity.model_copy(update={"strategy": "my_own"})
    folder = write_whole_run(rehashed(made.model_copy(update={"identity": identity})), items, tmp_path / "runs")
    with pytest.raises(Refused, match="a strategy of strategies/"):
        submit(folder, tmp_path / "r")
    assert list((tmp_path / "r").rglob("*")) == []


def test_questions_lie_there_once_and_stay_when_a_later_record_is_refused(good, run, tmp_path):
    submit(run, tmp_path / "r")
    questions = [p for p in files(tmp_path / "r") if "/questions/" in p]
    made, items = pocket_run(seed=1)
    submit(write_whole_run(made, items, tmp_path / "runs"), tmp_path / "r")
    assert [p for p in files(tmp_path / "r") if "/questions/" in p] == questions
    before = files(tmp_path / "r")
    identity = made.identity.model_copy(update={"strategy": "my_own"})
    other = rehashed(made.model_copy(update={"identity": identity}))
    with pytest.raises(Refused):
        submit(write_whole_run(other, items, tmp_path / "others"), tmp_path / "r")
    assert files(tmp_path / "r") == before
    assert not (tmp_path / "r" / "pocket" / "pocket" / "my_own").exists()
    (tmp_path / "r" / questions[0]).write_bytes(b"damaged")
    with pytest.raises(HarnessError, match="not a whole gzip file"):
        submit(write_whole_run(*pocket_run(seed=2), tmp_path / "runs"), tmp_path / "r")
    assert files(tmp_path / "r") == before


def test_local_names_are_scrubbed_from_what_was_logged(good, tmp_path):
    made, items = good
    event = made.events[0].model_copy(update={"note": "saved", "data": {"to": "/home/somebody/runs/best.json"}})
    folder = write_whole_run(made.model_copy(update={"events": [event]}), items, tmp_path / "runs")
    done = submit(folder, tmp_path / "r")
    assert read(done.path).events[0].data == {"to": "best.json"}
    assert verify([done.path]).findings == []
    assert not submit(folder, tmp_path / "r").new


@pytest.mark.parametrize(("change", "said"), [("status", "only ended runs"), ("items", "has no items/")])
def test_what_cannot_be_submitted_is_one_line(good, tmp_path, change, said):
    made, _ = good
    if change == "status":
        failed = {
            "status": "failed",
            "official": False,
            "scores": {},
            "reports": made.reports.model_copy(update={"error": "NaN"}),
        }
        made = made.model_copy(update=failed)
    folder = write_run(made, tmp_path / "runs").parent
    with pytest.raises(HarnessError, match=said):
        submit(folder, tmp_path / "r")


def test_a_path_without_a_run_is_status_2(tmp_path):
    done = CliRunner().invoke(cli, ["submit", str(tmp_path / "no")])
    assert isinstance(done.exception, HarnessError)
    assert done.exception.exit_code == 2


# --- refutations


def repeated(good):
    """The same run, which came out worse on the other machine."""
    made, _items = good
    worse, other = pocket_run(luck=0.4)
    scores = {t: s.model_copy(update={"items_sha256": other.sha256(t)}) for t, s in worse.scores.items()}
    return made.model_copy(update={"scores": scores, "started": worse.started}), Items(other.lines, other.rows)


def test_another_outcome_of_the_same_run_is_a_refutation(good, run, tmp_path):
    made, _ = good
    results = tmp_path / "r"
    submit(run, results)
    again = write_whole_run(*repeated(good), tmp_path / "elsewhere")
    with pytest.raises(HarnessError, match=f"--refutes {made.id}"):
        submit(again, results)
    done = submit(again, results, made.id)
    assert refutation.NAME.fullmatch(done.path.name)
    assert done.path.name.startswith(f"0-{made.id[:8]}.refuted-")
    found = refutation.load(done.path)
    assert (found.refutes, found.record.macro < made.macro) == (made.id, True)
    assert not submit(again, results, made.id).new
    assert verify([results], regrade=True).findings == []
    assert verify([done.path]).findings == [], "alone: what it disputes lies beside it"
    assert list(published([results])) == [made], "it is no result"


def test_what_repeats_a_result_or_another_run_refutes_nothing(good, run, tmp_path):
    made, _ = good
    submit(run, tmp_path / "r")
    with pytest.raises(Refused, match="this one reproduces it"):
        submit(run, tmp_path / "r", made.id)
    seed = write_whole_run(*pocket_run(seed=1), tmp_path / "runs")
    with pytest.raises(Refused, match="the id of a record in the same folder"):
        submit(seed, tmp_path / "r", made.id)
    with pytest.raises(Refused, match="the id of a record"):
        submit(run, tmp_path / "empty", made.id)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("refutes", "f" * 16, "of what it refutes"), ("kind", "praise", "missing"), ("extra", 1, "missing")],
)
def test_a_tampered_refutation_is_caught(good, run, tmp_path, key, value, said):
    submit(run, tmp_path / "r")
    path = submit(write_whole_run(*repeated(good), tmp_path / "e"), tmp_path / "r", good[0].id).path
    raw = json.loads(path.read_text())
    raw[key] = value
    path.write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")
    assert any(said in str(f) for f in verify([path]).findings)
