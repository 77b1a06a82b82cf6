"""Pages that are texts of the repository: what a strategy's file says, and the documents on rules and contributing."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from harness.paths import asset, document

ARXIV = re.compile(r"\barXiv[ :]?(\d{4}\.\d{4,5})", re.IGNORECASE)
DOCUMENTS = {
    "rules": "docs/rules.md",
    "statistics": "docs/statistics.md",
    "results": "docs/results.md",
    "flops": "docs/flops.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}
LINK = re.compile(r'href="(?!https?:)(?:[^"#]*/)?([A-Za-z]+)\.md(#[^"]*)?"')
AWAY = re.compile(r'<a href="(?!https?:|[a-z]+\.html|#)[^"]*">(.*?)</a>', re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A strategy's file: its docstring in parts, and its code as coloured HTML."""

    name: str
    summary: str = ""
    text: tuple[str, ...] = ()
    deviations: str = ""
    papers: tuple[str, ...] = ()
    code: Markup | str = ""
    lines: int = 0


@cache
def source(name: str) -> Source | None:
    """Of a built-in strategy; None for any other name. The file is read, never run."""
    path = asset("strategies") / f"{name}.py"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) or not path.is_file():
        return None
    code = path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    docs = [ast.get_docstring(tree) or ""]
    docs += [ast.get_docstring(n) or "" for n in tree.body if isinstance(n, ast.ClassDef)]
    whole = next((d for d in docs if d), "")
    parts = [" ".join(p.split()) for p in whole.split("\n\n")]
    text = [p for p in parts[1:] if not p.startswith("Deviations")]
    deviations = next((p for p in parts if p.startswith("Deviations")), "")
    papers = tuple(dict.fromkeys(ARXIV.findall("\n".join(docs))))
    shown = Markup(highlight(code, PythonLexer(), HtmlFormatter(nowrap=True)))
    return Source(name, parts[0], tuple(text), deviations, papers, shown, code.count("\n"))


def builtin() -> list[str]:
    return sorted(p.stem for p in asset("strategies").glob("*.py") if not p.stem.startswith("_"))


def documents() -> dict[str, tuple[str, Markup]]:
    """name -> (title, HTML) of those documents that are here."""
    return {name: found for name, path in DOCUMENTS.items() if (found := _document(document(path)))}


def _document(path: Path) -> tuple[str, Markup] | None:
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    title, _, body = text.partition("\n")
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(body)
    html = LINK.sub(lambda m: f'href="{_page(m[1])}{m[2] or ""}"' if _page(m[1]) else 'href=""', html)
    html = AWAY.sub(r"\1", html)  # a file of the repository that the site does not show stays a word
    html = html.replace("<table>", '<div class="wide" tabindex="0" role="region" aria-label="Table"><table>')
    html = html.replace("</table>", "</table></div>").replace("<th>", '<th scope="col">')
    return title.lstrip("# "), Markup(html)


def _page(stem: str) -> str:
    named = {Path(p).stem: f"{name}.html" for name, p in DOCUMENTS.items()}
    return named.get(stem, "")
