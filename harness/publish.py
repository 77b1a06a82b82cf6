"""The site: records in, plain files out. Means, differences and intervals are computed here and stored nowhere.

Pages open from file:// and from a sub-path, ask nothing of a network, and show every table without a script. All names come
from records, that is from anybody: every template escapes, ids are checked before they become file names.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness import articles, downloads, workloads
from harness.board import sections
from harness.gather import ID, Gathered, gather, load
from harness.marks import Point
from harness.pages import command, render
from harness.parallel import each
from harness.paths import asset
from harness.picture import draw
from harness.plain import slug
from harness.record import Record
from harness.rows import Row, Section
from harness.runview import view
from harness.versus import comparison

__all__ = ["build", "command", "load"]

FOLDERS = ("boards", "runs", "strategies", "compare")


@dataclass(frozen=True)
class Site:
    """What all pages are made of."""

    found: Gathered
    sections: tuple[Section, ...]
    out: Path
    documents: Mapping[str, tuple[str, Markup]]

    @property
    def shared(self) -> dict[str, Any]:
        """What every page's frame shows."""
        titles = [s.title for s in self.sections]
        again = {s.anchor for s in self.sections if titles.count(s.title) > 1}
        return {"sections": self.sections, "documents": self.documents, "more": len(self.sections) > 1, "again": again}

    def write(self, path: str, template: str, root: str, /, **values: Any) -> None:
        html = render(template, root=root, here=path, **self.shared, **values)
        (self.out / path).write_bytes(html.encode())  # a third of the time of write_text, for thousands of pages


def build(sources: Sequence[Path], out: Path) -> Path:
    """Render every record below `sources` (results and runs folders; the first copy of a run counts) into `out`.

    Returns the path of index.html. A record that cannot be read costs one line on stderr and is left out.
    """
    found = gather(sources)
    site = Site(found, tuple(sections(found)), out, articles.documents())
    for folder in FOLDERS:
        (out / folder).mkdir(parents=True, exist_ok=True)
    for file in (asset("site") / "static").iterdir():
        shutil.copyfile(file, out / file.name)
    names = {"index.html", *_runs(site), *_strategies(site)}
    names |= {f"{folder}/{s.anchor}.html" for s in site.sections for folder in ("boards", "compare")}
    _boards(site)
    _texts(site)
    for folder in FOLDERS:
        _sweep(out / folder, names)
    return out / "index.html"


def _sweep(folder: Path, names: set[str]) -> None:
    """Pages that an earlier build made of what is gone; other people's files stay."""
    for old in folder.glob("*.html"):
        with old.open(encoding="utf-8", errors="replace") as handle:
            ours = "harness site" in handle.read(400)
        if ours and f"{folder.name}/{old.name}" not in names:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)


def _runs(site: Site) -> set[str]:
    """A page and the record of every run; the many pages are shared out among processes."""
    jobs = [(s, row, r) for s in site.sections for row in s.rows for r in row.runs]
    paged = {r.id for _, _, r in jobs}

    def write(job: tuple[Section, Row, Record]) -> str:
        s, row, r = job
        assert ID.fullmatch(r.id)
        name = f"runs/{r.id}.html"
        reused = r.reports.reused
        source = reused.id if reused and reused.id in paged else None  # a page to go to
        values = {"record": r, "command": command(r), "view": view(r, row.runs), "source": source}
        site.write(name, "run.html", "../", section=s, row=row, **values)
        (site.out / f"runs/{r.id}.json").write_bytes(site.found.files[r.id].read_bytes())
        return name

    return set(each(write, jobs))


def _strategies(site: Site) -> set[str]:
    """A page a strategy, of those that are here and those that records name, and their list."""
    entries: dict[str, list[tuple[Section, Row]]] = {name: [] for name in articles.builtin()}
    for s in site.sections:
        for row in s.rows:
            entries.setdefault(row.strategy, []).append((s, row))
    for name, rows in entries.items():
        parts = [found for part in name.split("+")[:8] if (found := articles.source(part))]
        site.write(f"strategies/{slug(name)}.html", "strategy.html", "../", name=name, parts=parts, rows=rows)
    known = [(name, articles.source(name), rows) for name, rows in sorted(entries.items())]
    site.write("strategies.html", "strategies.html", "", strategies=known)
    return {f"strategies/{slug(name)}.html" for name in entries}


def _boards(site: Site) -> None:
    """The boards, of which the first is the front page, their comparisons, the downloads, and the page of all workloads.

    The last one is drawn here, after the others: its renderer has threads, and hangs in a fork of a process that holds it.
    """

    def write(s: Section | None) -> None:
        if s is None:
            downloads.write(site.sections, site.found, site.out)
            return
        values = {
            "section": s,
            "pictures": pictures(s),
            "described": describe(s),
            "failed": site.found.failed,
            "references": [r for r in site.found.references if r.suite == s.first.identity.suite],
        }
        if s is site.sections[0]:
            site.write("index.html", "board.html", "", **values)
        site.write(f"boards/{s.anchor}.html", "board.html", "../", **values)
        site.write(f"compare/{s.anchor}.html", "compare.html", "../", section=s, comparison=comparison(s))

    for _ in each(write, [None, *site.sections], few=3):
        pass
    if not site.sections:
        site.write("index.html", "empty.html", "", failed=site.found.failed)
    site.write("workloads.html", "workloads.html", "", **workloads.view(site.sections))


def _texts(site: Site) -> None:
    for name, (title, html) in site.documents.items():
        site.write(f"{name}.html", "document.html", "", title=title, html=html)
    files = [f for f in downloads.FILES if (site.out / f"{f.name}.parquet").is_file()]
    site.write("downloads.html", "downloads.html", "", files=files)


def pictures(s: Section) -> list[Markup]:
    """The section's SVGs, to stand inside the page. Rows that billed nothing have no place on a logarithmic axis."""
    rows = [(row, row.score) for row in s.rows if row.spent > 0 and not row.tuning]
    points = [
        Point(r.strategy, r.label, r.multiple, r.first_use, e.value, e.low, e.high, r.provisional) for r, e in rows
    ]
    return draw(points, s.base[0] if s.base else None) if points else []


def describe(s: Section) -> str:
    """The picture in a sentence, for who cannot see it; its numbers are the table's."""
    multiple, rows = s.budgets[0]
    ranked = [row for row in rows if row.ranked]
    first = next((row for row in ranked if not row.provisional), ranked[0] if ranked else rows[0])
    seeds = f" over {len(first.runs)} seed{'s' if len(first.runs) > 1 else ''}"
    best = f"{first.label} has the best mean at {multiple:g}x, {100 * first.score.value:.1f} %{seeds}"
    return f"Macro mean score against billed FLOPs on {s.title}: {best}. The table above holds every number shown."
