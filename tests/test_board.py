"""Rows of a board: what items say, what was tuned, what was refuted, and the same numbers in the downloads."""

import csv
import json

import numpy as np
import pytest
from pyarrow import parquet

from harness import articles, items, picture
from harness.board import sections
from harness.compare import compare
from harness.gather import gather
from harness.panel import Panel
from harness.profiles import median_to_target, target
from harness.publish import build
from harness.refutation import Refutation, name
from tests import worlds
from tests.records import make_record, write_result, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three strategies, four seeds, 1x and 2x."""
    root = tmp_path_factory.mktemp("board")
    skills = {"proportional": 0.70, "uniform": 0.69, "cadft": 0.80}
    worlds.world(root / "results", 4, skills, budgets=(1.0, 2.0), n=60)
    return root


def rows_of(section, multiple=1.0):
    return {row.strategy: row for row in dict(section.budgets)[multiple]}


def test_items_give_the_differences_groups_and_what_could_be_detected(folder):
    (section,) = sections(gather([folder / "results"]))
    rows = rows_of(section)
    runs = {}
    for path in sorted((folder / "results").rglob("*-????????.json")):
        record = json.loads(path.read_text())
        if record["identity"]["budget"]["multiple"] == 1:
            right = items.unpack(items.beside(path)).rows
            tasks = [np.array([row["correct"]["exact"] for row in right[t]], float) for t in sorted(right)]
            runs.setdefault(record["identity"]["strategy"], {})[record["identity"]["seed"]] = tasks
    # in another order of strategies, since order must not matter
    truth = compare(Panel.of({k: runs[k] for k in sorted(runs, reverse=True)}), "proportional")
    for strategy in ("uniform", "cadft"):
        mean = np.mean([[t.mean() for t in runs[strategy][s]] for s in range(4)])
        own = np.mean([[t.mean() for t in runs["proportional"][s]] for s in range(4)])
        assert rows[strategy].difference.value == pytest.approx(mean - own)
        assert rows[strategy].difference.low == pytest.approx(truth.differences[strategy].estimate.low, abs=2e-3)
        assert rows[strategy].against.detectable == pytest.approx(truth.differences[strategy].detectable, abs=2e-3)
        assert rows[strategy].tie == truth.ties[strategy]
        assert rows[strategy].places == truth.ranks[strategy]
    assert rows["cadft"].tie == 1
    assert rows["proportional"].tie == rows["uniform"].tie == 2
    assert (rows["cadft"].key, rows["uniform"].key) in section.better
    assert not any(row.unverified for row in section.rows)


def test_flops_to_target_are_the_median_run_against_the_reference_at_1x(folder):
    (section,) = sections(gather([folder / "results"]))
    one, two = rows_of(section), rows_of(section, 2.0)
    goal = target([r.curves for r in one["proportional"].runs])
    assert section.goal == goal
    assert one["proportional"].to_target <= 1
    for row in (one["cadft"], two["cadft"]):
        assert row.to_target == pytest.approx(median_to_target([r.curves for r in row.runs], goal) / worlds.ONE)
    strict = goal.__class__(goal.metric, 1.01)
    assert median_to_target([r.curves for r in one["cadft"].runs], strict) == float("inf")


def test_items_that_do_not_give_the_score_make_a_row_unverified(folder, tmp_path):
    record, right = worlds.make_run("uniform", 9, 0.7, n=40)
    task = worlds.TASKS[0]
    right[task][0] = not right[task][0]
    worlds.write_run(record, right, tmp_path)
    found = gather([tmp_path])
    assert found.answers == {}
    (row,) = sections(found)[0].rows
    assert row.unverified == 1
    assert row.score.low is None


def test_other_learning_rates_are_tuning_and_are_billed_to_the_chosen_one(tmp_path):
    chosen = [make_record("msft", s, {"a": 0.5}) for s in range(5)]
    grid = [make_record("msft", s, {"a": 0.9}, lr=lr, phases={"train": 500_000}) for lr in (5e-4, 2e-3) for s in (0, 1)]
    for r in (*chosen, *grid, *(make_record("proportional", s, {"a": 0.4}) for s in range(5))):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    assert [(row.strategy, row.tuning) for row in section.rows] == [
        ("msft", False),
        ("proportional", False),
        ("msft", True),
        ("msft", True),
    ]
    assert section.rows[0].tuned == pytest.approx(4 * 0.5)
    assert section.rows[1].tuned == 0
    assert section.rows[2].tie is None


def test_a_refutation_stands_on_the_row_that_it_disputes(folder, tmp_path):
    record, right = worlds.make_run("uniform", 0, 0.7, n=40)
    again, _ = worlds.make_run("uniform", 0, 0.4, n=40)
    path = worlds.write_run(record, right, tmp_path)
    refuted = Refutation(refutes=record.id, record=again)
    (path.parent / name(again, record.id)).write_text(refuted.model_dump_json())
    (row,) = sections(gather([tmp_path]))[0].rows
    assert row.disputes == (refuted,)
    assert len(row.runs) == 1
    index = build([tmp_path], tmp_path / "out").read_text()
    assert "1 refuted" in index
    assert "Refuted: the same run" in (tmp_path / "out" / "runs" / f"{record.id}.html").read_text()


def test_downloads_hold_the_numbers_of_the_table_in_three_formats(folder, tmp_path):
    build([folder / "results"], tmp_path)
    (section,) = sections(gather([folder / "results"]))
    lines = list(csv.DictReader((tmp_path / "rows.csv").open(encoding="utf-8")))
    whole = json.loads((tmp_path / "rows.json").read_text())
    table = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert whole == table
    assert len(lines) == len(whole) == len(section.rows) == 6
    page = (tmp_path / "index.html").read_text()
    for line, row, shown in zip(lines, whole, section.rows, strict=True):
        assert float(line["score"]) == row["score"] == shown.score.value
        assert f"<strong>{100 * row['score']:.1f}</strong>" in page
        assert row["runs"].split() == [r.id for r in shown.runs]
        assert row["tie_group"] == shown.tie
    scores = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(scores) == 3 * 2 * 4 * len(worlds.TASKS)
    by_run = {}
    for s in scores:
        by_run.setdefault(s["run"], []).append(s["score"])
    for row in section.rows:
        for r in row.runs:
            assert np.mean(by_run[r.id]) == pytest.approx(r.macro)


def test_text_in_csv_is_never_a_formula(tmp_path):
    write_result(make_record("proportional"), tmp_path / "r")
    write_run(make_record("=cmd|' /C calc'!A0", 1), tmp_path / "r")
    build([tmp_path / "r"], tmp_path / "out")
    cells = [c for line in csv.reader((tmp_path / "out" / "rows.csv").open(encoding="utf-8")) for c in line]
    assert "'=cmd|' /C calc'!A0" in cells
    assert not any(c.startswith("=") for c in cells)


def test_a_strategys_page_shows_its_docstring_paper_and_code(folder, tmp_path):
    found = articles.source("msft")
    assert found.papers == ("2603.21606",)
    assert found.summary.startswith("mSFT")
    assert found.deviations.startswith("Deviations:")
    assert articles.source("../msft") is None
    assert articles.source("_numerics") is None
    build([folder / "results"], tmp_path)
    page = (tmp_path / "strategies" / "cadft.html").read_text()
    assert "https://arxiv.org/abs/2606.11206" in page
    assert page.count("<tr>") == 1 + 2  # its head, and a line for each budget


def test_documents_are_whole_and_their_links_stay_on_the_site():
    found = articles.documents()
    assert {"rules", "changelog", "contributing", "flops", "statistics", "results"} <= found.keys()
    assert "FLOPs" in found["rules"][1]
    assert 'href="flops.html"' in found["rules"][1]
    assert ".md" not in "".join(
        part.split('"')[0]
        for _, html in found.values()
        for part in html.split('href="')[1:]
        if not part.startswith("http")
    )


def test_many_records_are_shared_out_among_processes_with_the_same_result(tmp_path, monkeypatch):
    worlds.world(
        tmp_path / "results", 8, {"proportional": 0.7, "uniform": 0.6}, budgets=(0.5, 1.0, 2.0, 4.0, 8.0), n=20
    )
    build([tmp_path / "results"], tmp_path / "many")
    monkeypatch.setattr("harness.parallel.jobs", lambda: 1)
    build([tmp_path / "results"], tmp_path / "one")
    pages = sorted(p.relative_to(tmp_path / "many") for p in (tmp_path / "many").rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        assert (tmp_path / "many" / page).read_bytes() == (tmp_path / "one" / page).read_bytes()


def test_a_process_that_has_drawn_builds_the_same_pages(folder, tmp_path):
    build([folder / "results"], tmp_path / "forked")
    picture.draw([picture.Point("a", "a", 1, 1, 0.5, None, None)], None)
    build([folder / "results"], tmp_path / "drawn")
    for page in ("index.html", "workloads.html"):
        assert (tmp_path / "forked" / page).read_bytes() == (tmp_path / "drawn" / page).read_bytes()
