"""Strategies by name: one file each in `strategies/`, a file given by path, or an installed plug-in's entry point."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from harness.api import Lab, LearnedMixture
from harness.errors import HarnessError, unknown
from harness.paths import asset, digest

GROUP = "harness.strategies"


@dataclass(frozen=True)
class Plugin:
    """A strategy class, its name, and the digest of its source (with the shared numerics, if it uses them)."""

    name: str
    cls: type[Any]
    source_sha256: str

    @property
    def summary(self) -> str:
        return (inspect.getdoc(sys.modules[self.cls.__module__]) or inspect.getdoc(self.cls) or "").split("\n")[0]

    @property
    def fields(self) -> dict[str, Any]:
        """Hyperparameters and their defaults."""
        return {f.name: f.default for f in dataclasses.fields(self.cls)}

    @property
    def reusing(self) -> set[str]:
        """The fields that take a mixture which another run has learned."""
        hints = inspect.get_annotations(self.cls, eval_str=True)
        return {f.name for f in dataclasses.fields(self.cls) if LearnedMixture in get_args(hints.get(f.name))}

    def build(self, options: Mapping[str, str]) -> Any:
        """The strategy with these hyperparameters, `key=value` texts read by the field's type."""
        fields = {f.name: f for f in dataclasses.fields(self.cls)}
        hints = inspect.get_annotations(self.cls, eval_str=True)
        values = {}
        for key, text in options.items():
            if key not in fields:
                raise (
                    unknown(f"option of {self.name}", key, fields)
                    if fields
                    else HarnessError(f"strategy {self.name} has no options; {key!r} was given")
                )
            try:
                values[key] = TypeAdapter(hints[key]).validate_python(yaml.safe_load(text))
                json.dumps(values[key], allow_nan=False, default=str)  # a run's identity is JSON
            except (ValidationError, yaml.YAMLError):
                raise HarnessError(f"option {key}={text!r} of {self.name}: expected {_said(hints[key])}") from None
            except ValueError:
                raise HarnessError(f"option {key}={text!r} of {self.name}: expected a finite number") from None
        try:
            return self.cls(**values)
        except (TypeError, ValueError, HarnessError) as error:
            raise HarnessError(f"{self._refused(values, options)}: {error}") from None

    def _refused(self, values: Mapping[str, Any], options: Mapping[str, str]) -> str:
        """The option without which the strategy can be made, if one alone is to blame, or all that was given."""
        for key, text in options.items():
            with suppress(TypeError, ValueError, HarnessError):
                self.cls(**{k: v for k, v in values.items() if k != key})
                return f"option {key}={text!r} of {self.name}"
        given = ", ".join(f"{key}={text}" for key, text in options.items())
        return f"strategy {self.name}" + (f" ({given})" if given else "")


@dataclass(frozen=True)
class Composed:
    """`A+B` is A's plot seen through B's lens; a lens alone trains on the proportional mixture until the end."""

    parts: tuple[Plugin, ...]

    @property
    def name(self) -> str:
        return "+".join(part.name for part in self.parts)

    @property
    def source_sha256(self) -> str:
        if len(self.parts) == 1:
            return self.parts[0].source_sha256
        return digest([part.source_sha256 for part in self.parts])

    def apart(self, options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Options that hold values, and those that name a run whose mixture is to be taken."""
        taken = {k: t for k, t in options.items() if k.rpartition(".")[2] in self.parts[self._owner(k)].reusing}
        return {k: t for k, t in options.items() if k not in taken}, taken

    def build(self, options: Mapping[str, str]) -> Built:
        """All parts with their options: `key=value`, or `part.key=value` where two parts have the key."""
        given: list[dict[str, str]] = [{} for _ in self.parts]
        for key, text in options.items():
            given[self._owner(key)][key.rpartition(".")[2]] = text
        return Built(self.name, tuple(p.build(o) for p, o in zip(self.parts, given, strict=True)))

    def _owner(self, key: str) -> int:
        prefix, _, field = key.rpartition(".")
        if len(self.parts) == 1:
            return 0
        named = [i for i, p in enumerate(self.parts) if p.name == prefix or (not prefix and field in p.fields)]
        if not named:
            raise unknown(f"option of {self.name}", key, {f for p in self.parts for f in p.fields})
        if len(named) > 1:
            first = self.parts[named[0]].name
            raise HarnessError(f"option {key!r} belongs to several parts of {self.name}; write {first}.{key}=...")
        return named[0]


@dataclass(frozen=True)
class Built:
    """A strategy ready to run: the plot first, then its lenses from the outside in."""

    name: str
    parts: tuple[Any, ...]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All fields; with their part's name in front where there are several parts."""
        if len(self.parts) == 1:
            return dataclasses.asdict(self.parts[0])
        names = self.name.split("+")
        return {
            f"{name}.{key}": value
            for name, part in zip(names, self.parts, strict=True)
            for key, value in dataclasses.asdict(part).items()
        }

    def without(self, key: str) -> Built | None:
        """The same with the default of this hyperparameter, `key` or `part.key`; None where that cannot be made."""
        prefix, _, name = key.rpartition(".")
        for i, (part, called) in enumerate(zip(self.parts, self.name.split("+"), strict=True)):
            default = next((f.default for f in dataclasses.fields(part) if f.name == name), dataclasses.MISSING)
            if prefix in ("", called) and default is not dataclasses.MISSING:
                try:
                    other = dataclasses.replace(part, **{name: default})
                except (TypeError, ValueError, HarnessError):
                    return None
                return Built(self.name, (*self.parts[:i], other, *self.parts[i + 1 :]))
        return None

    def skip(self, suite: Any) -> str | None:
        """The first part's reason why this suite cannot host it, if any."""
        reasons = (part.skip(suite) for part in self.parts if hasattr(part, "skip"))
        return next((reason for reason in reasons if reason), None)

    def run(self, lab: Lab) -> None:
        plot, *lenses = self.parts
        for lens in reversed(lenses):
            lab = lens.wrap(lab)
        if hasattr(plot, "run"):
            plot.run(lab)
        else:
            lab = plot.wrap(lab)
            lab.train(lab.proportional())


def _said(hint: Any) -> str:
    """A field's type in words: `float or null`, `pmi or jsd`, `bool`."""
    if hint is None or hint is type(None):
        return "null"
    if get_origin(hint) is Literal:
        return " or ".join(str(value) for value in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_said, get_args(hint)))
    return str(hint) if get_args(hint) else getattr(hint, "__name__", str(hint))


def builtin() -> dict[str, Path]:
    return {p.stem: p for p in sorted(asset("strategies").glob("*.py")) if not p.stem.startswith("_")}


def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {e.name: e for e in importlib.metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    return sorted({*builtin(), *entry_points()})


def resolve(name: str) -> Composed:
    """`NAME` or `NAME+NAME`: a plot and the lenses that it is seen through. Raises HarnessError for what cannot be."""
    parts = tuple(find(part) for part in name.split("+"))
    for lens in parts[1:]:
        if not hasattr(lens.cls, "wrap"):
            lenses = ", ".join(n for n in builtin() if hasattr(find(n).cls, "wrap")) or "none yet"
            raise HarnessError(f"strategy {lens.name!r} is not a lens and cannot follow a '+'; lenses: {lenses}")
    return Composed(parts)


def find(name: str) -> Plugin:
    """A strategy by name or by path of a .py file. Raises HarnessError with the nearest name."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise HarnessError(f"strategy file {name!r} does not exist")
        return _from_file(Path(name))
    if name in builtin():
        return _from_file(builtin()[name])
    if name in entry_points():
        return _from_entry_point(entry_points()[name])
    if Path(f"{name}.py").is_file():
        raise HarnessError(f"unknown strategy {name!r}; did you mean the file {f'{name}.py'!r}?")
    raise unknown("strategy", name, names())


def _from_file(path: Path) -> Plugin:
    _package()
    qualified = f"strategies.{path.stem}"
    spec = importlib.util.spec_from_file_location(qualified, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise HarnessError(f"strategy file {path.name}: {type(error).__name__}: {error}") from None
    return Plugin(path.stem, _only_class(module, path.name), _source_digest(path.read_bytes()))


def _from_entry_point(entry: importlib.metadata.EntryPoint) -> Plugin:
    try:
        cls = entry.load()
        source = inspect.getsource(sys.modules[cls.__module__]).encode()
    except Exception as error:  # somebody else's package may fail in any way
        raise HarnessError(f"strategy plug-in {entry.name!r}: {type(error).__name__}: {error}") from None
    _frozen(cls, f"strategy plug-in {entry.name!r}")
    return Plugin(entry.name, cls, _source_digest(source))


def _package() -> None:
    """Make `strategies` importable wherever its folder lies, so that a strategy can import strategies._numerics."""
    if "strategies" not in sys.modules:
        package = ModuleType("strategies")
        package.__path__ = [str(asset("strategies"))]
        sys.modules["strategies"] = package


def _only_class(module: ModuleType, where: str) -> type[Any]:
    own = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and c.__module__ == module.__name__ and (hasattr(c, "run") or hasattr(c, "wrap"))
    ]
    if len(own) != 1:
        raise HarnessError(f"strategy file {where}: expected one class with run(lab), found {len(own)}")
    (cls,) = own
    _frozen(cls, f"strategy file {where}")
    return cls


def _frozen(cls: Any, where: str) -> None:
    params = getattr(cls, "__dataclass_params__", None)
    if params is None or not params.frozen:
        raise HarnessError(f"{where}: {getattr(cls, '__name__', cls)} is not a frozen dataclass")


def _source_digest(source: bytes) -> str:
    numerics = asset("strategies") / "_numerics.py"
    return source_digest(source, numerics.read_bytes() if numerics.exists() else b"")


def source_digest(source: bytes, numerics: bytes) -> str:
    """sha256 of a strategy's file, with the shared numerics where it uses them."""
    return hashlib.sha256(source + (numerics if b"_numerics" in source else b"")).hexdigest()
