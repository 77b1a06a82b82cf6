"""Records in the form of other collections: the aggregate schema 0.2.2 of Every Eval Ever (evaleval/every_eval_ever).

One file a run, one result a scoring task. The schema's free details hold text only; numbers there are written as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import reference, refutation
from harness.errors import HarnessError
from harness.paths import canonical, write_atomic
from harness.publish import command
from harness.record import Record, TaskScore, read
from harness.verify import records

SCHEMA = "0.2.2"
OTHERS = re.compile(f"{refutation.NAME.pattern}|{reference.NAME.pattern}")  # file names of what is no run's record
RELATIONS = ("first_party", "third_party", "collaborative", "other")
ENGINES = {"hf": "transformers", "vllm": "vllm"}


def every_eval_ever(r: Record, organization: str, relation: str = "other") -> dict[str, Any]:
    """A run's document. `relation`: of who ran it to who made the model. Raises HarnessError for a run without scores."""
    if not r.scores:
        raise HarnessError(f"run {r.id} has no scores to export")
    if relation not in RELATIONS:
        raise HarnessError(f"relation {relation!r}: expected one of {', '.join(RELATIONS)}")
    i, packages = r.identity, r.environment.packages
    made = str(int(datetime.fromisoformat(r.ended).timestamp()))
    model = f"{i.model}-{i.strategy}-{i.seed}-{r.id[:8]}"
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{i.suite}/{model}/{made}",
        "evaluation_timestamp": r.ended,
        "retrieved_timestamp": made,
        "source_metadata": {
            "source_name": "sft-harness",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relation,
        },
        "eval_library": {
            "name": "lm_eval",
            "version": packages.get("lm_eval", "unknown"),
            "additional_details": _texts({"harness": r.harness_version, "rules": r.rules_version}),
        },
        "model_info": {
            "name": f"{i.model}, {'LoRA' if i.mode == 'lora' else 'fully'} fine-tuned under {i.strategy}, seed {i.seed}",
            "id": model,
            "inference_engine": _engine(r),
            "additional_details": _texts(_training(r)),
        },
        "evaluation_results": [_result(r, task, score) for task, score in sorted(r.scores.items())],
    }


def _engine(r: Record) -> dict[str, str]:
    name = ENGINES.get(r.reports.scorer or "", "unknown")
    packages = {**r.environment.packages, **(r.reports.backend or {}).get("packages", {})}
    return {"name": name, "version": str(packages.get(name, "unknown"))}


def _training(r: Record) -> dict[str, Any]:
    """What the schema has no place for: how the weights came about, and what that cost."""
    i = r.identity
    return {
        "run_id": r.id,
        "base_model": i.model,
        "base_model_revision": r.environment.model_revision,
        "weights_sha256": r.reports.weights_sha256,
        "strategy": i.strategy,
        "hyperparameters": i.hyperparameters,
        "learning_rate": i.lr,
        "mode": i.mode,
        "seed": i.seed,
        "budget": f"{i.budget.multiple:g}x",
        "billed_flops": r.total_model_flops,
        "first_use_flops": r.first_use_flops,
        "official": r.official,
        "commit": r.environment.git.commit,
    }


def _result(r: Record, task: str, score: TaskScore) -> dict[str, Any]:
    chosen = sorted(name for name, value in score.filters.items() if value == score.value)
    return {
        "evaluation_result_id": f"{r.id}/{task}/{score.metric}",
        "evaluation_name": f"{r.identity.suite}/{task}",
        "evaluation_timestamp": r.ended,
        "source_data": _source(r, task, score.n),
        "metric_config": {
            "evaluation_description": f"{score.metric} on the held-out rows of task {task}",
            "metric_id": score.metric,
            "metric_unit": "proportion",
            "metric_parameters": {"filter": chosen[0]} if chosen else {},
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": {
            "score": score.value,
            "details": _texts(
                {
                    "filters": score.filters,
                    "truncated": score.truncated,
                    "items_sha256": score.items_sha256,
                    "base_model_score": r.reports.base_scores.get(task),
                    "overlap": r.reports.overlap.get(task),
                }
            ),
            "uncertainty": {
                "standard_error": {"value": score.stderr, "method": "analytic"},
                "num_samples": score.n,
            },
        },
        "generation_config": {"generation_args": {"temperature": 0.0, "execution_command": command(r)}},
    }


def _source(r: Record, task: str, n: int) -> dict[str, Any]:
    """The data set where there is one of the hub, else the suite by its digests."""
    i, hubs = r.identity, r.environment.data_revisions
    digests = _texts({"test_sha256": i.data_sha256.get("test"), "suite_sha256": i.suite_sha256})
    if len(hubs) == 1:
        ((hub, revision),) = hubs.items()
        known = {"hf_revision": revision} if revision else {}
        found = {"dataset_name": f"{i.suite}/{task}", "source_type": "hf_dataset", "hf_repo": hub, "samples_number": n}
        return {**found, **known, "additional_details": digests}
    return {
        "dataset_name": f"{i.suite}/{task}",
        "source_type": "other",
        "source_id": i.data_sha256.get("test", ""),
        "source_version": i.suite_sha256,
        "additional_details": digests,
    }


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {k: v if isinstance(v, str) else canonical(v) for k, v in values.items() if v is not None}


def export(paths: Sequence[Path], out: Path, organization: str, relation: str) -> list[Path]:
    """Write `<out>/<run id>.json` for each record at `paths` (not for refutations and references) and return where.

    Of a folder of runs, those that failed are left out.
    """
    made = []
    for path in paths:
        if not records(path):
            raise HarnessError(f"no record at {str(path)!r}")
    out.mkdir(parents=True, exist_ok=True)
    for named, file in ((p, f) for p in paths for f in records(p) if not OTHERS.fullmatch(f.name)):
        record = read(file)
        if record.status == "failed" and named not in (file, file.parent):
            continue
        path = out / f"{record.id}.json"
        write_atomic(
            path, json.dumps(every_eval_ever(record, organization, relation), indent=1, allow_nan=False) + "\n"
        )
        made.append(path)
    return made
