"""Export to Every Eval Ever: what its aggregate schema 0.2.2 requires, restated, and the numbers."""

import json

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import HarnessError
from harness.exchange import every_eval_ever, export
from harness.submit import runs
from tests.records import make_record, write_result, write_run

TOP = {
    "schema_version",
    "evaluation_id",
    "retrieved_timestamp",
    "source_metadata",
    "model_info",
    "eval_library",
    "evaluation_results",
}


def check(doc):
    """The schema's requirements on the parts that we write."""
    assert TOP <= set(doc) <= TOP | {"evaluation_timestamp", "detailed_evaluation_results"}
    assert all(
        isinstance(doc[k], str)
        for k in ("schema_version", "evaluation_id", "retrieved_timestamp", "evaluation_timestamp")
    )
    source = doc["source_metadata"]
    assert source["source_type"] in ("documentation", "evaluation_run")
    assert source["evaluator_relationship"] in ("first_party", "third_party", "collaborative", "other")
    assert isinstance(source["source_organization_name"], str)
    assert {"name", "version"} <= set(doc["eval_library"])
    assert {"name", "id"} <= set(doc["model_info"])
    for part in (doc["eval_library"], doc["model_info"]):
        assert all(isinstance(v, str) for v in part["additional_details"].values())
    for result in doc["evaluation_results"]:
        assert {"evaluation_name", "source_data", "metric_config", "score_details"} <= set(result)
        data, metric, score = result["source_data"], result["metric_config"], result["score_details"]
        need = {"hf_dataset": {"hf_repo"}, "other": set(), "url": {"url"}}[data["source_type"]]
        assert {"dataset_name", *need} <= set(data)
        assert isinstance(metric["lower_is_better"], bool)
        assert metric["score_type"] == "continuous"
        assert metric["min_score"] <= score["score"] <= metric["max_score"]
        assert all(isinstance(v, str) for v in score["details"].values())
        assert isinstance(score["uncertainty"]["standard_error"]["value"], float)
        assert isinstance(score["uncertainty"]["num_samples"], int)
        args = {"temperature", "top_p", "top_k", "max_tokens", "execution_command", "reasoning", "prompt_template"}
        assert set(result["generation_config"]["generation_args"]) <= args


def test_a_record_in_the_schema():
    made = make_record("msft", 3, {"a": 0.5, "b": 0.25}, passed={"C": "2"})
    doc = every_eval_ever(made, "somebody", "third_party")
    check(doc)
    assert [(x["evaluation_name"], x["score_details"]["score"]) for x in doc["evaluation_results"]] == [
        ("pocket/a", 0.5),
        ("pocket/b", 0.25),
    ]
    assert doc["retrieved_timestamp"] == "1767225660"  # 2026-01-01T00:01:00Z
    details = doc["model_info"]["additional_details"]
    assert (details["billed_flops"], json.loads(details["hyperparameters"])) == ("1000000", {"C": "2"})
    assert (
        "--strategy msft" in doc["evaluation_results"][0]["generation_config"]["generation_args"]["execution_command"]
    )


def test_data_of_the_hub_is_named():
    made = make_record(suite="bbh")
    made = made.model_copy(
        update={"environment": made.environment.model_copy(update={"data_revisions": {"o/d": "abc"}})}
    )
    doc = every_eval_ever(made, "somebody")
    check(doc)
    data = doc["evaluation_results"][0]["source_data"]
    assert (data["hf_repo"], data["hf_revision"], data["samples_number"]) == ("o/d", "abc", 100)


def test_what_has_no_scores_or_no_known_relation_is_refused():
    with pytest.raises(HarnessError, match="no scores"):
        every_eval_ever(make_record(status="failed", error="NaN"), "x")
    with pytest.raises(HarnessError, match="expected one of first_party"):
        every_eval_ever(make_record(), "x", "friend")


def test_the_command_writes_a_file_a_run(tmp_path):
    write_result(make_record("msft", 1), tmp_path / "results")
    run = write_run(make_record("msft", 2), tmp_path / "runs").parent
    args = ["export", str(tmp_path / "results"), str(run), "--out", str(tmp_path / "out"), "--organization", "somebody"]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0
    paths = done.output.split()
    assert len(paths) == 2
    for path in paths:
        check(json.loads(open(path).read()))
    done = CliRunner().invoke(cli, ["export", str(tmp_path / "no"), "--organization", "x"])
    assert isinstance(done.exception, HarnessError)


def test_failed_runs_of_a_folder_stop_neither_export_nor_submission(tmp_path):
    good = [make_record("msft", s) for s in (1, 2)]
    failed = write_run(make_record("msft", 0, status="failed", error="NaN"), tmp_path / "runs")
    for r in good:
        write_run(r, tmp_path / "runs")
    made = export([tmp_path / "runs"], tmp_path / "out", "x", "other")
    assert {p.stem for p in made} == {r.id for r in good}
    assert {p.parent.name for p in runs([tmp_path / "runs"])} == {r.id for r in good}
    for named in (failed, failed.parent):
        assert runs([named]) == [failed]
        with pytest.raises(HarnessError, match="no scores"):
            export([named], tmp_path / "out", "x", "other")
