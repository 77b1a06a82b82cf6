"""The axes of a matrix, read from a YAML file or from options and multiplied out into requests.

What is wrong is said with the file, the key and the nearest valid name before anything is planned.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from harness import models, registry
from harness.errors import HarnessError, unknown
from harness.paths import canonical
from harness.request import Request
from harness.suite import MODES, Mode, load_suite

ENTRY = ("name", "options", "seeds", "budgets", "lr", "mode")
KEYS = ("strategies", "suites", "models", "seeds", "budgets", "lr", "mode", "limit")
GRID = "grid"

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Draft:
    """A cell before its workload has been read."""

    request: Request
    entry: str
    where: str
    tuning: bool = False


def read(path: Path) -> dict[str, Any]:
    """The keys of a matrix file. Raises HarnessError with file and key."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"matrix file {str(path)!r}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HarnessError(f"matrix file {path.name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise HarnessError(f"matrix file {path.name}: expected a mapping of keys: {', '.join(KEYS)}")
    return raw


def drafts(file: Path | None, given: Spec, common: Request) -> list[Draft]:
    """The requests of a file, with the keys `given` on the command line in place of the file's and its entries'."""
    where = f"matrix file {file.name}: " if file else "matrix: "
    raw = read(file) if file else {}
    _known(where, raw, KEYS)
    return list(_Reader(where, file.parent if file else Path(), given, common).drafts({**raw, **given}))


@dataclass(frozen=True)
class _Reader:
    """Expands a spec. `where` and the key stand in front of every message."""

    where: str
    folder: Path
    given: Spec
    common: Request

    def drafts(self, spec: Spec) -> Iterator[Draft]:
        """Seed by seed, so that half a matrix already compares all its strategies."""
        common = replace(self.common, limit=_checked(self.where, "limit", spec.get("limit"), _limit))
        names = {key: [self._beside(n) for n in _names(self.where, spec, key)] for key in ("suites", "models")}
        for key, check in (("suites", load_suite), ("models", lambda n: models.resolve(n, common.mirror))):
            for k, name in enumerate(names[key]):
                _prefixed(f"{self.where}{key}[{k}]: ", check, name)
        suites: list[str | None] = [*names["suites"]] or [None]
        rows: list[list[Draft]] = []
        for k, entry in enumerate(_list(spec.get("strategies", ["proportional"]))):
            where = f"{self.where}strategies[{k}]"
            for model, suite in itertools.product(names["models"] or ["pocket"], suites):
                rows += self._rows(where, entry, spec, replace(common, suite=suite, model=model))
        if not rows:
            raise HarnessError(f"{self.where}strategies: at least one is needed")
        for row in itertools.zip_longest(*rows):
            yield from (draft for draft in row if draft is not None)

    def _rows(self, where: str, entry: Any, spec: Spec, common: Request) -> list[list[Draft]]:
        """Rows of one strategies entry on one workload; the drafts of a row differ in their seed."""
        own = entry if isinstance(entry, dict) else {"name": entry}
        _known(f"{where}.", own, ENTRY)
        if not isinstance(own.get("name"), str) or not own["name"]:
            raise HarnessError(f"{where}: expected a strategy's name, or a mapping with 'name', found {entry!r}")
        name = "+".join(self._beside(part) for part in own["name"].split("+"))
        plugin = _prefixed(f"{where}: ", registry.resolve, name)

        def values(key: str, default: Any, parse: Callable[[Any], Any]) -> list[Any]:
            holder = own if key in own and key not in self.given else spec
            prefix = f"{where}." if holder is own else self.where
            return list(_checked(prefix, key, holder.get(key, default), parse))

        seeds, budgets = values("seeds", 0, _seeds), values("budgets", 1.0, _budgets)
        modes, rates = values("mode", "full", _modes), values("lr", None, _rates)
        rows = []
        for options, mode in itertools.product(_options(where, own.get("options")), modes):
            plain, taken = _prefixed(f"{where}.options: ", plugin.apart, options)
            _prefixed(f"{where}.options: ", plugin.build, plain)
            given = " ".join(f"{key}={text}" for key, text in options.items())
            found = plain | {key: self._beside(text) for key, text in taken.items()}
            for lr, multiple in itertools.product(self._grid(rates, common, mode), budgets):
                label = [plugin.name, given, "" if lr is None else f"lr={lr:g}"]
                base = replace(common, strategy=name, options=found, mode=mode, lr=lr, budget=multiple)
                made = [replace(base, seed=seed) for seed in seeds]
                rows.append([Draft(r, " ".join(filter(None, label)), where, GRID in rates) for r in made])
        return rows

    def _grid(self, rates: Sequence[Any], common: Request, mode: Mode) -> list[float | None]:
        """The learning rates asked for, `grid` replaced by the suite's."""
        if GRID not in rates:
            return list(rates)
        suite = load_suite(common.suite or ("pocket" if common.model == "pocket" else "bbh"))
        return list(suite.train.rates(mode)[1])

    def _beside(self, name: str) -> str:
        """A path is looked for beside the matrix file first."""
        path = self.folder / name
        return str(path) if ("/" in name or path.suffix in (".py", ".yaml", ".yml")) and path.exists() else name


# --- values of keys


def _known(where: str, raw: Mapping[Any, Any], valid: Sequence[str]) -> None:
    for key in raw:
        if key not in valid:
            near = get_close_matches(str(key), valid, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(valid)}"
            raise HarnessError(f"{where}{key}: unknown key; {hint}")


def _prefixed(where: str, check: Callable[..., Any], *args: Any) -> Any:
    try:
        return check(*args)
    except HarnessError as error:
        raise HarnessError(f"{where}{error}") from None


def _checked(where: str, key: str, value: Any, parse: Callable[[Any], Any]) -> Any:
    try:
        return parse(value)
    except (ValueError, TypeError) as error:
        raise HarnessError(f"{where}{key}: expected {error}, found {value!r}") from None
    except HarnessError as error:
        raise HarnessError(f"{where}{key}: {error}") from None


def _list(value: Any) -> list[Any]:
    """A list, a single value, or a text of several with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, list) else [value]


def _names(where: str, spec: Spec, key: str) -> list[str]:
    found = _list(spec.get(key, []))
    if bad := [n for n in found if not isinstance(n, str)]:
        raise HarnessError(f"{where}{key}: expected names, found {bad[0]!r}")
    return found


def _seeds(value: Any) -> list[int]:
    seeds: dict[int, None] = {}
    for part in _list(value):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", "" if isinstance(part, bool) else str(part))
        if ends is None:
            raise ValueError("seeds such as 3, 0-9 or [0, 2]")
        seeds |= dict.fromkeys(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    if not seeds:
        raise ValueError("at least one seed")
    return list(seeds)


def _number(value: Any, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(what)
    return number


def _budgets(value: Any) -> list[float]:
    found = [_number(str(part).removesuffix("x"), "positive multiples, such as 0.5x") for part in _list(value)]
    if not found:
        raise ValueError("at least one multiple")
    return found


def _rates(value: Any) -> list[Any]:
    if value is None:
        return [None]
    found = [p if p == GRID else _number(p, "positive numbers, or 'grid' for the suite's") for p in _list(value)]
    if not found or (GRID in found and len(found) > 1):
        raise ValueError("positive numbers, or 'grid' alone")
    return found


def _modes(value: Any) -> list[Mode]:
    for part in _list(value):
        if part not in MODES:
            raise unknown("mode", str(part), MODES)
    return _list(value) or ["full"]


def _limit(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 2):
        raise ValueError("a whole number from 2, rows a task")
    return value


def _options(where: str, value: Any) -> list[dict[str, str]]:
    """Every combination of the options' values, as the texts that `-o key=value` takes. A list is one cell a value."""
    if value is not None and not isinstance(value, dict):
        raise HarnessError(f"{where}.options: expected a mapping, such as {{C: 2}}, found {value!r}")
    axes = [[(str(key), _text(v)) for v in (x if isinstance(x, list) else [x])] for key, x in (value or {}).items()]
    return [dict(pairs) for pairs in itertools.product(*axes)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)
