"""Pages that are texts of the repository: what a strategy's file says, the documents on rules and contributing, the studies."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from mdit_py_plugins.anchors import anchors_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from harness.paths import asset, document

ARXIV = re.compile(r"\barXiv[ :]?(\d{4}\.\d{4,5})", re.IGNORECASE)
CITED = re.compile(rf" \((?:{ARXIV.pattern}(?:, )?)+\)", re.IGNORECASE)
DEVIATIONS = re.compile(r"(?=\bDeviations\b)")
DOCUMENTS = {
    "rules": "docs/rules.md",
    "statistics": "docs/statistics.md",
    "results": "docs/results.md",
    "flops": "docs/flops.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    **{
        f"study-{name}": f"docs/studies/{name}.md"
        for name in ("pocket", "msft", "cadft", "taskpgm", "partitionsel", "bbh")
    },
}
COMMENT = re.compile(r"^<!--.*-->\n", re.MULTILINE)  # for the scripts that write a part of a file
LINK = re.compile(r'href="(?!https?:)(?:[^"#]*/)?([A-Za-z]+)\.md(#[^"]*)?"')
NAMED = re.compile(r'(<a href="([a-z-]+)\.html[^"]*">)[\w./-]+\.md(?=</a>)')
AWAY = re.compile(r'<a href="(?!https?:|[a-z-]+\.html|#)[^"]*">(.*?)</a>', re.DOTALL)


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

    @property
    def brief(self) -> str:
        """What it does without the papers, where these have a column of their own."""
        return CITED.sub("", self.summary)


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
    split = [[" ".join(p.split()) for p in DEVIATIONS.split(part, maxsplit=1)] + [""] for part in whole.split("\n\n")]
    before, after = [found[0] for found in split], [found[1] for found in split]
    text = [p for p in before[1:] if p]
    deviations = " ".join(p for p in after if p)
    papers = tuple(dict.fromkeys(ARXIV.findall("\n".join(docs))))
    shown = Markup(highlight(code, PythonLexer(), HtmlFormatter(nowrap=True)))
    return Source(name, before[0], tuple(text), deviations, papers, shown, code.count("\n"))


def builtin() -> list[str]:
    return sorted(p.stem for p in asset("strategies").glob("*.py") if not p.stem.startswith("_"))


def documents() -> dict[str, tuple[str, Markup]]:
    """name -> (title, HTML) of those documents that are here."""
    return {name: found for name, path in DOCUMENTS.items() if (found := _document(document(path)))}


def _document(path: Path) -> tuple[str, Markup] | None:
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    body = COMMENT.sub("", text.partition("\n")[2])
    html = MarkdownIt("commonmark", {"html": False}).enable("table").use(anchors_plugin, max_level=4).render(body)
    html = LINK.sub(lambda m: f'href="{_page(m[1])}{m[2] or ""}"' if _page(m[1]) else 'href=""', html)
    html = NAMED.sub(
        lambda m: m[1] + str(escape(_title(document(DOCUMENTS[m[2]])))), html
    )  # by its title, not its file
    html = AWAY.sub(r"\1", html)  # a file of the repository that the site does not show stays a word
    html = html.replace("<table>", '<div class="wide" tabindex="0" role="region" aria-label="Table"><table>')
    html = html.replace("</table>", "</table></div>").replace("<th>", '<th scope="col">')
    return _title(path), Markup(html)


def _title(path: Path) -> str:
    """A document's first line."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") if path.is_file() else path.stem


def _page(stem: str) -> str:
    named = {Path(p).stem: f"{name}.html" for name, p in DOCUMENTS.items()}
    return named.get(stem, "")
