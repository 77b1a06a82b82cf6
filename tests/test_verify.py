"""`harness verify`: a good record passes; each way of changing one is caught, with its reason."""

import gzip
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import items as items_module
from harness import privacy, provenance, record, registry
from harness.between import between
from harness.cli import cli
from harness.data import Row
from harness.errors import HarnessError
from harness.gather import gather
from harness.items import beside, pack
from harness.suite import load_suite
from harness.verify import verify
from tests.records import make_record, pocket_run, rehashed, write_run, write_whole_run

TASK = "addition"


@pytest.fixture(scope="module")
def good():
    return pocket_run()


class Submitted:
    """A submitted record to change: `raw` its JSON, `rows` its items by task; `write` puts both where `at` says."""

    def __init__(self, made, items, results):
        self.raw = made.model_dump(mode="json")
        self.rows = {t: [json.loads(line) for line in lines] for t, lines in items.lines.items()}
        self.packed, self.results, self.at = pack(items), results, None
        self.touched = False

    def rehash(self):
        """The id and workload of what the identity says now: a careful hand changes them too."""
        made = rehashed(record.Record.model_validate(self.raw))
        self.raw["id"], self.raw["workload"] = made.id, made.workload

    def write(self, text=None):
        i = self.raw["identity"]
        path = (
            self.at or self.results / i["suite"] / i["model"] / i["strategy"] / f"{i['seed']}-{self.raw['id'][:8]}.json"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or json.dumps(self.raw, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if self.touched:
            self.packed = pack(items_module.Items({}, self.rows))
        if self.packed is not None:
            beside(path).write_bytes(self.packed.answers)
            self.questions = path.parents[2] / "questions" / self.packed.name
            self.questions.parent.mkdir(exist_ok=True, parents=True)
            self.questions.write_bytes(self.packed.questions)
        return path


@pytest.fixture
def s(good, tmp_path):
    return Submitted(*good, tmp_path / "results")


def said(*paths, **options):
    found = verify([Path(p) for p in paths], **options)
    assert not found.unreadable, found.unreadable
    return [str(f) for f in found.findings]


def test_a_good_record_has_no_findings_as_a_run_and_as_a_result(good, s, tmp_path):
    made, items = good
    assert said(s.write()) == []
    assert said(tmp_path / "results") == []
    assert said(write_whole_run(made, items, tmp_path / "runs")) == []
    assert said(tmp_path / "runs", tmp_path / "results") == []


def test_a_good_record_is_graded_again(s):
    assert said(s.write(), regrade=True) == []


def put(path, value):
    """A change of one place of the record, `a.b.0.c`."""
    *parents, last = path.split(".")

    def change(s):
        place = s.raw
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value

    return change


def add(path, by):
    def change(s):
        place = s.raw
        *parents, last = path.split(".")
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] += by

    return change


def hashed(*changes):
    """Changes by somebody who knows how ids are made."""

    def change(s):
        for c in changes:
            c(s)
        s.rehash()

    return change


def item(change):
    def apply(s):
        s.touched = True
        change(s.rows[TASK])

    return apply


def flip(rows, k=0):
    rows[k]["correct"]["exact"] = not rows[k]["correct"]["exact"]


def flip_two(rows):
    right = next(r for r in rows if r["correct"]["exact"])
    wrong = next(r for r in rows if not r["correct"]["exact"])
    right["correct"]["exact"], wrong["correct"]["exact"] = False, True


def raised(s):
    """A score with everything that hangs on it in the record."""
    score = s.raw["scores"][TASK]
    score["value"] = score["filters"]["exact"] = 297 / 300
    score["stderr"] = (0.99 * 0.01 / 299) ** 0.5


def halved(s):
    s.raw["ledger"]["train"]["model_flops"] //= 2
    s.raw["total_model_flops"] //= 2


def rename(s):
    s.raw["identity"]["strategy"] = "msft"


def stranger(s):
    s.raw["identity"]["strategy"] = "my_own"


def other_task(s):
    s.raw["scores"]["juggling"] = s.raw["scores"].pop(TASK)
    s.rows["juggling"] = s.rows.pop(TASK)
    for k, row in enumerate(s.rows["juggling"]):
        row["id"] = f"t:juggling/{k}"
    s.raw["reports"]["overlap"]["juggling"] = s.raw["reports"]["overlap"].pop(TASK)
    s.raw["reports"]["base_scores"]["juggling"] = s.raw["reports"]["base_scores"].pop(TASK)
    s.touched = True


def drop_task(s):
    for place in (s.raw["scores"], s.raw["reports"]["overlap"], s.raw["reports"]["base_scores"], s.rows):
        del place[TASK]
    s.touched = True


def without(path):
    def change(s):
        place = s.raw
        *parents, last = path.split(".")
        for key in parents:
            place = place[key]
        del place[last]

    return change


def move(name):
    def change(s):
        i = s.raw["identity"]
        s.at = s.results / i["suite"] / i["model"] / i["strategy"] / name

    return change


def folder(s):
    s.at = s.results / "pocket" / "pocket" / "uniform" / f"0-{s.raw['id'][:8]}.json"


def no_items(s):
    s.packed = None


def log(data):
    return put("events.0.data", data)


TAMPERED = {
    # scores and items
    "a score raised": (put(f"scores.{TASK}.value", 297 / 300), "the value of one of its filters"),
    "a score raised with its filter and error": (raised, "the share of its items"),
    "a share that n items cannot give": (put(f"scores.{TASK}.filters.exact", 0.98765), "a whole number of 300 items"),
    "a score above 1": (put(f"scores.{TASK}.value", 1.5), "a whole number of 300"),
    "a smaller standard error": (put(f"scores.{TASK}.stderr", 0.001), "of 0."),
    "another metric": (put(f"scores.{TASK}.metric", "f1"), "exact_match, the suite's"),
    "more items": (put(f"scores.{TASK}.n", 3000), "as scored"),
    "truncated answers hidden": (put(f"scores.{TASK}.truncated", 3), "counted in its items"),
    "more truncated than items": (put(f"scores.{TASK}.truncated", 301), "0 to 300"),
    "an item flipped": (item(flip), "the share of its items"),
    "two items flipped against each other": (item(flip_two), "as the record has it"),
    "a response rewritten": (item(lambda rows: rows[5].update(response=" 12")), "as the record has it"),
    "items reordered": (item(lambda rows: rows.reverse()), "items in their order, each once"),
    "an item twice": (item(lambda rows: rows.append(dict(rows[0]))), "items in their order, each once"),
    "an item removed": (item(lambda rows: rows.pop()), "300, as scored"),
    "an item with another key": (item(lambda rows: rows[0].update(x=1)), "expected correct"),
    "an item that is neither right nor wrong": (
        item(lambda rows: rows[0]["correct"].update(exact=1)),
        "a value for each",
    ),
    "an item's digest that is none": (item(lambda rows: rows[0].update(item_sha256="0")), "64 hex digits"),
    "a digest of other items": (put(f"scores.{TASK}.items_sha256", "0" * 64), "as the record has it"),
    "a secret in a response": (
        item(lambda rows: rows[0].update(response="hf_" + "a" * 30)),
        "a secret in the response",
    ),
    "no items": (no_items, "the items that its scores are of"),
    "scores over a task that the suite lacks": (other_task, "one of the 8 tasks of suite pocket"),
    "a task left out": (drop_task, "all 8 tasks of suite pocket"),
    "a base score of another task": (put("reports.base_scores.x", 0.1), "the scored tasks"),
    "an overlap hidden": (without(f"reports.overlap.{TASK}"), "the scored tasks"),
    "an overlap of fewer items": (put(f"reports.overlap.{TASK}.n", 10), "counts of the 300 items"),
    # ledger, budget, trails
    "FLOPs halved": (put("ledger.train.model_flops", 500_000), "the sum of the billed phases"),
    "FLOPs halved with their sum": (halved, "between 0 and the total"),
    "negative FLOPs": (put("ledger.probe.model_flops", -5), "at least 0"),
    "negative seconds": (put("ledger.train.seconds", -1.0), "at least 0"),
    "tokens for nothing": (put("ledger.proxy.tokens", 10), "FLOPs where there are tokens"),
    "FLOPs on no tokens": (put("ledger.train.tokens", 0), "tokens where there are FLOPs"),
    "a phase of one's own": (
        put("ledger.free", {"model_flops": 0, "hardware_flops": 0, "tokens": 0, "seconds": 0.0}),
        "nine",
    ),
    "a phase missing": (without("ledger.proxy"), "is unknown or missing"),
    "more than the budget": (hashed(put("identity.budget.flops", 900_000)), "at most the budget"),
    "events beyond the total": (put("events.0.billed_flops", 2_000_000), "between 0 and the total"),
    "curves beyond the budget": (put("curves.23.billed_flops", 1_100_000), "between 0 and the total"),
    "curves that stop early": (
        lambda s: s.raw["curves"].__delitem__(slice(16, None)),
        "the last look is at the answer",
    ),
    "curves that go backwards": (lambda s: s.raw["curves"].reverse(), "the order in which it happened"),
    "a curve without a task": (lambda s: s.raw["curves"].pop(0), "not every task once a look"),
    "no curves": (put("curves", []), "the harness's own looks"),
    "a mixture that sums to 2": (put("mixture.0.weights", {TASK: 2.0}), "expected 1, none negative"),
    "a mixture of another task": (put("mixture.0.weights", {"x": 1.0}), "a task of the curves"),
    # identity
    "another seed": (put("identity.seed", 7), "the hash of identity"),
    "another learning rate": (put("identity.lr", 1e-2), "the hash of identity"),
    "another id": (put("id", "f" * 16), "the hash of identity"),
    "another workload": (put("workload", "f" * 16), "the hash of suite"),
    "a renamed strategy": (rename, "the hash of identity"),
    "a renamed strategy with its id": (hashed(rename), "of strategies/ as it is here"),
    "a strategy that nobody has": (hashed(stranger), "a strategy of strategies/"),
    "source of another file": (hashed(put("identity.source_sha256", "0" * 64)), "of strategies/ as it is here"),
    "a suite of one's own by the same name": (hashed(put("identity.suite_sha256", "0" * 64)), "of suites/pocket.yaml"),
    "other test data": (put("identity.data_sha256.test", "0" * 64), "as the suite pins it"),
    "no test data": (without("identity.data_sha256.test"), "expected test, train, validation"),
    "another template": (put("environment.template_sha256", "0" * 64), "environment.template_sha256"),
    "a negative learning rate": (hashed(put("identity.lr", -1.0)), "a positive number"),
    "an option that the run did not have": (put("identity.passed", {"C": "2"}), "one of the hyperparameters"),
    "an option of another value": (
        hashed(put("identity.passed", {"C": "2"}), put("identity.hyperparameters", {"C": 3.0})),
        "as the run had it",
    ),
    "a file name of another seed": (move("1-{}.json"), "of its seed and id"),
    "a folder of another strategy": (folder, "expected 'pocket/pocket/proportional'"),
    # provenance
    "time that goes backwards": (put("ended", "2025-12-31T00:00:00+00:00"), "not before started"),
    "a time without a zone": (put("started", "2026-01-01T00:00:00"), "with its offset"),
    "a run of the future": (put("ended", "2126-01-01T00:00:00+00:00"), "a time that has been"),
    "official without a commit": (put("environment.git.commit", None), "official: true"),
    "official of a dirty clone": (put("environment.git.dirty", True), "official: true"),
    "a commit that is none": (put("environment.git.commit", "main"), "40 hex digits"),
    "an official slice": (hashed(put("reports.limit", 8)), "without --limit"),
    "rules of tomorrow": (put("rules_version", 99), "expected 1 to"),
    "a schema of tomorrow": (put("schema_version", 99), "schema version"),
    "a failed run": (put("status", "failed"), "scores of every run that did not fail"),
    "weights without a digest": (put("reports.weights_sha256", None), "64 hex digits"),
    # form
    "an unknown key": (put("surprise", 1), "an unknown key"),
    "an unknown key deep inside": (put("environment.git.user", "x"), "environment.git.user: an unknown key"),
    "a missing key": (without("reports.limit"), "reports.limit: missing"),
    "text for a number": (put("total_model_flops", "1000000"), "another type"),
    "NaN": (put(f"scores.{TASK}.value", float("nan")), "the number NaN"),
    "infinity": (put("curves.0.loss", float("inf")), "the number Infinity"),
    # texts
    "a path": (log("saved to /home/somebody/runs/1"), "an absolute path"),
    "a path in a device": (put("environment.device", "/dev/nvidia0"), "expected a plain name"),
    "a path of Windows": (log("C:\\Users\\somebody"), "an absolute path"),
    "a home folder": (log({"where": "~/runs"}), "an absolute path"),
    "a path as a key": (log({"/root/x": 1}), "an absolute path"),
    "a path as an option": (
        hashed(put("identity.passed", {"C": "/data/x"}), put("identity.hyperparameters", {"C": "/data/x"})),
        "an absolute path",
    ),
    "an address": (log("see https://example.test/x"), "a network address"),
    "an IP address": (log("node 10.0.0.17"), "a network address"),
    "a mail address": (log("by someone@example.test"), "a network address"),
    "a host": (log("gpu-17.cluster"), "a host or a user"),
    "a token": (log("hf_" + "aB3" * 10), "a secret"),
    "a private key": (log("-----BEGIN OPENSSH PRIVATE KEY-----"), "a secret"),
    "a long random word": (log("x9Kq2Lm7Pz4Rt8Vw1Yb5Nc3Qd6"), "looks like a secret"),
    "a script in a note": (put("events.0.note", "<script>alert(1)</script>"), "markup"),
    "a script in a name": (hashed(put("identity.model", "<script>alert(1)</script>")), "expected letters"),
    "a link that runs": (log("javascript:alert(1)"), "a network address"),
    "right-to-left marks": (put("events.0.note", "abc\u202egpj.exe"), "U+202E"),
    "a name that looks empty": (put("environment.device", "\u200b"), "U+200B"),
    "a control character": (log("a\u0000b"), "U+0000"),
    "half a character": (log("a\ud800b"), "U+D800"),
    "a huge name": (put("environment.device", "x" * 5000), "at most 200"),
    "a huge text": (log("x " * 40_000), "at most 64000"),
    "huge events": (log(["x " * 30_000] * 30), "at most 1,500,000"),
    "a huge file": (log(["x " * 30_000] * 80), "at most 4,000,000"),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_it_is_caught_with_its_reason(s, way):
    change, reason = TAMPERED[way]
    change(s)
    if s.at is not None and "{}" in s.at.name:
        s.at = s.at.with_name(s.at.name.format(s.raw["id"][:8]))
    found = said(s.write(s.write and json.dumps(s.raw, indent=1, sort_keys=True) + "\n"))
    assert any(reason in line for line in found), found
    assert all(line.isascii() and "\n" not in line and len(line) < 600 for line in found)
    assert not any("hf_a" in line for line in found), "a secret is not shown again"


def test_there_are_many_ways():
    assert len(TAMPERED) > 90


# --- what it cannot read


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"a": 1e}'],
    ids=["empty", "cut", "utf16", "list", "deep", "bad"],
)
def test_what_is_no_record_is_status_2(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    done = CliRunner().invoke(cli, ["verify", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr.startswith("harness: ")


def test_nothing_there_is_status_2(tmp_path):
    assert CliRunner().invoke(cli, ["verify", str(tmp_path / "no")]).exit_code == 2
    assert CliRunner().invoke(cli, ["verify", str(tmp_path)]).exit_code == 2


@pytest.mark.parametrize(
    "data", [b"no gzip", gzip.compress(b"x" * 40_000_000, 9), b"\x1f\x8b" + b"\0" * 20, b"x" * 300_001]
)
def test_items_that_are_no_items_are_status_2(s, data):
    s.packed = replace(s.packed, answers=data)
    found = verify([s.write()])
    assert len(found.unreadable) == 1
    assert found.exit_code == 2


def test_the_sum_says_how_many_could_not_be_read(s):
    path = s.write()
    for name in ("1-00000000.json", "2-00000000.json"):
        path.with_name(name).write_text("{")
    done = CliRunner().invoke(cli, ["verify", str(path.parent)])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == "harness: 1 record read, no findings, 2 could not be read"


def test_findings_are_status_1_and_one_line_each(s):
    put("identity.seed", 3)(s)
    path = s.write()
    done = CliRunner().invoke(cli, ["verify", str(path)])
    assert done.exit_code == 1
    assert all(line.startswith(f"{path}: ") for line in done.stdout.splitlines())
    assert "1 record read" in done.stderr


def test_text_that_the_harness_would_not_write(s):
    whole = json.dumps(s.raw, indent=1, sort_keys=True) + "\n"
    for text in (whole + "<!-- -->", whole + " ", json.dumps(s.raw)):
        found = verify([s.write(text)])
        assert found.unreadable or any("as the harness writes it" in str(f) for f in found.findings)
    twice = whole.replace('"official": true', '"official": false,\n "official": true')
    assert any("'official' twice" in line for line in said(s.write(twice)))


# --- between records


def test_a_seed_under_another_name(good, tmp_path):
    made, items = good
    copy = rehashed(made.model_copy(update={"identity": made.identity.model_copy(update={"seed": 1})}))
    Submitted(made, items, tmp_path).write()
    Submitted(copy, items, tmp_path).write()
    found = said(tmp_path)
    assert any("the same weights as" in line and "a training of its own" in line for line in found)
    reports = copy.reports.model_copy(update={"weights_sha256": "1" * 64})
    Submitted(copy.model_copy(update={"reports": reports}), items, tmp_path).write()
    assert any("the same curves as" in line for line in said(tmp_path))


def test_two_good_seeds_and_a_copy_of_one(good, tmp_path):
    Submitted(*good, tmp_path).write()
    Submitted(*pocket_run(seed=1), tmp_path).write()
    assert said(tmp_path) == []
    again = Submitted(*good, tmp_path)
    again.at = tmp_path / "elsewhere" / "pocket" / "pocket" / "proportional" / f"0-{again.raw['id'][:8]}.json"
    again.write()
    assert any("one record a run" in line for line in said(tmp_path))


def test_the_folder_of_a_run_among_submitted_records(good, tmp_path):
    """It needs no items and no place of its own, and would stand on the board for the record of its id."""
    made, items = good
    path = Submitted(made, items, tmp_path).write()
    raw = made.model_dump(mode="json")
    for score in raw["scores"].values():
        score |= {"value": 1.0, "filters": dict.fromkeys(score["filters"], 1.0), "stderr": 0.0}
    false = write_run(record.Record.model_validate(raw), tmp_path)
    assert any("the folder of a run among submitted records" in line for line in said(tmp_path))
    found = gather([tmp_path])
    assert found.files == {made.id: path}
    false.unlink()
    assert said(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("identity.budget.flops", 3_000_000, "budget at 1x differs"),
        (f"reports.base_scores.{TASK}", 0.0, "base_scores differs"),
    ],
)
def test_records_of_a_workload_share_what_the_workload_fixes(good, tmp_path, path, value, reason):
    Submitted(*good, tmp_path).write()
    other = Submitted(*pocket_run(seed=1), tmp_path)
    put(path, value)(other)
    other.write()
    assert any(reason in line for line in said(tmp_path))
    assert between([]) == []


def test_a_few_near_ties_of_the_base_model_are_no_other_base_model(good, tmp_path):
    Submitted(*good, tmp_path).write()
    other = Submitted(*pocket_run(seed=1), tmp_path)
    put(f"reports.base_scores.{TASK}", other.raw["reports"]["base_scores"][TASK] + 0.02)(other)
    other.write()
    assert not any("base_scores differs" in line for line in said(tmp_path))


# --- beside a run


def test_a_runs_ledger_must_sum_to_its_record(good, tmp_path):
    folder = write_whole_run(*good, tmp_path)
    line = {
        "verb": 0,
        "step": 1,
        "phase": "train",
        "model": 999_000,
        "hardware": 1_000_000,
        "tokens": 1000,
        "seconds": 1.0,
    }
    (folder / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    assert [x.partition(": ")[2] for x in said(folder)] == [
        "ledger.train.model_flops 1000000; expected 999000, the sum of ledger.jsonl"
    ]
    (folder / "ledger.jsonl").write_text("{}\n")
    assert "cannot be read" in said(folder)[0]


def test_a_run_of_ones_own_strategy_and_suite_verifies_but_is_no_result(tmp_path):
    own = make_record("mine", suite="mine")
    reports = own.reports.model_copy(
        update={"overlap": {t: {"n": 100, "exact": 0, "rare_13_gram": 0} for t in own.scores}}
    )
    last = [p.model_copy(update={"billed_flops": own.total_model_flops}) for p in own.curves]
    own = own.model_copy(update={"reports": reports, "curves": [*own.curves, *last]})
    assert said(write_run(own, tmp_path)) == []
    found = list(provenance.check(own, submitted=True))
    assert [expected for _, expected in found] == [
        "a strategy of strategies/ or of an installed package",
        "a suite of suites/",
    ]


def test_the_source_is_that_of_the_records_commit(good, monkeypatch):
    made, _ = good
    old = b"# as it was\n"
    monkeypatch.setattr(provenance, "_show", lambda commit, path: old if commit == "a" * 40 else None)
    provenance._committed.cache_clear()
    git = made.environment.git.model_copy(update={"commit": "a" * 40})
    env = made.environment.model_copy(update={"git": git})
    assert "at commit aaaaaaaaaaaa" in next(provenance._source(made.model_copy(update={"environment": env}), True))[1]
    identity = made.identity.model_copy(update={"source_sha256": registry.source_digest(old, old)})
    assert list(provenance._source(made.model_copy(update={"environment": env, "identity": identity}), True)) == []
    provenance._committed.cache_clear()


def test_a_composition_has_the_digest_of_its_parts(good):
    made, _ = good
    both = registry.resolve("msft+dft")
    identity = made.identity.model_copy(update={"strategy": "msft+dft", "source_sha256": both.source_sha256})
    assert list(provenance._source(made.model_copy(update={"identity": identity}), True)) == []


# --- graded again


def test_an_answer_that_is_called_right_is_graded_again(good, tmp_path):
    s = Submitted(*good, tmp_path)
    wrong = next(r for r in s.rows[TASK] if not r["correct"]["exact"])
    wrong["correct"]["exact"] = True
    value = sum(r["correct"]["exact"] for r in s.rows[TASK]) / 300
    forged = items_module.Items(
        {t: [json.dumps(r, ensure_ascii=False, sort_keys=True) for r in rows] for t, rows in s.rows.items()}, s.rows
    )
    s.raw["scores"][TASK].update(
        value=value,
        filters={"exact": value},
        stderr=(value * (1 - value) / 299) ** 0.5,
        items_sha256=forged.sha256(TASK),
    )
    s.packed = pack(forged)
    path = s.write()
    assert said(path) == [], "a forger who changes everything is caught by nothing but another look at the answers"
    assert any("correct" in line and "worked out again" in line for line in said(path, regrade=True))


def test_what_is_too_large_is_not_packed(good, monkeypatch):
    monkeypatch.setattr(items_module, "LIMIT", 1000)
    with pytest.raises(HarnessError, match=r"its items take .* at most 1,000 can be submitted"):
        pack(good[1])
    monkeypatch.setattr(items_module, "LIMIT", 300_000)
    monkeypatch.setattr(items_module, "QUESTIONS", 1000)
    with pytest.raises(HarnessError, match=r"its questions take .* at most 1,000 can be submitted"):
        pack(good[1])


def test_items_are_the_scorers_own_lines_again_and_small(good, s):
    made, items = good
    path = s.write()
    assert items_module.load(path) == items
    assert {t: items_module.load(path).sha256(t) for t in items.lines} == {
        t: score.items_sha256 for t, score in made.scores.items()
    }
    # 2,400 items: two digests each, 64 bytes that do not compress, lie in the questions
    assert len(s.packed.answers) < 20_000 < 2400 * 64 < len(s.packed.questions)
    assert pack(pocket_run("uniform", 3)[1]).name == s.packed.name


def test_questions_are_those_of_the_record_or_nothing_is_read(good, s):
    path = s.write()
    text = gzip.decompress(s.packed.questions).decode()
    s.questions.write_bytes(gzip.compress(text.replace("t:addition/0", "t:addition/1", 1).encode()))
    assert any("not the questions of its name" in line for line in verify([path]).unreadable)
    s.questions.write_bytes(gzip.compress(b"x" * 40_000_000, 9))
    assert any("unpacks to more than" in line for line in verify([path]).unreadable)
    s.questions.unlink()
    assert any("its questions are missing" in line for line in verify([path]).unreadable)
    s.questions.write_bytes(s.packed.questions)
    assert said(path) == []
    lines = gzip.decompress(s.packed.answers).decode().splitlines(keepends=True)
    for kept, reason in ((lines[:-1], "2399 items; expected 2400"), (lines[1:], "its questions are missing")):
        beside(path).write_bytes(gzip.compress("".join(kept).encode()))
        assert any(reason in line for line in verify([path]).unreadable)


def test_a_stock_tasks_own_filters_and_metric_grade(tmp_path):
    from harness.regrade import grades

    suite = load_suite("bbh")
    answers = {" (B)": (False, True), "(B)": (True, True), "The answer is (B).": (False, True), "(A)": (False, False)}
    task = "hyperbaton"
    rows = [Row(f"t:{task}/{k}", task, f"question {k}", "(B)", f"Q {k}", "(B)") for k in range(len(answers))]
    found = grades(suite, {task: rows}, {task: list(answers)})[task]
    assert [(x["correct"]["strict-match"], x["correct"]["flexible-extract"]) for x in found] == list(answers.values())
    assert found[2]["filtered"]["flexible-extract"] == "(B)"


def test_what_cannot_be_graded_again_is_said(good, s, monkeypatch):
    from harness import regrade

    monkeypatch.setattr(regrade, "suite_of", lambda _: None)
    found = verify([s.write()], regrade=True)
    assert found.exit_code == 0
    assert "not graded again" in found.notes[0]


def test_lines_end_at_newlines_only(tmp_path):
    _, items = pocket_run(seed=5)
    rows = {t: [dict(r) for r in group] for t, group in items.rows.items()}
    rows[TASK][0]["response"] = "a\u2028b\x85c"
    lines = {t: [json.dumps(r, ensure_ascii=False, sort_keys=True) for r in group] for t, group in rows.items()}
    odd = items_module.Items(lines, rows)
    path, packed = tmp_path / "1-aaaaaaaa.items.jsonl.gz", pack(odd)
    path.write_bytes(packed.answers)
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / packed.name).write_bytes(packed.questions)
    assert items_module.unpack(path) == odd
    assert items_module.unpack(path).sha256(TASK) == odd.sha256(TASK)
    assert pack(odd) == pack(items_module.unpack(path))


# --- texts


@pytest.mark.parametrize(
    "text",
    ["msft", "temperature tau=0.5", "a/b", "0.5 FLOP/s and 3/4", "loss < 0.5", "4:120", "sha256:ab12", "1.2.3", "x->y"],
)
def test_harmless_texts_pass(text):
    assert privacy.wrong_text(text) is None


@pytest.mark.parametrize(
    "part", ["a.", "a-", "/a ", "eyJ-", "a@", "< ", "&a", "~/", "x:", "\\\\a", "1.1.", "ab:/", "password "]
)
def test_no_text_takes_long(part):
    import time

    began = time.process_time()
    privacy.wrong_text(part * (64_000 // len(part)))
    privacy.scrub(part * (64_000 // len(part)))
    assert time.process_time() - began < 5  # of the processor; 0.1 s where nothing is quadratic


def test_the_machines_own_names_are_found_and_scrubbed(monkeypatch):
    monkeypatch.setattr(privacy, "_machine", lambda: frozenset({"ariadne", "theseus"}))
    monkeypatch.setattr(privacy, "_environment", lambda: ("s3cr3tvalue",))
    assert "host or a user" in privacy.wrong_text("run on Ariadne.")
    assert privacy.wrong_text("has s3cr3tvalue in it") == "a secret"
    assert privacy.scrub("theseus wrote /home/theseus/x/y.json on ariadne-2") == "- wrote y.json on --2"


def test_a_response_may_hold_code_about_tokens():
    assert not privacy.secret("token = tokenizer.next()\npassword: str")
    assert privacy.secret("-----BEGIN RSA PRIVATE KEY-----")


def test_the_source_of_a_dirty_clone_is_asked_of_submitted_records_only(good):
    made, _ = good
    git = made.environment.git.model_copy(update={"dirty": True})
    changed = made.model_copy(
        update={
            "environment": made.environment.model_copy(update={"git": git}),
            "identity": made.identity.model_copy(update={"source_sha256": "0" * 64}),
        }
    )
    assert list(provenance._source(changed, False)) == []
    assert "as it is here" in next(provenance._source(changed, True))[1]


def test_git_commits_are_looked_up_in_this_clone():
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    if not head:
        pytest.skip("not a clone")
    assert provenance._committed(head, ("proportional",)) is not None
    assert provenance._committed("0" * 40, ("proportional",)) is None


def reusing(made, items, cost, of):
    """The record as one that trained on what run `of` has learned."""
    values = {"mixture": {"run": of, "weights": {TASK: 1.0}}}
    identity = made.identity.model_copy(update={"hyperparameters": values, "passed": {"mixture": of}})
    reused = record.Reused(id=of, flops=cost, seed=0, lr=4e-4, budget=1.0)
    return rehashed(
        made.model_copy(update={"identity": identity, "reports": made.reports.model_copy(update={"reused": reused})})
    )


@pytest.mark.parametrize(("cost", "reason"), [(500_000, None), (5, "reports.reused: 5 FLOPs")])
def test_what_a_mixture_had_cost_is_what_its_run_was_billed(good, tmp_path, cost, reason):
    made, items = good
    event = made.events[0].model_copy(update={"verb": "log", "note": "weights", "data": {"weights": {TASK: 1.0}}})
    source = made.model_copy(update={"events": [event]})
    later, other = pocket_run(seed=1)
    Submitted(source, items, tmp_path).write()
    Submitted(reusing(later, other, cost, source.id), other, tmp_path).write()
    found = said(tmp_path)
    assert (found == []) if reason is None else any(reason in line for line in found)


def test_a_mixture_that_fell_from_the_sky(good, tmp_path):
    later = reusing(*good, 5, "a" * 16)
    free = later.model_copy(update={"reports": later.reports.model_copy(update={"reused": None})})
    assert any("reports.reused of no run" in line for line in said(Submitted(free, good[1], tmp_path).write()))
