"""What commands share: the form of an option, the options of a run, and a group that names the nearest command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from harness.errors import HarnessError, unknown

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
SCORER = click.Choice(["auto", "hf", "vllm"])


def option(*names: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A click option that can also be set by HARNESS_<OPTION>."""
    plain = next((n for n in names if not n.startswith("-")), None) or next(n for n in names if n.startswith("--"))
    variable = "HARNESS_" + plain.lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=False, **settings)


class Multiple(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A budget multiple: `1x`, `0.3x` or `0.3`."""

    name = "multiple"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(str(value).removesuffix("x"))
        except ValueError:
            self.fail(f"budget {value!r}: expected a positive multiple, such as 0.5x", param, ctx)


class Group(click.Group):
    """A group whose misspelt commands name the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `run` and `plan` share; each has an environment variable HARNESS_<OPTION>."""
    options = [
        option("--strategy", default="proportional", show_default=True, metavar="NAME[+NAME]|FILE.py"),
        option("--model", default="pocket", show_default=True, metavar="NAME|HUB_ID|DIR"),
        option("--suite", default=None, metavar="NAME|FILE", help="default: pocket, or bbh with another model"),
        option("--seed", default=0, show_default=True, type=click.IntRange(min=0)),
        option("--budget", default="1x", show_default=True, type=Multiple()),
        option("--lr", default=None, type=float, help="default: the suite's"),
        option("-o", "options", multiple=True, metavar="KEY=VALUE", help="a strategy's hyperparameter"),
        option("--mode", default="full", show_default=True, metavar="full|lora", help="what is trained"),
        option("--scorer", default="auto", show_default=True, type=SCORER),
        option("--vllm-python", default=None, type=FILE, help="the Python that has vLLM, where this one has not"),
        option("--mirror", default=None, type=DIRECTORY, help="look in DIR/models and DIR/datasets before the hub"),
        option("--limit", default=None, type=int, help="rows a task and split; makes the record unofficial"),
        option("--runs", default=Path("runs"), show_default=True, type=DIRECTORY),
        option("--force", is_flag=True, help="run again although a finished record exists"),
    ]
    for decorate in reversed(options):
        command = decorate(command)
    return command


def pairs(options: tuple[str, ...]) -> dict[str, str]:
    """`key=value` texts as a mapping. Raises HarnessError."""
    found = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise HarnessError(f"option {option!r}: expected key=value")
        found[key.strip()] = value
    return found
