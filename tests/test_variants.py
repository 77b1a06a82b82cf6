"""Variants of pocket for the studies change what they say, and nothing else."""

import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from benchmarks import by_task, run_table, variants
from harness.suite import load_suite
from tests.records import make_record, write_run

ROWS = variants.pocket()


def sizes(rows):
    return Counter(row["task"] for row in rows)


def changed(rows, split="train"):
    return [(a, b) for a, b in zip(ROWS[split], rows[split], strict=True) if a != b]


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_variant_is_a_suite_and_made_the_same_again(name, tmp_path):
    first, again = (variants.write(name, tmp_path / k) for k in "ab")
    suite = load_suite(str(first))
    assert suite.name == f"pocket-{name.replace('_', '-')}"
    assert [p.read_bytes() for p in sorted((tmp_path / "a").rglob("*.*"))] == [
        p.read_bytes() for p in sorted((tmp_path / "b").rglob("*.*"))
    ]
    assert set(suite.tasks) == set(sizes(variants.VARIANTS[name](ROWS)["train"]))
    assert (suite.train.epochs, suite.train.lr_grid) == (10, load_suite("pocket").train.lr_grid)
    assert again != first


def test_half_keeps_half_of_each_task():
    rows = variants.half(ROWS)
    assert sizes(rows["train"]) == {task: n // 2 for task, n in sizes(ROWS["train"]).items()}
    assert all(row in ROWS["train"] for row in rows["train"])
    assert (rows["validation"], rows["test"]) == (ROWS["validation"], ROWS["test"])


@pytest.mark.parametrize("make", [variants.coarse, variants.fine])
def test_other_tasks_of_the_same_rows(make):
    rows = make(ROWS)
    for split in rows:
        assert [(r["input"], r["target"]) for r in rows[split]] == [(r["input"], r["target"]) for r in ROWS[split]]
    assert len(sizes(rows["train"])) == {"coarse": 4, "fine": 16}[make.__name__]
    assert len(sizes(rows["test"])) == len(sizes(rows["train"]))
    assert min(sizes(rows["test"]).values()) >= 100


def test_poison_exchanges_targets_of_one_task():
    pairs = changed(variants.poisoned(ROWS))
    assert {a["task"] for a, _ in pairs} == {"larger"}
    assert len(pairs) == round(0.4 * sizes(ROWS["train"])["larger"])
    assert all(a["input"] == b["input"] and a["target"] != b["target"] for a, b in pairs)


def test_a_low_prior_has_no_digit_in_its_place():
    assert all(d != o for d, o in variants.OTHER_DIGITS.items())
    assert len(set(variants.OTHER_DIGITS.values())) == 10
    rows = variants.low_prior(ROWS)
    for split in rows:
        assert len(changed(rows, split)) == sizes(ROWS[split])["addition"]


def test_a_twin_and_noise():
    rows = variants.twin(ROWS)
    counts = sizes(rows["train"])
    assert counts["reverse"] == counts["reverse_again"]
    before = [r["target"] for r in ROWS["train"] if r["task"] == "larger"]
    after = [r["target"] for r in rows["train"] if r["task"] == "larger"]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert set(after) <= set(before)


def test_a_line_has_the_mixture_that_its_run_has_learned():
    made = make_record("skill_it", 0, {"a": 0.5, "b": 0.1}, suite="twin")
    logs = [{"weights": {"b": 0.25, "a": 0.75}, "l1": 0.5}, {"weights": {"a": 0.5, "b": 0.5}, "l1": 0.0}]
    made.events.extend({"billed_flops": 1, "verb": "log", "note": "weights", "data": data} for data in logs)
    made.events.append({"billed_flops": 1, "verb": "log", "note": "counts", "data": {"a": 3}})
    record = type(made).model_validate(made.model_dump(warnings=False))
    assert run_table.line(record)[-2:] == ["a=0.5000 b=0.1000", "a=0.6250 b=0.3750"]


def test_runs_of_a_variant_become_lines_and_lines_a_table_of_tasks(tmp_path, monkeypatch, capsys):
    for seed, (plain, other) in enumerate(
        [((0.5, 0.1), (0.7, 0.1)), ((0.6, 0.2), (0.7, 0.2)), ((0.7, 0.3), (0.7, 0.3))]
    ):
        for name, (a, b) in (("proportional", plain), ("dft", other)):
            write_run(make_record(name, seed, {"a": a, "b": b}, suite="twin", n=100), tmp_path)
    write_run(make_record("dft", 0, {"a": 0.9}, suite="other", n=100), tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_table.py", "twin", "--runs", str(tmp_path)])
    run_table.main()
    lines = tmp_path / "runs.csv"
    lines.write_text(capsys.readouterr().out)
    assert len(lines.read_text().splitlines()) == 7
    assert all(line.endswith(",") for line in lines.read_text().splitlines()[1:])  # no mixture learned
    monkeypatch.setattr(sys, "argv", ["by_task.py", str(lines), "a", "score", "absent"])
    by_task.main()
    table = [[c.strip() for c in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()[2:]]
    # differences of a: 20, 10 and 0, so 10 ± 4.303 * 10 / sqrt(3); of the mean of a and b: half of that
    assert table == [
        ["twin", "dft", "3", "70.0", "+10.0 [-14.8, +34.8]", "45.0", "+5.0 [-7.4, +17.4]", "", ""],
        ["twin", "proportional", "3", "60.0", "", "40.0", "", "", ""],
    ]


def test_a_matrix_file_gives_such_a_table_from_its_records(tmp_path, monkeypatch, capsys):
    runs = [("proportional lr=0.0008", s, {"a": 0.5, "b": 0.1 * s}, 1.0) for s in range(3)]
    runs += [("dft lr=0.0004", s, {"a": 0.7, "b": 0.1 * s}, 1.0) for s in range(3)]
    runs += [("dft lr=0.0004", 0, {"a": 0.9, "b": 0.7}, 2.0)]
    cells = [
        SimpleNamespace(entry=e, record=write_run(make_record(e.split()[0], s, t, n=100, multiple=b), tmp_path))
        for e, s, t, b in runs
    ]
    cells.append(SimpleNamespace(entry="sft lr=0.0008", record=None))  # not done
    monkeypatch.setattr(by_task, "build", lambda *_: SimpleNamespace(cells=cells))
    tables = []
    for more in ([], ["--means"]):
        monkeypatch.setattr(sys, "argv", ["by_task.py", "some.yaml", "b", "score", *more])
        by_task.main()
        rows = capsys.readouterr().out.splitlines()[2:]
        tables.append([[c.strip() for c in row.split("|")[1:-1]] for row in rows])
    assert tables[0] == [
        ["pocket", "proportional", "3", "10.0", "", "30.0", ""],
        ["pocket", "dft", "3", "10.0", "+0.0 [+0.0, +0.0]", "40.0", "+10.0 [+10.0, +10.0]"],
        ["pocket", "dft 2x", "1", "70.0", "+70.0", "80.0", "+55.0"],
    ]
    assert tables[1] == [
        ["pocket", "proportional", "3", "10.0", "30.0"],
        ["pocket", "dft", "3", "10.0", "40.0"],
        ["pocket", "dft 2x", "1", "70.0", "80.0"],
    ]
