"""Where rows come from: hub, mirror and local files; filters, divisions, counts; overlap and digests against brute force."""

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from huggingface_hub import errors
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import hub, models, record, sources
from harness.data import Row, content_digest, load_rows, seen, tokenise
from harness.errors import HarnessError
from harness.overlap import COMMON, grams, overlap
from harness.paths import digest
from harness.spec import Divide, Source
from harness.suite import Suite, available, load_suite
from tests.conftest import ROOT, make_suite
from tests.mirrors import write


def suite(tmp_path, **data) -> Suite:
    """A suite over a mirror of one data set, `own/words`; `data` are keys of its only source."""
    raw = yaml.safe_load(make_suite(tmp_path / "suite").read_text())
    keys = ("divide", "rows", "sha256")
    source = {
        "hub": "own/words",
        "split": {"train": "train", "validation": "train", "test": "test"},
        "task": "{{kind}}",
        "input": "{{text}}",
        "target": "{{answer}}",
    }
    raw["data"] = {"sources": [source | {k: v for k, v in data.items() if k not in keys}]}
    raw["data"] |= {"divide": {"validation": 0.3}} | {k: v for k, v in data.items() if k in keys}
    path = tmp_path / "suite" / "words.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load_suite(str(path))


def words(n=120, start=0):
    return [
        {
            "kind": ("copy", "flip", "next", "other")[i % 4],
            "text": f"word {i}",
            "answer": str(i),
            "story": i // 8,
            "n": i,
        }
        for i in range(start, start + n)
    ]


@pytest.fixture
def mirror(tmp_path):
    write(tmp_path / "hub" / "datasets" / "own" / "words", {"default": {"train": words(), "test": words(12, 1000)}})
    return tmp_path / "hub"


def texts(rows):
    return {t: [r.input for r in g] for t, g in rows.items()}


def test_rows_go_to_the_suites_tasks_in_their_order(tmp_path, mirror):
    spec = suite(tmp_path)
    found = {s: load_rows(spec, s, mirror) for s in ("train", "validation", "test")}
    both = {t: found["train"][t] + found["validation"][t] for t in spec.tasks}
    for k, task in enumerate(("copy", "flip", "next")):
        numbers = [i for i in range(120) if i % 4 == k]
        assert sorted(int(r.target) for r in both[task]) == numbers
        assert [r.target for r in found["train"][task]] == sorted((r.target for r in found["train"][task]), key=int)
        assert texts(found["test"])[task] == [f"word {i}" for i in range(1000, 1012) if i % 4 == k]
    assert "other" not in found["train"]
    assert found["train"]["copy"][0].id == "copy/0"


@given(st.lists(st.text(max_size=8), min_size=1, max_size=60, unique=True), st.floats(0, 0.9), st.floats(0, 0.09))
def test_a_row_goes_to_one_split_and_nothing_else_moves_it(keys, validation, test):
    divide = Divide(validation=validation, test=test)
    source = Source(hub="a/b", split={"train": "all", "validation": "all", "test": "all"}, input="", target="")
    parts = {s: sources.share(divide, source, s) for s in ("train", "validation", "test")}
    where = {k: [s for s, mine in parts.items() if mine(k)] for k in keys}
    assert all(len(found) == 1 for found in where.values())


def test_shares_are_what_they_say():
    divide = Divide(validation=0.2, test=0.1)
    source = Source(hub="a/b", split={"train": "x", "validation": "x", "test": "x"}, input="", target="")
    parts = {s: sources.share(divide, source, s) for s in ("train", "validation", "test")}
    n = Counter(s for i in range(20_000) for s, mine in parts.items() if mine(f"question {i}"))
    assert n["test"] == pytest.approx(2000, abs=5 * 2000**0.5)
    assert n["validation"] == pytest.approx(4000, abs=5 * 4000**0.5)
    alone = Source(hub="a/b", split={"train": "x", "validation": "y"}, input="", target="")
    assert sources.share(divide, alone, "train") is sources.share(None, source, "train") is None


def test_rows_that_agree_in_a_field_stay_together(tmp_path, mirror):
    spec = suite(tmp_path, divide={"by": "{{story}}", "validation": 0.4})
    found = {
        s: {int(r.target) // 8 for g in load_rows(spec, s, mirror).values() for r in g} for s in ("train", "validation")
    }
    assert found["train"]
    assert found["validation"]
    assert not found["train"] & found["validation"]


def test_counts_take_the_smallest_hashes_and_keep_the_order(tmp_path, mirror):
    whole = load_rows(suite(tmp_path), "train", mirror)
    few = load_rows(suite(tmp_path, rows={"train": 5}), "train", mirror)
    for task, rows in whole.items():
        best = sorted(rows, key=lambda r: int(digest([r.input, r.target])[:16], 16))[:5]
        assert [r.input for r in few[task]] == [r.input for r in rows if r in best]


def test_where_and_slices(tmp_path, mirror):
    every = suite(tmp_path, where="n % 8 < 3 and text", split="train[40:100]", divide=None)
    found = load_rows(every, "train", mirror)
    assert sorted(int(r.target) for g in found.values() for r in g) == [
        i for i in range(40, 100) if i % 8 < 3 and i % 4 != 3
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "{{txt}}"}, r"data 'own/words': input: 'txt'; its fields: answer, config, kind, n, story, text"),
        ({"input": "{{txt|upper}}"}, r"input: 'txt' is undefined; its fields: answer"),
        ({"where": "m > 3"}, r"where: 'm' is undefined"),
        ({"where": "n >"}, r"'n >'"),
        ({"target": "{{answer"}, r"'\{\{answer'"),
        ({"target": "{{'AB'[n]}}"}, r"target: .*its fields"),
        ({"task": "all"}, r"task 'copy' has an empty train split"),
        (
            {"config": "danish"},
            r"data 'own/words': not to be had .*danish.*--mirror DIR looks in DIR/datasets/own/words",
        ),
        ({"split": "trian"}, r"not to be had \(.*trian"),
        ({"files": "default/*.xlsx"}, r"'default/\*\.xlsx' is none of \.jsonl"),
        ({"files": "nowhere/*.jsonl"}, r"not to be had"),
    ],
)
def test_mistakes_name_the_data_set_and_the_field(tmp_path, mirror, change, message):
    with pytest.raises(HarnessError, match=message):
        load_rows(suite(tmp_path, **change), "train", mirror)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sources": [{"hub": "a/b", "input": "x", "targt": "y"}]}, r"data\.sources\.0\.targt: unknown key.*'target'"),
        ({"sources": [{"input": "x", "target": "y"}]}, "give 'hub', 'files' or both"),
        (
            {"files": "{split}.jsonl", "divide": {"by": "x", "vaildation": 0.1}},
            r"data\.divide\.vaildation: unknown key.*'validation'",
        ),
        ({"files": "{split}.jsonl", "rows": {"dev": 3}}, "rows has no split 'dev'"),
        (
            {"hub": "a/b", "sources": [{"hub": "a/b", "input": "x", "target": "y"}], "ids": "x"},
            "either 'files' or 'hub'",
        ),
    ],
)
def test_wrong_keys_of_sources_are_named(tmp_path, data, message):
    path = make_suite(tmp_path)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": data}))
    with pytest.raises(HarnessError, match=message):
        load_suite(str(path))


def test_parquet_says_the_same_as_jsonl(tmp_path):
    path = make_suite(tmp_path)
    before = {s: load_rows(load_suite(str(path)), s) for s in ("train", "validation", "test")}
    for split in before:
        rows = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    path.write_text(path.read_text().replace("{split}.jsonl", "{split}.parquet"))
    assert {s: load_rows(load_suite(str(path)), s) for s in before} == before
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(HarnessError, match=r"train\.parquet: "):
        load_rows(load_suite(str(path)), "train")
    pyarrow.parquet.write_table(pyarrow.table({"task": ["copy"], "input": ["x"]}), tmp_path / "train.parquet")
    with pytest.raises(HarnessError, match=r"train\.parquet:1: expected a JSON object \(or parquet row\)"):
        load_rows(load_suite(str(path)), "train")


@pytest.mark.parametrize(
    ("split", "divide", "says"),
    [
        ({"train": "rows", "validation": "rows"}, {"validation": 0.1}, "no source gives rows to test"),
        ("rows", {"validation": 0.1}, "no source gives rows to test"),
        ("rows", None, r"data 'own/words': test is read from split 'rows', as others are"),
        ({"train": "a", "validation": "b", "test": "b"}, None, "test is read from split 'b'"),
        ("rows", {"validation": 0.1, "test": 0.1}, None),
        ({"train": "a", "validation": "b", "test": "c"}, None, None),
        ({"train": "a[:9]", "validation": "a[9:12]", "test": "a[12:]"}, None, None),
    ],
)
def test_that_there_can_be_no_test_split_is_said_before_training(tmp_path, split, divide, says):
    spec = suite(tmp_path, split=split, divide=divide)
    if says is None:
        sources.check(spec)
    else:
        with pytest.raises(HarnessError, match=says):
            sources.check(spec)
    for name in available():
        sources.check(load_suite(name))


def test_local_files_with_fields_of_their_own(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(words(80)), _made(tmp_path / "suite") / "rows.parquet")
    spec = suite(tmp_path, hub=None, files="rows.parquet", split={"train": "rows", "validation": "rows"})
    assert spec.verified
    found = {s: load_rows(spec, s) for s in ("train", "validation")}
    assert sum(len(g) for rows in found.values() for g in rows.values()) == 60


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.text(max_size=4), st.text(max_size=30) | st.integers() | st.lists(st.text(), max_size=2))
    ),
    st.sampled_from(["array", "indented", "lines"]),
    st.integers(1, 40),
)
def test_json_files_are_read_piece_by_piece(rows, form, block):
    """Whatever the pieces: an array, an indented one, and lines all give the rows that were written."""
    text = (
        "\n".join(map(json.dumps, rows))
        if form == "lines"
        else json.dumps(rows, indent=2 if form == "indented" else None)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", block)
        assert list(sources._decoded(io.StringIO(text))) == rows


@pytest.mark.parametrize("text", ['[{"kind": "copy"}, {"te', "[1, 2]", "nothing"])
def test_broken_json_names_the_data_set(tmp_path, text):
    (_made(tmp_path / "suite") / "rows.json").write_text(text)
    spec = suite(tmp_path, hub=None, files="rows.json", where="false")
    with pytest.raises(HarnessError, match=r"data 'rows\.json': not to be had \("):
        load_rows(spec, "train")


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_suite_is_verified_when_its_rows_are_pinned(tmp_path, mirror):
    loose = suite(tmp_path)
    assert not loose.verified
    found = {s: load_rows(loose, s, mirror) for s in ("train", "validation", "test")}
    pins = {
        s: content_digest({t: [(r.input, r.target) for r in g] for t, g in rows.items()}) for s, rows in found.items()
    }
    pinned = suite(tmp_path, sha256=pins)
    assert pinned.verified
    assert load_rows(pinned, "train", mirror) == found["train"]
    file = mirror / "datasets" / "own" / "words" / "default" / "train.jsonl"
    file.write_text(file.read_text().replace("word 0", "word zero"))
    with pytest.raises(HarnessError, match="not the data that the suite pins"):
        [load_rows(pinned, s, mirror) for s in ("train", "validation")]


# --- the hub


class NoNetwork(AssertionError):
    pass


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **named):
        raise NoNetwork(f"the network was asked: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    hub._downloaded.cache_clear()


def test_a_mirror_is_read_without_network(tmp_path, mirror, no_network):
    spec = suite(tmp_path)
    assert sources.fetch(spec, mirror) == {"own/words": None}
    assert load_rows(spec, "test", mirror)


def test_offline_a_cached_revision_is_read_and_a_missing_one_is_a_line(tmp_path, mirror, no_network, monkeypatch):
    """The library's cache, filled by hand as it fills it: the commit that a branch stood for is the folder's name."""
    import huggingface_hub.constants

    commit, cache = "c0ffee" * 6 + "beef", tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    home = cache / "datasets--own--words"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots").mkdir()
    (mirror / "datasets" / "own" / "words").rename(home / "snapshots" / commit)
    spec = suite(tmp_path)
    assert sources.fetch(spec, None) == {"own/words": commit}
    assert len(load_rows(spec, "test", None)["copy"]) == 3
    with pytest.raises(
        HarnessError, match=r"data 'own/words': the hub cannot give it .*--mirror DIR looks in DIR/datasets"
    ):
        sources.fetch(suite(tmp_path, revision="0" * 40), None)


@pytest.mark.parametrize(
    ("error", "offline", "why"),
    [
        (errors.LocalEntryNotFoundError("No " + "it " * 99), True, "no copy, and HF_HUB_OFFLINE keeps from asking URL"),
        (errors.LocalEntryNotFoundError("Cannot find it."), False, "no copy, and URL cannot be reached"),
        (RuntimeError("too many " + "words " * 99), False, "URL: too many " + "words " * 30 + "…"),
        (
            errors.HFValidationError("Repo id must be 'namespace/name': 'own/a/b'."),
            True,
            "URL: Repo id must be 'namespace",
        ),
        (None, False, "URL knows no such name, or it is private: `hf auth login`"),
    ],
)
def test_what_the_hub_cannot_give_is_one_whole_line(monkeypatch, tmp_path, error, offline, why):
    def fail(*_, **__):
        if error is None:
            raise errors.RepositoryNotFoundError("404", response=_Response())
        raise error from ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    for mirror, found in ((None, ""), (tmp_path, ", and found nothing there")):
        with pytest.raises(HarnessError) as caught:
            models.resolve("own/m", mirror)
        said = str(caught.value)
        assert said.startswith("model 'own/m': the hub cannot give it (")
        assert why.replace("URL", huggingface_hub.constants.ENDPOINT)[:140] in said
        assert said.endswith(f"); --mirror DIR looks in DIR/models/own/m first{found}; --model pocket needs no hub")
        assert said.count("(") == said.count(")")
        assert len(said) < 420


@pytest.mark.parametrize(
    ("kind", "page"),
    [("datasets", "https://huggingface.co/datasets/own/gated"), ("models", "https://huggingface.co/own/gated")],
)
def test_gated_names_the_licence_page(monkeypatch, kind, page):
    asked = {}

    def gated(name, **named):
        asked.update(named)
        raise errors.GatedRepoError("403", response=_Response())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(
        HarnessError, match=rf"'own/gated' is gated: accept its licence at {page}, then .*hf auth login"
    ):
        hub.folder(kind, "own/gated", ["*.json"], None, "a" * 40)
    assert (asked["revision"], asked["repo_type"]) == ("a" * 40, kind[:-1])


class _Response:
    headers, status_code, request = {}, 403, None


def test_an_unknown_revision_is_named(monkeypatch):
    def unknown(name, **named):
        raise errors.RevisionNotFoundError("404", response=_Response())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unknown)
    with pytest.raises(HarnessError, match="data 'own/other' has no revision 'abc'"):
        hub.folder("datasets", "own/other", [], None, "abc")


def test_a_models_revision_is_asked_for(monkeypatch, tmp_path):
    asked = []

    def snapshot(name, **named):
        asked.append((name, named["revision"]))
        return str(tmp_path / ("a" * 40))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    hub._downloaded.cache_clear()
    for name in ("qwen2.5@abc", "own/some@abc", "own/other"):
        found = models.resolve(name)
        assert "@" not in found.name
        assert found.revision == "a" * 40
    assert asked == [("Qwen/Qwen2.5-0.5B", "abc"), ("own/some", "abc"), ("own/other", None)]
    hub._downloaded.cache_clear()


BLOCKED = """
import socket

def refuse(*args, **named):
    raise RuntimeError(f"the network was asked: {args}")

socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = refuse
"""


def test_a_whole_run_from_a_mirror_asks_no_network(tmp_path, mirror, tiny):
    """Training, then scoring another task than is trained, by lm-eval's gsm8k, in processes that cannot open a socket."""
    spec = suite(tmp_path)
    path = tmp_path / "suite" / "words.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["scoring"] = {"filter": "flexible-extract", "max_new_tokens": 6, "until": ["\n"]}
    raw["scoring"]["tasks"] = {
        "numbers": {
            "hub": "own/words",
            "input": "{{text}}",
            "target": "{{answer}}",
            "include": "gsm8k/gsm8k.yaml",
            "rows": 6,
        }
    }
    path.write_text(yaml.safe_dump(raw))
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "HARNESS_THREADS": "1"}
    command = [sys.executable, "-m", "harness", "run", "--suite", path, "--model", tiny, "--mirror", mirror]
    command += ["--runs", tmp_path / "runs", "--scorer", "hf"]
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = record.read(Path(done.stdout.strip().splitlines()[-1]))
    assert found.scores.keys() == {"numbers"}
    assert found.scores["numbers"].n == 6
    assert found.reports.parity["passed"]
    assert found.reports.parity["prompts_equal"] == 6
    assert found.reports.unverified
    assert found.reports.overlap["numbers"] == {"n": 6, "exact": 0, "rare_13_gram": 0}
    assert found.environment.data_revisions == {"own/words": None}
    assert set(found.identity.data_sha256) == {"train", "validation", "test"}
    assert {p.task for p in found.curves} == set(spec.tasks)


# --- overlap, digests, lengths


def brute(pairs, test):
    """Every row against every item."""
    counts = Counter(g for source, _ in pairs for g in grams(source))
    rare = {g for g, n in counts.items() if n < max(2, COMMON * len(pairs))}
    return {
        task: {
            "n": len(rows),
            "exact": sum((r.input, r.target) in set(pairs) for r in rows),
            "rare_13_gram": sum(not rare.isdisjoint(grams(r.input)) for r in rows),
        }
        for task, rows in test.items()
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 250))
def test_overlap_is_that_of_every_row_against_every_item(seed, alphabet, n):
    """Few words, so that 13-grams are shared by chance; some rows share a template, some are repeated."""
    rng = Random(seed)

    def text():
        words = [rng.choice("abcde"[:alphabet]) for _ in range(rng.choice([0, 3, 12, 13, 14, 20]))]
        template = "T u v w x y z one two three four five six!" if rng.random() < 0.3 else ""
        return f"{template} {' '.join(words)}{rng.choice(['', '.', ', B'])}"

    pairs = [(text(), rng.choice("xy")) for _ in range(n)]
    items = [(text(), rng.choice("xy")) for _ in range(12)] + rng.sample(pairs, min(n, 3))
    test = {t: [Row("", t, a, b, "", "") for a, b in items[k::2]] for k, t in enumerate("pq")}
    assert overlap(iter(pairs), test) == brute(pairs, test)


@pytest.mark.slow
def test_overlap_at_scale_takes_little_memory_and_time():
    """A quarter of 400,000 rows against 10,000 items, of a process of its own; time is the CPU's."""
    command = [sys.executable, ROOT / "benchmarks" / "overlap.py", "--rows", "100000", "--items", "10000"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    seconds, peak = re.search(r"([\d.]+) s of one CPU.*peak memory ([\d.]+) GiB", done.stdout).groups()
    assert float(peak) < 1
    assert 4 * float(seconds) < 300


def test_overlap_without_rows_or_long_texts():
    test = {"a": [Row("", "a", "short", "x", "", "")]}
    assert overlap([], test) == {"a": {"n": 1, "exact": 0, "rare_13_gram": 0}}
    assert overlap([("short", "x")], test) == {"a": {"n": 1, "exact": 1, "rare_13_gram": 0}}


@given(st.dictionaries(st.text(), st.lists(st.tuples(st.text(), st.text()))))
def test_the_streamed_digest_is_that_of_the_whole(rows):
    assert content_digest(rows) == digest({task: [list(pair) for pair in pairs] for task, pairs in rows.items()})


def test_what_is_seen_is_what_is_trained_and_validated_on(tmp_path, mirror):
    for spec, where in ((suite(tmp_path), mirror), (load_suite("pocket"), None)):
        for limit in (None, 4):
            rows = [load_rows(spec, s, where, limit) for s in ("train", "validation")]
            expected = Counter((r.input, r.target) for split in rows for g in split.values() for r in g)
            # Rows of tasks that the suite does not have are read and left out.
            assert Counter(seen(spec, where, limit)) == expected


def test_completions_that_do_not_fit_are_cut_only_where_the_suite_says_so(tiny):
    tokenizer = models.tokenizer(models.resolve(str(tiny)))
    rows = {"a": [Row("a/0", "a", "", "", "Q: " + "cat " * 5, " dog" * 30), Row("a/1", "a", "", "", "Q:", " 1")]}
    whole = tokenise(tokenizer, rows, 1000)["a"]
    long, short = tokenise(tokenizer, rows, 24, cut=True)["a"]
    prompt = len(whole[0].ids) - whole[0].supervised
    assert short == whole[1]
    assert len(long.ids) == 24
    assert long.supervised == 24 - min(prompt, 12)
    assert long.ids[: 24 - long.supervised] == whole[0].ids[prompt - (24 - long.supervised) : prompt]
    assert long.ids[-long.supervised :] == whole[0].ids[prompt : prompt + long.supervised]
    assert long.ids[-1] != tokenizer.eos_token_id
    with pytest.raises(HarnessError, match="its completion has"):
        tokenise(tokenizer, rows, 24)
