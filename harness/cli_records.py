"""Commands on records and results: show, list, verify, submit, export, site; and new."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from harness.cli_options import DIRECTORY, option
from harness.errors import HarnessError


@click.command()
@click.argument("what", metavar="RUN_DIR|RECORD", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print the record as JSON and nothing else")
@option("--runs", default=Path("runs"), type=DIRECTORY)
def show(what: Path, as_json: bool, runs: Path) -> None:
    """Scores before and after, and the ledger, of one run."""
    from harness import record
    from harness import show as view

    if not what.exists() and (runs / what).exists():
        what = runs / what
    found = record.read(what)
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=1, sort_keys=True))
    else:
        view.tables(found)


@click.command("list")
@click.argument("what", type=click.Choice(["strategies", "models", "suites", "runs"]))
@click.option("--json", "as_json", is_flag=True)
@option("--runs", default=Path("runs"), type=DIRECTORY)
def list_(what: str, as_json: bool, runs: Path) -> None:
    """What there is: strategies, models, suites or runs."""
    from harness import show as view

    rows = view.listing(what, runs)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        view.print_rows(view.narrow(rows))


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--regrade", is_flag=True, help="grade every response again, where the suite's data are to be had")
@option("--mirror", default=None, type=DIRECTORY, help="look in DIR/datasets before the hub")
def verify(paths: tuple[Path, ...], regrade: bool, mirror: Path | None) -> None:
    """Whether records are what a run writes: files, run folders or results folders; one line a finding."""
    from harness.verify import verify as verdict

    found = verdict(paths, regrade, mirror)
    for finding in found.findings:
        click.echo(str(finding))
    for line in (*found.notes, *found.unreadable):
        click.echo(f"harness: {' '.join(line.split())}", err=True)
    n, problems = len(found.bundles) + len(found.references), len(found.findings)
    said = f"{n} record{'s' * (n != 1)} read, {problems or 'no'} finding{'s' * (problems != 1)}"
    lost = f", {len(found.unreadable)} could not be read" if found.unreadable else ""
    click.echo(f"harness: {said}{lost}", err=True)
    sys.exit(found.exit_code)


@click.command()
@click.argument("runs", metavar="RUN_DIR...", nargs=-1, type=click.Path(path_type=Path))
@option("--results", default=Path("results"), show_default=True, type=DIRECTORY)
@click.option("--refutes", default=None, metavar="ID", help="this run repeats that record, and came out differently")
@click.option(
    "--lm-eval", default=None, metavar="FILE.json", type=click.Path(path_type=Path), help="scores of elsewhere"
)
@click.option("--suite", default=None, metavar="NAME", help="with --lm-eval: the suite whose tasks were scored")
@click.option("--name", default=None, metavar="NAME", help="with --lm-eval: what was scored")
@click.option("--source", default=None, metavar="URL", help="with --lm-eval: where it is described")
def submit(runs: tuple[Path, ...], results: Path, refutes: str | None, **elsewhere: Any) -> None:
    """Verify runs and copy their records and items into the results folder; prints where they are.

    With --lm-eval it takes scores alone, from lm-eval's results file: a reference, shown and never ranked.
    """
    from harness import submit as door

    if any(value is not None for value in elsewhere.values()):
        if runs or refutes or None in elsewhere.values():
            raise HarnessError(
                "--lm-eval FILE goes with --suite, --name and --source, and without RUN_DIR or --refutes"
            )
        _bring(results, **elsewhere)
        return
    if not runs:
        raise HarnessError("nothing to submit: expected RUN_DIR... or --lm-eval FILE.json")
    refused = False
    for run in door.runs(list(runs)):
        try:
            done = door.submit(run, results, refutes)
        except door.Refused as error:
            refused = True
            for finding in error.findings:
                click.echo(str(finding), err=True)
            continue
        if not done.new:
            click.echo(f"harness: run {run.parent.name} is already submitted", err=True)
        if done.doubts:
            click.echo(f"harness: run {run.parent.name} is unofficial ({'; '.join(done.doubts)}): marked so", err=True)
        click.echo(str(done.path))
    sys.exit(int(refused))


def _bring(results: Path, lm_eval: Path, suite: str, name: str, source: str) -> None:
    """Import a results file of lm-eval and say what of it, and of the suite, is not in the reference."""
    from harness.reference import bring

    done = bring(lm_eval, suite, name, source, results)
    for words, tasks in (("not of the suite, left out", done.left), ("without a score", done.missing)):
        if tasks:
            click.echo(f"harness: {words}: {', '.join(tasks)[:200]}", err=True)
    click.echo(str(done.path))


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@option("--out", default=Path("export"), show_default=True, type=DIRECTORY)
@option("--organization", required=True, metavar="NAME", help="who ran it")
@option("--relation", default="other", show_default=True, metavar="first_party|third_party|collaborative|other")
def export(paths: tuple[Path, ...], out: Path, organization: str, relation: str) -> None:
    """Write records in the schema of Every Eval Ever, a file a run; prints where."""
    from harness.exchange import export as write

    for made in write(paths, out, organization, relation):
        click.echo(str(made))


@click.command()
@option("--results", default=Path("results"), show_default=True, type=DIRECTORY)
@option("--runs", default=Path("runs"), show_default=True, type=DIRECTORY)
@option("--out", default=Path("dist"), show_default=True, type=DIRECTORY)
def site(results: Path, runs: Path, out: Path) -> None:
    """Render the leaderboard from records into plain files."""
    # Pages are shared out among processes; threads of numpy's in each would wait for each other (a third of all CPU time).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from harness.publish import build

    click.echo(str(build([results, runs], out)))


@click.command()
@click.argument("name", required=False)
@option("--suite", default=None, metavar="NAME", help="a suite instead of a strategy")
def new(name: str | None, suite: str | None) -> None:
    """Make a strategy with its test, or a suite of one's own, in this folder."""
    from harness.scaffold import new_strategy, new_suite

    if (name is None) == (suite is None):
        raise HarnessError("new: give a strategy's NAME, or --suite NAME")
    made = new_suite(suite, Path()) if suite else new_strategy(str(name), Path())
    for path in made:
        click.echo(str(path))
    how = f"--suite {made[0]}" if suite else f"--strategy {made[0]}"
    click.echo(f"harness: edit them, then: harness run {how}", err=True)
