"""A study's rows as text: a table for the terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from harness import REFERENCE
from harness.stats import Estimate
from harness.study import Row, as_dict


def shown(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells for people: percent and points; columns that are the same in all rows are left out."""
    where = [name for name in ("suite", "model", "mode") if len({getattr(r, name) for r in found}) > 1]
    header = ["strategy", *where, "budget", "score, %", f"vs {_against(found)}", "FLOPs", "disc.", "seeds"]
    lines = []
    for r in found:
        facts = [r.entry + (" *" if r.chosen else ""), *(getattr(r, name) for name in where), f"{r.budget:g}x"]
        if r.records:
            facts += [
                _percent(r.score),
                _points(r.difference),
                _flops(r.billed),
                f"{r.discarded:.0%}",
            ]
        else:
            facts += ["", "", "", ""]
        lines.append([*facts, str(len(r.records)) if len(r.records) == r.asked else f"{len(r.records)} of {r.asked}"])
    return header, lines


def _against(found: Sequence[Row]) -> str:
    return found[0].against if found else REFERENCE


def notes(found: Sequence[Row]) -> list[str]:
    """What the table's numbers mean."""
    said = [
        "score: macro mean over tasks, ± its 95 % interval for seeds and items",
        f"vs {_against(found)}: points and 95 % interval, paired on the same seeds and items",
        "FLOPs: billed, mean of a run; disc.: the share of them that was rolled back",
    ]
    for r in (r for r in found if r.records and r.first_use > r.billed):
        said.append(
            f"{r.entry}: amortised; {_flops(r.first_use)} FLOPs at first use, with the learning of its mixtures"
        )
    cut = sum(len(r.records) - r.finished for r in found)
    if cut:
        runs = sum(len(r.records) for r in found)
        said.append(f"{cut} of {runs} runs were stopped by their budget before they came to their own end")
    if any(r.tuning for r in found):
        said.append("* the learning rate chosen on validation from the suite's grid; only complete grids choose")
    if edge := [r.entry for r in found if r.edge]:
        said.append(f"at the edge of their grid, so that a better rate may lie beyond it: {', '.join(edge)}")
    return said


def _flops(x: float) -> str:
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f}" + ("" if e.half_width is None else f" ± {100 * e.half_width:.1f}")


def _points(e: Estimate | None) -> str:
    if e is None:
        return ""
    ends = "" if e.low is None or e.high is None else f" [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"
    return f"{100 * e.value:+.1f}{ends}".replace("-", "−")


def text(found: Sequence[Row]) -> None:
    """A table on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, lines = shown(found)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for k, name in enumerate(header):
        right = k >= header.index("budget")
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for line in lines:
        table.add_row(*(Text(x) for x in line))
    console = Console(highlight=False)
    console.print(table)
    for note in notes(found):
        console.print(note, markup=False)


def markdown(found: Sequence[Row]) -> str:
    """The same as a Markdown table."""
    header, lines = shown(found)
    right = header.index("budget")
    rule = ["---" if k < right else "---:" for k in range(len(header))]
    table = [f"| {' | '.join(x.replace('|', chr(92) + '|') for x in line)} |" for line in (header, rule, *lines)]
    return "\n".join([*table, "", *(f"{note}." for note in notes(found))])


def as_csv(found: Sequence[Row]) -> str:
    """Numbers unrounded, a header line, one line a row."""
    dicts = [as_dict(row) for row in found]
    columns = list(dict.fromkeys(key for d in dicts for key in d))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dicts)
    return out.getvalue().rstrip("\n")
