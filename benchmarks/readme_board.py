"""The top of the board and its picture in the README, and all of it in docs/studies/pocket.md, by the code that makes the site.

`python benchmarks/readme_board.py` writes them from results/; with --check it only says whether they are those of results/,
with --all it prints the whole table at 1x and writes nothing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness.board import sections
from harness.gather import gather
from harness.publish import pictures
from harness.rows import Row, Section

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- board: benchmarks/readme_board.py -->", "<!-- end of board -->"
GAP = 24  # pixels between the pictures
SUITE, TOP = "pocket", 12
GREY = "#77808a"  # reads on light and on dark pages, as do the series
SERIES = [GREY, "#2f81f7", "#d9661f", "#1a9b76", "#c2559c", "#a8891a", "#8767e0"]


def board(results: Path) -> Section | None:
    """The section with most rows among those of the whole suite, under the newest rules."""
    return next((s for s in sections(gather([results])) if s.first.identity.suite == SUITE), None)


def complete(s: Section) -> list[Row]:
    """Ranked rows at 1x that have all their seeds, best first."""
    return [row for row in dict(s.budgets)[1.0] if row.ranked and not row.provisional]


def table(rows: list[Row]) -> list[str]:
    """As Markdown; `trained` is what the answers were trained on, in tokens, to what the reference's were."""
    head = ["| | strategy | seeds | score, % | to `proportional` | trained |", "|---:|---|---:|---:|---:|---:|"]
    whole = next((_trained(row) for row in rows if row.is_reference), None)
    return head + [_line(row, _trained(row) / whole if whole else None) for row in rows]


def markdown(s: Section) -> str:
    """The best rows, what their places mean, and the picture."""
    rows = complete(s)
    counted = sorted({len(row.runs) for row in rows})
    seeds = f"{counted[0]} to {counted[-1]}" if len(counted) > 1 else f"{counted[0]}"
    lines = [
        f"`{s.first.identity.suite}`, {len(rows)} entries of {seeds} seeds at 1x, the best {min(TOP, len(rows))} "
        f"({len(s.tasks)} embedded tasks, a model of a million parameters):",
        "",
        *table(rows[:TOP]),
        "",
        "The first column is a group and no rank: its rows are not told apart from the best of them by all pairwise tests "
        "together (Holm, 5 %). *Trained*: tokens that the answer was trained on, to `proportional`'s; the rest of the bill is "
        "looks, proxies, probes, reference models and what was thrown away. "
        "All rows, and what hangs on one task and its rate: [docs/studies/pocket.md](docs/studies/pocket.md); "
        "all runs: `harness site`.",
        "In the picture: entries at 1x with 95 % intervals, and scores at all budgets against what was billed; "
        "hollow marks lack seeds.",
        "",
        "![Scores at 1x with their intervals, and score against all FLOPs that a strategy caused](docs/board.svg)",
    ]
    return "\n".join(lines)


def _trained(row: Row) -> float:
    """Tokens, mean of a run."""
    return sum(r.ledger["train"].tokens if "train" in r.ledger else 0 for r in row.runs) / len(row.runs)


def _line(row: Row, trained: float | None) -> str:
    e, d = row.score, row.difference
    score = f"{100 * e.value:.1f}" + (f" ± {100 * e.half_width:.1f}" if e.half_width is not None else "")
    apart = "" if row.is_reference or d is None else f"{100 * d.value:+.1f}".replace("-", "−")
    if apart and d is not None and d.half_width is not None:
        apart += f" ± {100 * d.half_width:.1f}"
    share = "" if trained is None else f"{trained:.2f}"
    cells = [row.tie or "", f"`{row.label}`", len(row.runs), score, apart, share]
    return "| " + " | ".join(map(str, cells)) + " |"


def svg(s: Section) -> str:
    """The board's picture to stand alone, with colours and letters of its own."""
    colours = ";".join(f"--series-{k}:{colour}" for k, colour in enumerate(SERIES, 1))
    style = f"<style>svg{{{colours}}}text{{font-family:system-ui,sans-serif}}</style>"
    made, sizes = [str(part) for part in pictures(s)], []
    for part in made:
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', part)
        assert found
        sizes.append((float(found[1]), float(found[2])))
    width, height = sum(w for w, _ in sizes) + GAP * (len(made) - 1), max(h for _, h in sizes)
    lefts = [sum(w for w, _ in sizes[:k]) + GAP * k for k in range(len(made))]
    inside = "".join(part.replace("<svg ", f'<svg x="{x:g}" ', 1) for part, x in zip(made, lefts, strict=True))
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} color="{GREY}">{style}{inside}</svg>\n'


def written(text: str, block: str) -> str:
    """A file's text with this block between its marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Write what is stale, or with --check only name it; exit status 1 then."""
    s = board(ROOT / "results")
    if s is None:
        print("no results of the suite")
        return 0
    if "--all" in sys.argv:
        print("\n".join(table(complete(s))))
        return 0
    readme, page, image = ROOT / "README.md", ROOT / "docs" / "studies" / "pocket.md", ROOT / "docs" / "board.svg"
    blocks = {readme: markdown(s), page: "\n".join(table(complete(s)))}
    made = {path: written(path.read_text(encoding="utf-8"), block) for path, block in blocks.items()}
    made[image] = svg(s)
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'not that of results/' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(made[path], encoding="utf-8")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
