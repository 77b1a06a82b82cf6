"""Old records load for ever: one record of every form that the schema has had, as a run wrote it."""

import json
from pathlib import Path

import pytest

from harness import record, reference, refutation
from harness.errors import HarnessError
from harness.invariants import record as wrong
from harness.record import SCHEMA_VERSION, read
from harness.verify import verify

FORMS = sorted((Path(__file__).parent / "schema").glob("*.json"))


def test_every_version_has_a_record():
    assert {json.loads(p.read_text())["schema_version"] for p in FORMS} == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_an_old_record_loads_whole_and_is_still_right(path):
    raw, made = json.loads(path.read_text()), read(path)
    assert made.id == raw["id"]
    assert made.macro == pytest.approx(sum(s["value"] for s in raw["scores"].values()) / len(raw["scores"]))
    assert made.total_model_flops == raw["total_model_flops"]
    assert list(wrong(made)) == []


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_nothing_of_an_old_record_is_lost_when_it_is_written_again(path, tmp_path):
    raw, made = json.loads(path.read_text()), read(path)
    record.write(made, tmp_path / "record.json")
    again = json.loads((tmp_path / "record.json").read_text())

    def within(old, new):
        if isinstance(old, dict):
            return all(within(value, new[key]) for key, value in old.items())
        return old == new

    assert within(raw, again)


def test_refutations_and_references_of_every_version_load():
    others = FORMS[0].parent / "others"
    refuted = refutation.load(others / "refutation-1.json")
    assert (refuted.refutes, refuted.record.scores.keys()) == ("0123456789abcdef", read(FORMS[0]).scores.keys())
    brought = reference.load(others / "reference-1.json")
    assert list(reference.problems(brought)) == []
    assert {t: s.value for t, s in brought.scores.items()} == {"larger": 0.8, "last": 0.95}
    assert (refutation.VERSION, reference.VERSION) == (1, 1), "a new version comes with a file of the old one"


def test_a_version_of_tomorrow_is_one_line(tmp_path):
    raw = json.loads(FORMS[0].read_text()) | {"schema_version": 99}
    (tmp_path / "record.json").write_text(json.dumps(raw))
    with pytest.raises(HarnessError, match="schema version 99: this harness reads up to"):
        read(tmp_path / "record.json")


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_an_old_form_is_no_finding(path, tmp_path):
    (tmp_path / "record.json").write_bytes(path.read_bytes())
    found = [str(f) for f in verify([tmp_path]).findings]
    # The suite and the strategies go on changing; what the record says of itself does not.
    assert not [f for f in found if "identity." not in f], found
