"""The site: records in, plain files out. Means, differences and intervals are computed here and stored nowhere.

Pages open from file://, ask nothing of a network and run no script. All names come from records, that is from anybody:
every template escapes, ids are checked before they become file names, and the picture's text is escaped by its renderer.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.errors import HarnessError
from harness.ledger import BESIDE, BILLED
from harness.paths import asset, canonical, digest, write_atomic
from harness.picture import Point, draw
from harness.record import SCHEMA_VERSION, Record, read
from harness.stats import Estimate, macro_standard_error, mean_interval, paired_difference

REFERENCE = "proportional"
SEEDS, SEEDS_POCKET = 5, 10  # rules.md 8: fewer is provisional, and a run of the pocket suite is cheap
RESULT = re.compile(r"\d+-[0-9a-f]{8}\.json")
ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Row:
    """One entry (strategy, hyperparameters, source, LR) at one budget. Scores are fractions, FLOPs are model FLOPs."""

    runs: tuple[Record, ...]
    reference: tuple[Record, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def first(self) -> Record:
        return self.runs[0]

    @property
    def strategy(self) -> str:
        return self.first.identity.strategy

    @property
    def multiple(self) -> float:
        return self.first.identity.budget.multiple

    @property
    def label(self) -> str:
        """The strategy, and whatever tells it from the other rows of its section."""
        return " ".join((self.strategy, *self.hints))

    @property
    def settings(self) -> str:
        """Hyperparameters given by hand in any of the runs; defaults are not repeated."""
        names = sorted({name for r in self.runs for name in r.identity.passed})
        values = {**self.first.identity.passed, **_hyperparameters(self.first)}
        return ", ".join(f"{name}={values.get(name)}" for name in names)

    @property
    def score(self) -> Estimate:
        return mean_interval([r.macro for r in self.runs])

    @property
    def item_error(self) -> float:
        """Standard error over items of the first run's macro mean: all there is to say with one seed."""
        return macro_standard_error([s.stderr for s in self.first.scores.values()])

    @property
    def billed(self) -> float:
        """Mean billed FLOPs of a run."""
        return sum(r.total_model_flops for r in self.runs) / len(self.runs)

    @property
    def spent(self) -> float:
        """Mean billed FLOPs as a multiple of the 1x budget."""
        return sum(r.total_model_flops * self.multiple / r.identity.budget.flops for r in self.runs) / len(self.runs)

    @property
    def amortised(self) -> bool:
        """Whether what it trained on was learned, and paid for, by other runs."""
        return self.first.reports.reused is not None

    @property
    def first_use(self) -> float:
        """`spent`, with what those runs have paid for the learning."""
        return sum(r.first_use_flops * self.multiple / r.identity.budget.flops for r in self.runs) / len(self.runs)

    @property
    def discarded(self) -> float:
        """Mean share of the billed FLOPs that trained weights which were thrown away."""
        return sum(_phase(r, "discarded") / max(1, r.total_model_flops) for r in self.runs) / len(self.runs)

    @property
    def difference(self) -> Estimate | None:
        return paired_difference(_by_seed(self.runs), _by_seed(self.reference))

    @property
    def is_reference(self) -> bool:
        return self.runs == self.reference

    @property
    def needed(self) -> int:
        return SEEDS_POCKET if self.first.identity.suite == "pocket" else SEEDS

    @property
    def provisional(self) -> bool:
        return len(self.runs) < self.needed

    @property
    def unofficial(self) -> int:
        """How many of the runs are unofficial."""
        return sum(not r.official for r in self.runs)


@dataclass(frozen=True)
class Section:
    """One workload: runs whose scores may be compared. `budgets` has 1x first; `base` are the base model's scores."""

    anchor: str
    first: Record
    budgets: tuple[tuple[float, tuple[Row, ...]], ...]
    base: tuple[float, ...]

    @property
    def rows(self) -> list[Row]:
        return [row for _, rows in self.budgets for row in rows]

    @property
    def title(self) -> str:
        i, limit = self.first.identity, self.first.reports.limit
        mode = {"full": "full fine-tuning", "lora": "LoRA"}[i.mode]
        return f"{i.suite} × {i.model}, {mode}" + (f", at most {limit} rows a task" if limit is not None else "")


def build(sources: Sequence[Path], out: Path) -> Path:
    """Render every record below `sources` (results and runs folders; the first copy of a run counts) into `out`.

    Returns the path of index.html. A record that cannot be read costs one line on stderr and is left out.
    """
    records = list(load(sources))
    shown = [r for r in records if r.status != "failed"]
    sections = [section(group) for group in _grouped(shown, _workload)]
    sections.sort(key=lambda s: (s.title, s.anchor))
    templates = _templates()
    (out / "runs").mkdir(parents=True, exist_ok=True)
    for file in (asset("site") / "static").iterdir():
        shutil.copyfile(file, out / file.name)
    for s in sections:
        for r in (r for row in s.rows for r in row.runs):
            page = templates.get_template("run.html").render(record=r, section=s, command=command(r), root="../")
            write_atomic(out / "runs" / f"{r.id}.html", page)
    for old in (out / "runs").glob("*.html"):
        if ID.fullmatch(old.stem) and old.stem not in {r.id for r in shown}:
            old.unlink()
    pictures = {s.anchor: (picture(s), describe(s)) for s in sections}
    failed = sorted((r for r in records if r.status == "failed"), key=lambda r: r.id)
    index = templates.get_template("index.html").render(sections=sections, pictures=pictures, failed=failed, root="")
    write_atomic(out / "index.html", index)
    return out / "index.html"


def load(sources: Iterable[Path]) -> Iterator[Record]:
    """Every run once: the first copy that did not fail, else the first."""
    found: dict[str, Record] = {}
    for path in (p for folder in sources for p in _files(folder)):
        try:
            record = read(path)
            _check(record)
        except (HarnessError, ValueError) as error:
            print(f"harness: skipped {path}: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        if record.id not in found or (found[record.id].status == "failed" and record.status != "failed"):
            found[record.id] = record
    yield from found.values()


def _files(folder: Path) -> list[Path]:
    """`<id>/record.json` of a runs folder, `<seed>-<id8>.json` at any depth of a results folder (hub ids have a /)."""
    results = (p for p in folder.rglob("[0-9]*-*.json") if RESULT.fullmatch(p.name))
    return sorted(folder.glob("*/record.json")) + sorted(results)


def _check(r: Record) -> None:
    """Raises HarnessError on what the schema allows and no page can show."""
    spec, scores = r.identity.budget, r.scores.values()
    if r.schema_version > SCHEMA_VERSION:
        raise HarnessError(f"schema version {r.schema_version}: this harness reads up to {SCHEMA_VERSION}")
    if not ID.fullmatch(r.id):
        raise HarnessError(f"id {r.id!r}: expected 16 hex digits")
    if not (math.isfinite(spec.multiple) and spec.multiple > 0 and spec.flops > 0):
        raise HarnessError(f"budget {spec.multiple} of {spec.flops} FLOPs: expected positive numbers")
    if r.status != "failed" and not scores:
        raise HarnessError(f"status {r.status!r} without scores")
    numbers = [*(x for s in scores for x in (s.value, s.stderr)), *r.reports.base_scores.values(), r.identity.lr]
    if not all(map(math.isfinite, numbers)):
        raise HarnessError("a score is not a finite number")


def _grouped(records: Iterable[Record], key: Any) -> list[list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return [groups[name] for name in sorted(groups)]


def _workload(r: Record) -> str:
    """What two runs must share for their scores to be comparable; the test items are not in the workload's hash."""
    i, metrics = r.identity, {task: s.metric for task, s in r.scores.items()}
    what = [i.suite, i.model, i.mode, r.workload, r.reports.limit, r.rules_version, i.data_sha256.get("test"), metrics]
    return canonical(what)


def _entry(r: Record) -> str:
    i, reused = r.identity, r.reports.reused
    learned = [reused.lr, reused.budget] if reused else []
    return canonical([i.strategy, i.source_sha256, _hyperparameters(r), i.lr, i.budget.multiple, *learned])


def _hyperparameters(r: Record) -> dict[str, Any]:
    """As they tell rows apart: a mixture of another run by that run's id, or as one learned with the run's own seed."""
    values, reused = r.identity.hyperparameters, r.reports.reused
    if reused is None:
        return values
    source = "of the same seed" if reused.seed == r.identity.seed else reused.id
    return {k: source if isinstance(v, Mapping) and v.get("run") == reused.id else v for k, v in values.items()}


def section(records: Sequence[Record]) -> Section:
    """The rows of one workload: by budget, 1x first, and by falling score; amortised ones come after the others."""
    rows = [Row(tuple(sorted(g, key=lambda r: (r.identity.seed, r.id)))) for g in _grouped(records, _entry)]
    budgets = []
    for multiple in sorted({row.multiple for row in rows}, key=lambda m: (m != 1, m)):
        peers = [row for row in rows if row.multiple == multiple]
        reference = _reference(peers)
        peers = [replace(row, reference=reference, hints=_hints(row, rows)) for row in peers]
        budgets.append((multiple, tuple(sorted(peers, key=lambda row: (row.amortised, -row.score.value, row.label)))))
    whole = [r for r in records if r.reports.base_scores.keys() == r.scores.keys()]
    base = tuple(sorted({b for r in whole if (b := r.macro_base) is not None}))
    return Section("w-" + digest(_workload(records[0]))[:12], records[0], tuple(budgets), base)


def _reference(peers: Sequence[Row]) -> tuple[Record, ...]:
    """`proportional` as it comes, at this budget: the row with most seeds, then the newest."""
    plain = [row for row in peers if row.strategy == REFERENCE and not row.settings]
    best = max(plain, key=lambda row: (len(row.runs), max(r.ended for r in row.runs)), default=None)
    return best.runs if best else ()


def _hints(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """Settings, LR and source digest, where the strategy's name alone would be ambiguous in this section."""
    same = [r for r in rows if r.strategy == row.strategy]
    i = row.first.identity
    hints = [row.settings] if row.settings else []
    if len({r.first.identity.lr for r in same}) > 1:
        hints.append(f"lr {i.lr:g}")
    if len({r.first.identity.source_sha256 for r in same}) > 1:
        hints.append(f"source {i.source_sha256[:8]}")
    return tuple(hints)


def _by_seed(runs: Iterable[Record]) -> dict[int, float]:
    return {r.identity.seed: r.macro for r in runs}


def _phase(r: Record, name: str) -> int:
    return r.ledger[name].model_flops if name in r.ledger else 0


def command(r: Record) -> str:
    """What to type to repeat a run, quoted for a POSIX shell."""
    i = r.identity
    words = ["harness", "run", "--strategy", i.strategy, "--model", i.model, "--suite", i.suite, "--seed", str(i.seed)]
    words += ["--budget", f"{repr(i.budget.multiple).removesuffix('.0')}x", "--lr", repr(i.lr), "--mode", i.mode]
    words += [word for name, value in sorted(i.passed.items()) for word in ("-o", f"{name}={value}")]
    words += ["--limit", str(r.reports.limit)] if r.reports.limit is not None else []
    return shlex.join(words)


def picture(s: Section) -> Markup:
    """The section's SVG, to stand inside the page. Rows that billed nothing have no place on a logarithmic axis."""
    rows = [(row, row.score) for row in s.rows if row.spent > 0]
    points = [Point(r.strategy, r.label, r.multiple, r.first_use, e.value, e.low, e.high) for r, e in rows]
    return Markup(draw(points, s.base[0] if s.base else None)) if points else Markup()


def describe(s: Section) -> str:
    """The picture in a sentence, for who cannot see it; its numbers are the table's."""
    multiple, rows = s.budgets[0]
    best = f"{rows[0].label} leads at {multiple:g}x with {100 * rows[0].score.value:.1f} %"
    return f"Macro mean score against billed FLOPs on {s.title}: {best}. The table above holds every number shown."


def _flops(x: float) -> str:
    """Three digits and an exponent, 2.46e12; small counts whole."""
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}" if x >= 1000 else f"{x:.0f}"


def _templates() -> Environment:
    loader = FileSystemLoader(asset("site") / "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["percent"] = lambda x, digits=1: f"{100 * x:.{digits}f}"
    made.filters["signed"] = lambda x: f"{100 * x:+.1f}".replace("-", "−")
    made.filters["flops"] = _flops
    made.globals.update(BILLED=BILLED, BESIDE=BESIDE, REFERENCE=REFERENCE, phase=_phase)
    return made
