"""The command line: thin shells over public functions. `harness --help` imports neither torch nor transformers."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from harness import __version__, cli_records, cli_runs
from harness.cli_options import Group
from harness.errors import HarnessError


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Benchmark multi-task SFT strategies at equal compute."""


for command in (
    *(cli_runs.run, cli_runs.plan, cli_runs.matrix, cli_runs.check, cli_runs.score),
    *(cli_records.show, cli_records.list_, cli_records.verify, cli_records.submit),
    *(cli_records.export, cli_records.site, cli_records.new),
):
    cli.add_command(command)


def main() -> NoReturn:
    """Entry point: one line on stderr and exit 2 for a wrong request, 1 for a failed run."""
    debug = os.environ.get("HARNESS_DEBUG") == "1"
    try:
        cli.main(standalone_mode=False)
    except HarnessError as error:
        if debug:
            raise
        _exit(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _exit(error.format_message().replace("\n", " "), 2)
    except OSError as error:
        if debug:
            raise
        _exit(f"{error.strerror or error}: {error.filename or ''}", 2)
    except (KeyboardInterrupt, click.Abort):
        _exit("interrupted; run the same command to go on", 1)
    except Exception as error:
        if debug:
            raise
        _exit(f"{type(error).__name__}: {error} (a bug; HARNESS_DEBUG=1 shows where)", 1)
    sys.exit(0)


def _exit(message: str, code: int) -> NoReturn:
    from harness import ranks

    if ranks.speaks():
        click.echo(f"harness: {ranks.name()}{' '.join(message.split())}", err=True)
    sys.exit(code)
