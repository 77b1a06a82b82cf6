"""The numbers of the pages as files: a line a row of a board, and a line a run and task; CSV, JSON and Parquet alike."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.gather import Gathered
from harness.paths import digest
from harness.plain import plain
from harness.rows import Section, entry


@dataclass(frozen=True)
class File:
    name: str
    meaning: str


FILES = (
    File("rows", "every row of every board: scores, intervals, costs; the numbers of the tables, unrounded"),
    File("scores", "every run and task: score, standard error, items"),
    File("references", "scores from elsewhere, of results files of lm-eval: a line a task; no compute is known"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute instead of show


def write(sections: Sequence[Section], found: Gathered, out: Path) -> None:
    """A file of each of FILES in three formats below `out`. Scores are fractions, FLOPs are model FLOPs."""
    tables = {"rows": list(_rows(sections)), "scores": list(_scores(sections)), "references": list(_references(found))}
    for name, table in tables.items():
        _csv(table, out / f"{name}.csv")
        lines = ",\n".join(json.dumps(line, allow_nan=False) for line in table)
        (out / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        (out / f"{name}.parquet").unlink(missing_ok=True)
        if table:
            _parquet(table, out / f"{name}.parquet")


def _rows(sections: Sequence[Section]) -> Iterator[dict[str, Any]]:
    for s in sections:
        i = s.first.identity
        where = {
            "board": s.anchor,
            "suite": i.suite,
            "model": i.model,
            "mode": i.mode,
            "rules_version": s.first.rules_version,
        }
        for row in s.rows:
            score, d, against = row.score, None if row.is_reference else row.difference, row.against
            yield {k: plain(v) if isinstance(v, str) else v for k, v in where.items()} | {
                "strategy": plain(row.strategy),
                "options": plain(row.settings),
                "learning_rate": row.first.identity.lr,
                "budget": row.multiple,
                "seeds": len(row.runs),
                "score": score.value,
                "score_low": score.low,
                "score_high": score.high,
                "interquartile_mean": row.iqm,
                "difference": d.value if d else None,
                "difference_low": d.low if d else None,
                "difference_high": d.high if d else None,
                "difference_seeds": d.n if d else None,
                "detectable": against.detectable if against else None,
                "tie_group": row.tie,
                "best_place": row.places[0] if row.places else None,
                "worst_place": row.places[1] if row.places else None,
                "billed_flops": row.billed,
                "billed_multiple": row.spent,
                "first_use_multiple": row.first_use,
                "tuning_multiple": row.tuned,
                "rate_at_edge": row.edge,
                "discarded_share": row.discarded,
                "target_multiple": _finite(row.to_target),
                "target_reached": None if row.to_target is None else math.isfinite(row.to_target),
                "seconds": row.seconds,
                "device": plain(", ".join(row.devices)),
                "provisional": row.provisional,
                "tuning_row": row.tuning,
                "entry": digest(entry(row.first))[:10],
                "amortised": row.amortised,
                "unofficial_runs": row.unofficial,
                "unverified_runs": row.unverified,
                "repetitions": len(row.disputes),
                "refutations": row.refuted,
                "runs": " ".join(r.id for r in row.runs),
            }


def _scores(sections: Sequence[Section]) -> Iterator[dict[str, Any]]:
    for s in sections:
        for row in s.rows:
            for r in row.runs:
                for task, found in sorted(r.scores.items()):
                    yield {
                        "board": s.anchor,
                        "run": r.id,
                        "strategy": plain(row.strategy),
                        "budget": row.multiple,
                        "seed": r.identity.seed,
                        "task": plain(task),
                        "metric": plain(found.metric),
                        "score": found.value,
                        "standard_error": found.stderr,
                        "items": found.n,
                        "base_score": r.reports.base_scores.get(task),
                    }


def _references(found: Gathered) -> Iterator[dict[str, Any]]:
    for r in found.references:
        for task, s in sorted(r.scores.items()):
            yield {
                "suite": plain(r.suite),
                "name": plain(r.name),
                "model": plain(r.model),
                "source": plain(r.source),
                "date": plain(r.date),
                "task": plain(task),
                "metric": plain(s.metric),
                "score": s.value,
                "standard_error": s.stderr,
                "items": s.n,
                "items_of": s.of,
            }


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None


def _csv(table: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        if not table:
            return
        writer = csv.DictWriter(handle, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _safe(v) for k, v in line.items()} for line in table)


def _safe(value: Any) -> Any:
    """Text that begins like a formula gets a quote in front, as spreadsheets write it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _parquet(table: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(table), path, compression="zstd")
