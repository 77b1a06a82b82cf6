import json
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from harness import show
from harness.board import section
from harness.cli import cli
from harness.pages import breaks, command
from harness.profiles import Target
from harness.publish import build, load
from harness.record import read
from tests.records import ONE_BUDGET, make_record, write_result, write_run

VOID = {"meta", "link", "br", "wbr", "input"}
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Elements, links and text of a page; fails on tags that do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.words, self.cells = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.links += [attrs[a] for a in ("href", "src") if a in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def row(self, start):
        """The cells, spaces joined, of the first table row whose first cell starts so."""
        rows = [[" ".join(c.split()) for c in cells] for cells in self.cells]
        return next(cells for cells in rows if cells[0].startswith(start))


def page(tmp_path, *records):
    for r in records:
        write_run(r, tmp_path / "runs")
    return Page(build([tmp_path / "runs"], tmp_path / "out").read_text(encoding="utf-8"))


def seeds(n, value, strategy="proportional", **kw):
    return [make_record(strategy, s, {"a": value + 0.01 * s, "b": value + 0.01 * s}, **kw) for s in range(n)]


def test_without_records_the_page_says_how_to_make_one(tmp_path):
    index = build([tmp_path / "results", tmp_path / "runs"], tmp_path / "out")
    found = Page(index.read_text())
    assert index == tmp_path / "out" / "index.html"
    assert "There are no records yet." in found.text
    assert "harness run" in found.text
    assert (tmp_path / "out" / "style.css").read_text().startswith(":root")


def test_command_line_prints_the_path(tmp_path):
    args = ["site", "--results", str(tmp_path / "a"), "--runs", str(tmp_path / "b"), "--out", str(tmp_path / "dist")]
    assert CliRunner().invoke(cli, args).output.strip() == str(tmp_path / "dist" / "index.html")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("soft_sro", ["soft_sro"]),
        ("taskpgm+partitionsel", ["taskpgm+", "partitionsel"]),
        ("greats pool=4, eta_select=1.0", ["greats pool=4, ", "eta_", "select=", "1.0"]),
        ("a__very__long__name_", ["a__", "very__", "long__", "name_"]),
        ("<b>+ooooooooooo=&amp;  x", ["<b>+", "ooooooooooo=", "&amp;", "  x"]),
        ("oooooooooooooooo", ["oooooooooooooooo"]),
    ],
)
def test_a_long_word_of_a_name_may_break_at_its_joints_and_reads_as_it_was(name, parts):
    found = Page(f"<p>{breaks(name)}</p>")
    assert "".join(found.words) == name
    assert found.words == parts
    assert [tag for tag, _ in found.tags].count("wbr") == breaks(name).count("<wbr>")


def test_a_row_shows_mean_interval_and_paired_difference(tmp_path):
    # proportional 0.50 0.51; msft 0.60 0.63 over the same seeds: differences 0.10 and 0.12
    msft = [
        make_record("msft", s, {"a": v}, phases={"train": 600, "discarded": 200}) for s, v in ((0, 0.60), (1, 0.63))
    ]
    plain = [make_record("proportional", s, {"a": v}) for s, v in ((0, 0.50), (1, 0.51))]
    found = page(tmp_path, *msft, *plain)
    assert found.row("msft") == [
        "msft provisional unverified",
        "–",
        "61.5 ± 19.1",  # t(1) = 12.706 times half the range of 3 points
        "+11.0 ± 12.7",
        "",
        "–",
        "0.0008x",
        "25.0",
        "–",
        "0.0 s",
        "none",
        "0.001",
        "20 1",
    ]
    assert found.row("proportional")[3] == "reference"
    assert found.row("base model")[2] == "10.0"


def test_one_seed_has_no_interval_but_a_labelled_item_error(tmp_path):
    found = page(tmp_path, make_record("proportional", 0, {"a": 0.5}, n=101), make_record("dft", 0, {"a": 0.6}))
    # sqrt(0.25 / 100) = 0.05
    assert found.row("proportional")[2] == "50.0 s.e. 5.0"
    assert found.row("dft")[3] == "+10.0 one shared seed"


@pytest.mark.parametrize(("suite", "needed"), [("pocket", 10), ("bbh", 5)])
def test_provisional_below_the_seeds_that_the_rules_ask(tmp_path, suite, needed):
    few, enough = seeds(needed - 1, 0.5, "few", suite=suite), seeds(needed, 0.5, "enough", suite=suite)
    found = page(tmp_path, *few, *enough)
    assert found.row("few")[0] == "few provisional unverified"
    assert found.row("enough")[0] == "enough unverified"


def test_a_row_that_lacks_one_of_the_first_seeds_is_provisional_however_many_it_has(tmp_path):
    best = [r for r in seeds(30, 0.5, "best") if r.identity.seed != 4]
    found = page(tmp_path, *best, *seeds(11, 0.4, "plain"))
    assert found.row("best")[0] == "best provisional unverified"
    assert found.row("plain")[0] == "plain unverified"


def test_unofficial_runs_are_marked(tmp_path):
    mixed = [make_record("mixed", s, official=s > 0) for s in range(3)]
    found = page(tmp_path, *mixed, make_record("none", official=False))
    assert found.row("mixed")[0] == "mixed provisional 1 of 3 unofficial unverified"
    assert found.row("none")[0] == "none provisional unofficial unverified"


def test_rows_are_sorted_by_score_and_budgets_begin_with_1x():
    records = [
        make_record(name, 0, {"a": v}, multiple=m)
        for name, v, m in (("x", 0.5, 1), ("y", 0.6, 1), ("x", 0.4, 0.5), ("y", 0.3, 0.5), ("x", 0.7, 2))
    ]
    found = [(m, [row.strategy for row in rows]) for m, rows in section(records).budgets]
    assert found == [(1, ["y", "x"]), (0.5, ["x", "y"]), (2, ["x"])]


def test_the_reference_is_plain_proportional_at_the_same_budget():
    records = [
        *seeds(3, 0.5),
        *seeds(4, 0.8, lr=2e-3, passed={"x": 1}),
        *seeds(1, 0.9, lr=5e-4),
        *seeds(2, 0.3, multiple=0.5),
        *seeds(2, 0.6, "msft", multiple=0.5),
        *seeds(2, 0.6, "msft", multiple=2),
    ]
    rows = {
        (r.strategy, r.multiple, r.first.identity.lr): r for r in section(records).rows if len(r.runs) > 1 or r.tuning
    }
    rows["proportional", 1, 1e-3] = next(r for r in section(records).rows if r.is_reference and r.multiple == 1)
    assert [r.identity.seed for r in rows["proportional", 1, 1e-3].runs] == [1, 2]
    assert rows["proportional", 1, 5e-4].difference.value == pytest.approx(0.4)
    assert rows["msft", 0.5, 1e-3].difference.value == pytest.approx(0.3)
    assert rows["msft", 2, 1e-3].difference is None


def test_what_differs_in_settings_source_or_rate_is_another_row():
    records = [
        make_record("s", 0),
        make_record("s", 1, passed={"beta": 2.0}),
        make_record("s", 2, source="edited"),
        make_record("s", 3, lr=2e-3),
    ]
    rows = section(records).rows
    assert len(rows) == len({row.label for row in rows}) == 4
    assert any(row.label.startswith("s beta=2.0 source ") for row in rows)
    assert sum("lr 0.00" in row.label for row in rows) >= 2
    assert [row.settings for row in rows if row.settings] == ["beta=2.0"]


def test_a_default_given_by_hand_is_the_same_row():
    by_hand = make_record("s", 0, hyperparameters={"beta": 1.0}, passed={"beta": 1.0})
    assert len(section([by_hand, make_record("s", 1, hyperparameters={"beta": 1.0})]).rows) == 1


def reusing(seed, of, value, flops=300_000, **kw):
    """A run that trained on the mixture of run `of`, a letter, learned with the seed `learned`."""
    weights = {"run": 16 * of, "weights": {"a": 0.25, "b": 0.75}}
    reused = {"id": 16 * of, "flops": flops, "seed": kw.pop("learned", seed)}
    given = {"hyperparameters": {"mixture": weights}, "reused": reused} | kw
    return make_record("taskpgm", seed, {"a": value, "b": value}, **given)


def test_amortised_rows_stand_after_the_ranked_ones_and_show_both_prices(tmp_path):
    ranked = [*seeds(2, 0.4), make_record("taskpgm", 0, {"a": 0.5, "b": 0.5}, hyperparameters={"mixture": None})]
    taken = [reusing(0, "a", 0.9), reusing(1, "b", 0.7, flops=500_000)]
    rows = section([*ranked, *taken]).rows
    assert [(row.strategy, row.amortised, len(row.runs)) for row in rows] == [
        ("taskpgm", False, 1),
        ("proportional", False, 2),
        ("taskpgm", True, 2),
    ]
    assert rows[2].spent == 1.0
    assert rows[2].first_use == pytest.approx(1.4)
    assert rows[2].difference.value == pytest.approx(0.8 - 0.405)
    there = replace(rows[2], goal=Target("exact_match", 0.0))  # reached before the first step
    assert there.to_target == pytest.approx(0.4), "what the learning had cost"
    shown = page(tmp_path, *ranked, *taken)
    cells = next(c for c in shown.cells if "amortised" in c[0])
    assert "first use 1.40x" in " ".join(cells[6].split())
    assert shown.text.count("amortised") >= 3  # the row, the legend, the caption
    run = Page((tmp_path / "out" / "runs" / f"{taken[0].id}.html").read_text())
    assert run.row("at first use")[1] == "1.30e6"
    assert run.row("mixture of " + 16 * "a")[1] == "3.00e5"
    assert "mixture=" + 16 * "a" in run.text
    assert 16 * "a" + ".html" not in run.links, "no page of that run is here"


def test_a_run_on_a_learned_mixture_links_to_the_run_that_learned_it(tmp_path):
    learned = make_record("taskpgm", 0, {"a": 0.5, "b": 0.5}, hyperparameters={"mixture": None})
    taken = reusing(0, "a", 0.9)
    taken.reports.reused.id = learned.id
    page(tmp_path, learned, taken)
    run = Page((tmp_path / "out" / "runs" / f"{taken.id}.html").read_text())
    assert run.row("mixture of " + learned.id)[1] == "3.00e5"
    assert f"{learned.id}.html" in run.links


def test_a_mixture_of_each_seeds_own_is_one_row_and_one_for_all_seeds_another():
    own = [reusing(seed, "abc"[seed], 0.5) for seed in range(3)]
    given = [reusing(seed, "a", 0.5, learned=7, passed={"mixture": 16 * "a"}) for seed in range(3)]
    short = [reusing(seed, "def"[seed], 0.5) for seed in range(3)]
    for r in short:
        r.reports.reused.budget = 0.5
    rows = section([*own, *given, *short]).rows
    assert [len(row.runs) for row in rows] == [3, 3, 3]
    assert sorted(row.settings for row in rows) == ["", "", "mixture=" + 16 * "a"]


@pytest.mark.parametrize(
    "other",
    [{"suite": "bbh"}, {"model": "m/n"}, {"mode": "lora"}, {"limit": 8}, {"data": "else"}, {"scores": {"a": 0.5}}],
)
def test_workloads_are_not_mixed(tmp_path, other):
    page(tmp_path, make_record(), make_record("msft", **other))
    boards = [Page(p.read_text()) for p in (tmp_path / "out" / "boards").glob("*.html")]
    assert len(boards) == 2
    (found,) = [b for b in boards if any(c[0].startswith("msft") for c in b.cells if c)]
    assert found.row("msft")[3] == "no reference"


def test_a_third_is_a_third_on_pages_and_every_digit_where_it_is_pasted_or_counted(tmp_path):
    third = {"every": 1 / 3}
    given = make_record("cadft", hyperparameters=third, passed=third)
    found = page(tmp_path, given, make_record("cadft", hyperparameters={"every": 0.5}), make_record())
    assert "every=1/3" in found.text
    assert str(1 / 3) not in found.text
    run = (tmp_path / "out" / "runs" / f"{given.id}.html").read_text()
    assert "every=1/3" in run
    assert f"-o every={1 / 3}" in run
    assert f"every={1 / 3}" in (tmp_path / "out" / "rows.csv").read_text()


def test_each_run_counts_once_and_a_result_goes_before_a_failed_copy(tmp_path):
    good = make_record("msft", 1)
    write_run(make_record("msft", 1, status="failed"), tmp_path / "runs")
    path = write_result(good, tmp_path / "results")
    assert path.name == f"1-{good.id[:8]}.json"
    for sources in (["runs", "results"], ["results", "runs"], ["results", "results"]):
        assert list(load([tmp_path / s for s in sources])) == [good]


def test_results_of_a_hub_model_are_found(tmp_path):
    made = make_record(model="Qwen/Qwen2.5-0.5B")
    write_result(made, tmp_path)
    assert list(load([tmp_path])) == [made]


def test_failed_runs_are_counted_and_not_shown(tmp_path):
    failed = make_record("dft", 4, status="failed", error="loss is NaN")
    refused = make_record("sft", 2, status="failed", error="expected a positive number", phases={})
    found = page(tmp_path, make_record(), failed, refused)  # what never began to compute is not spoken of
    assert f"1 failed run is not shown: dft , seed 4 ( {failed.id} )." in found.text
    assert not (tmp_path / "out" / "runs" / f"{failed.id}.html").exists()


def _edit(path, **change):
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": {}}, "without scores"),
        ({"id": "../../escape"}, "16 hex digits"),
        ({"schema_version": 99}, "schema version 99"),
        ({"status": "great"}, "status"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_broken_record_costs_one_line_and_nothing_else(tmp_path, capsys, change, said):
    _edit(write_run(make_record("broken"), tmp_path / "runs"), **change)
    found = page(tmp_path, make_record("whole"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("harness: skipped ")
    assert lines[0].count("record.json") == 1
    assert said in lines[0]
    assert found.row("whole")
    assert "broken" not in found.text
    assert not list(tmp_path.rglob("escape*"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'"x"', b'{"scores": NaN}'])
def test_files_that_are_no_records_are_skipped(tmp_path, capsys, content):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "record.json").write_bytes(content)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / f"0-{8 * '0'}.refuted-{8 * '0'}.json").write_bytes(content)
    (tmp_path / "results" / f"x.reference-{8 * '0'}.json").write_bytes(content)
    assert list(load([tmp_path / "runs", tmp_path / "results"])) == []
    lines = capsys.readouterr().err.splitlines()
    names = ["/runs/x/record.json", ".refuted-", ".reference-"]
    assert [line.count(name) for line, name in zip(lines, names, strict=True)] == [1, 1, 1]


def test_scores_that_are_not_numbers_are_refused(tmp_path, capsys):
    path = write_run(make_record(scores={"a": 0.5}), tmp_path)
    path.write_text(path.read_text().replace('"value": 0.5', '"value": NaN'))
    assert list(load([tmp_path])) == []
    assert "finite" in capsys.readouterr().err


def test_hostile_names_are_text_everywhere(tmp_path):
    odd = make_record(
        HOSTILE,
        scores={HOSTILE: 0.5, '"><img src=x onerror=alert(1)>': 0.6},
        suite="'\"&{{7*7}}${7*7}",
        model='"><svg onload=alert(1)>',
        passed={"<b>": "</code><script>x</script>"},
    )
    page(tmp_path, odd, make_record("<script>alert(2)</script>", status="failed"))
    pages = [Page(p.read_text(encoding="utf-8")) for p in sorted((tmp_path / "out").rglob("*.html"))]
    assert sum(HOSTILE in p.text for p in pages) >= 5  # board, front, run, strategy, list, comparison
    for p in pages:
        assert not {"img", "b", "iframe"} & {tag for tag, _ in p.tags}
        assert not [a for _, attrs in p.tags for a in attrs if a.startswith("on")]
        scripts = [attrs for tag, attrs in p.tags if tag == "script"]
        assert all(
            a.get("src", "").endswith(("site.js", "plot.js")) or a.get("type") == "application/json" for a in scripts
        )
    assert any("{{7*7}}${7*7}" in p.text for p in pages)


@pytest.mark.parametrize(
    "odd", ["a\u202egnp.exe", "a\u200b\u2066b", "z\u0301\u0301\u0301\u0301\u0301\u0301", "x" * 5000, "a\x00\x1b[31m"]
)
def test_text_that_turns_hides_or_fills_the_page_is_made_plain(tmp_path, odd):
    page(tmp_path, make_record(odd, passed={"note": odd}))
    for path in (tmp_path / "out").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not {"\u202e", "\u200b", "\u2066", "\x00", "\x1b"} & set(text)
        assert "\u0301" * 4 not in text
        assert "x" * 2001 not in text


def test_pages_are_plain_files_with_relative_links_that_lead_somewhere(tmp_path):
    page(tmp_path, *seeds(2, 0.5), *seeds(2, 0.6, "msft"), make_record(suite="bbh"))
    pages = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in sorted((tmp_path / "out").rglob("*.html"))}
    assert len([p for p in pages if p.parent.name == "runs"]) == 5
    for path, found in pages.items():
        assert len(found.ids) == len(set(found.ids))
        for tag, attrs in found.tags:
            link = attrs.get("href") or attrs.get("src")
            if link is None or (tag == "a" and link.startswith("https://")):
                continue
            target, _, anchor = link.partition("#")
            assert ":" not in target, link
            file = (path.parent / target).resolve() if target else path
            assert file.is_file(), (path.name, link)
            assert not anchor or anchor.startswith("hl=") or anchor in pages[file].ids, (path.name, link)
    for file in ("style.css", "site.js", "plot.js"):
        assert "http" not in (tmp_path / "out" / file).read_text().replace("http://www.w3.org/2000/svg", "")


def test_tables_and_picture_speak_to_screen_readers(tmp_path):
    found = page(tmp_path, *seeds(2, 0.5), *seeds(2, 0.6, "msft"))
    pages = [Page(p.read_text()) for p in (tmp_path / "out").rglob("*.html") if p.parent.name != "out"]
    figure = next(
        attrs for _, attrs in found.tags if attrs.get("role") == "img" and "picture" in attrs.get("class", "")
    )
    assert "msft has the best mean at 1x, 60.5 % over" in figure["aria-label"]
    assert len(pages) > 5
    for p in pages:
        assert all(attrs.get("scope") for tag, attrs in p.tags if tag == "th")
        tables = [attrs for tag, attrs in p.tags if tag == "table" and "data-pair" not in attrs]
        assert sum(tag == "caption" for tag, _ in p.tags) == len(tables)
        assert all(attrs.get("aria-label") for tag, attrs in p.tags if tag == "svg" and attrs.get("class") != "marks")


def test_pages_of_runs_that_are_gone_go_and_other_files_stay(tmp_path):
    page(tmp_path, make_record("old"))
    (old,) = (tmp_path / "out" / "runs").glob("*.html")
    (old.parent / "notes.html").write_text("mine")
    build([tmp_path / "nothing"], tmp_path / "out")
    assert not old.exists()
    assert (old.parent / "notes.html").exists()


def test_building_twice_gives_the_same_bytes(tmp_path):
    page(tmp_path, *seeds(2, 0.5), *seeds(2, 0.6, "msft"))
    one = (tmp_path / "out" / "index.html").read_bytes()
    page(tmp_path)
    assert (tmp_path / "out" / "index.html").read_bytes() == one


def test_run_page_has_scores_ledger_identity_and_command(tmp_path):
    made = make_record("msft", 3, {"a": 0.5, "b": 0.25}, phases={"train": 750, "discarded": 250}, passed={"C": "2"})
    page(tmp_path, made)
    run = Page((tmp_path / "out" / "runs" / f"{made.id}.html").read_text())
    assert run.row("a")[3:7] == ["10.0", "50.0", "5.0", "+40.0"]
    assert run.row("macro mean")[4] == "37.5"
    assert run.row("train")[1:3] == ["750", "75.0"]
    assert run.row("billed")[1] == "1.00e3"
    assert run.row("look")[2] == "not billed"
    assert command(made) in run.text
    assert made.identity.source_sha256 in run.text


def test_the_command_asks_for_the_same_run():
    made = make_record("a b", 3, lr=3e-4, multiple=0.3, mode="lora", passed={"beta": "x y", "tau": "$(id)"}, limit=8)
    words = shlex.split(command(made))
    assert words[:4] == ["harness", "run", "--strategy", "a b"]
    assert words[words.index("--budget") + 1] == "0.3x"
    assert float(words[words.index("--lr") + 1]) == 3e-4
    assert [words[k + 1] for k, w in enumerate(words) if w == "-o"] == ["beta=x y", "tau=$(id)"]
    assert words[-2:] == ["--limit", "8"]
    options = {o for p in cli.commands["run"].params for o in p.opts}
    assert {w for w in words if w.startswith("-")} <= options
    assert "--budget 1x" in command(make_record())


def test_a_strategy_that_bills_nothing_has_a_row_and_no_point(tmp_path):
    found = page(tmp_path, make_record("free", phases={}))
    assert found.row("free")[6] == "0x"
    assert "figure" not in {tag for tag, _ in found.tags}


def test_the_site_imports_neither_torch_nor_transformers():
    code = "import sys, harness.publish; print([m for m in ('torch', 'transformers', 'altair') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_fixture_survives_writing_and_reading(tmp_path):
    made = make_record("msft", 2, multiple=0.5)
    assert read(write_run(made, tmp_path)) == made
    assert made.total_model_flops == made.identity.budget.flops == ONE_BUDGET // 2


def test_a_suite_whose_rows_are_not_pinned_is_marked(tmp_path, capsys):
    made = make_record()
    for unverified, folder in ((False, tmp_path / "pinned"), (True, tmp_path / "loose")):
        reports = made.reports.model_copy(update={"unverified": unverified})
        page(folder, made.model_copy(update={"reports": reports}))
        marked = {p.parent.name for p in (folder / "out").rglob("*.html") if "rows unpinned" in p.read_text()}
        assert bool(marked) is unverified, marked
        show.tables(made.model_copy(update={"reports": reports}))
        assert ("suite unverified" in " ".join(capsys.readouterr().out.split())) is unverified


def test_what_task_files_measure_beside_the_score_is_on_the_runs_page(tmp_path, capsys):
    made = make_record(scores={"a": 0.5, "b": 0.25, "c": 0.0})
    measured = {"a": {"bleu": 0.5, "<i>validity": 0.25}, "b": {"bleu": 1.0}, "c": {}}
    scores = {t: s.model_copy(update={"metrics": measured[t]}) for t, s in made.scores.items()}
    made = made.model_copy(update={"scores": scores})
    page(tmp_path, made)
    found = Page(next(p.read_text() for p in (tmp_path / "out").rglob("*.html") if p.stem == made.id))
    tables = [[" ".join(c.split()) for c in cells] for cells in found.cells]
    (head,) = [cells for cells in tables if "bleu" in cells]
    assert head == ["task", "<i>validity", "bleu"]
    start = tables.index(head)
    assert tables[start + 1 : start + 3] == [["a", "0.250", "0.500"], ["b", "–", "1.000"]]
    show.tables(made)
    shown = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["a", "0.250", "0.500"] in shown
    assert ["b", "1.000"] in shown


def test_the_ledger_in_a_terminal_sums_up_what_is_above_it(tmp_path, capsys):
    """A record's file has its phases by name, which put `billed` above the training and the scoring under the bill."""
    reused = {"id": "0" * 16, "flops": 5, "seed": 0}
    phases = {"train": ONE_BUDGET // 2, "proxy": ONE_BUDGET // 4, "probe": ONE_BUDGET // 8, "look": 7, "score": 8}
    made = read(write_run(make_record("taskpgm", phases=phases, reused=reused), tmp_path))
    show.tables(made)
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[1] for line in lines[next(i for i, x in enumerate(lines) if "phase" in x) :] if "│" in line]
    assert shown == ["train", "proxy", "probe", "billed", "mixture", "at", "look", "score"]
