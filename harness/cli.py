"""The command line: thin shells over public functions. `harness --help` imports neither torch nor transformers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import click

from harness import __version__
from harness.errors import HarnessError

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
            from harness.errors import unknown

            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Benchmark multi-task SFT strategies at equal compute."""


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


@cli.command()
@run_options
@option("--tracker", default=None, metavar="tensorboard|trackio|wandb", help="log each step there too")
def run(options: tuple[str, ...], tracker: str | None, **values: Any) -> None:
    """Fine-tune under a strategy, score the answer, and write runs/<id>/record.json."""
    from harness import progress, ranks, tracking

    progress.quiet()
    if tracker is not None:
        tracking.require(tracker)
    with ranks.together():
        done = _run(options, tracker, values)
    if ranks.main():
        from harness import record, show

        show.tables(record.read(done))
        click.echo(str(done))


def _run(options: tuple[str, ...], tracker: str | None, values: dict[str, Any]) -> Path:
    """The run on this rank; the path of its record."""
    from harness import progress, ranks, record
    from harness.request import Request, prepare
    from harness.run import execute, finished

    with ranks.main_first():
        plan = prepare(Request(options=_pairs(options), **values))
    done = finished(plan)
    if not ranks.main():
        return done or execute(plan)
    if done:
        click.echo(f"harness: run {plan.id} is already done (--force runs it again)", err=True)
        scorer, asked = record.read(done).reports.scorer, plan.request.scorer
        if asked not in ("auto", scorer):
            click.echo(f"harness: it was scored by {scorer}: harness score {plan.folder} --scorer {asked}", err=True)
    else:
        with progress.Live(f"{plan.identity.strategy} on {plan.identity.suite}") as live, ExitStack() as stack:
            done = execute(plan, _watchers(plan, live, tracker, stack), live.say)
    return done


def _watchers(plan: Any, live: Any, tracker: str | None, stack: ExitStack) -> Callable[[Any], None]:
    """What is told of each step: the live view, and the tracker if one was asked for."""
    if tracker is None:
        watch: Callable[[Any], None] = live.watch
        return watch
    from harness import tracking
    from harness.progress import memory

    config = plan.identity.model_dump(mode="json")
    log = stack.enter_context(tracking.Tracker(tracker, plan.folder / "tracking", plan.id, config, live.say)).log

    def both(state: Any) -> None:
        live.watch(state)
        log(state, memory())

    return both


@cli.command()
@run_options
@option("--mfu", default=0.4, show_default=True, type=float, help="share of the peak that a GPU reaches")
@click.option("--json", "as_json", is_flag=True, help="print the plan as JSON and nothing else")
def plan(options: tuple[str, ...], mfu: float, as_json: bool, **values: Any) -> None:
    """What a run will cost - tokens, FLOPs, looks, disk, GPU-hours - without loading weights."""
    from harness import plan_view, progress
    from harness.request import Request

    progress.quiet()
    from harness.plan import estimate

    with plan_view.waiting() as say:
        found = estimate(Request(options=_pairs(options), **values), mfu, say)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        plan_view.tables(found)


@cli.command()
@click.argument("file", metavar="[FILE.yaml]", required=False, type=click.Path(path_type=Path))
@option("--strategies", default=None, metavar="A,B+C", help="this and the next seven take the place of the file's keys")
@option("--suites", default=None, metavar="NAME,FILE")
@option("--models", default=None, metavar="NAME,DIR")
@option("--seeds", default=None, metavar="0-9")
@option("--budgets", default=None, metavar="0.5x,1x")
@option("--lr", default=None, metavar="X,Y|grid", help="grid: the suite's learning rates")
@option("--mode", default=None, metavar="full,lora")
@option("--limit", default=None, type=int, help="rows a task and split; makes the records unofficial")
@option("--mirror", default=None, type=DIRECTORY, help="look in DIR/models and DIR/datasets before the hub")
@option("--runs", default=Path("runs"), show_default=True, type=DIRECTORY)
@option("--executor", default="local", show_default=True, type=click.Choice(["local", "ray"]))
@option(
    "--jobs",
    default=None,
    type=click.IntRange(min=1),
    help="runs at a time; default: 1, with ray all there is room for",
)
@option("--ray-address", default=None, metavar="HOST:PORT", help="default: RAY_ADDRESS, a cluster here, or a new one")
@option(
    "--cpus", default=None, type=click.IntRange(min=1), help="with ray, CPUs of one run; default: HARNESS_THREADS or 1"
)
@option(
    "--gpus", default=None, type=click.FloatRange(min=0), help="with ray, GPUs of one run; default: 1 if there are any"
)
@option("--yes", is_flag=True, help="start without asking")
@option("--against", default="proportional", show_default=True, metavar="ENTRY", help="the row that differences are to")
@click.option("--table", "shape", flag_value="table", help="run nothing; print the study's table")
@click.option("--markdown", "shape", flag_value="markdown", help="the same in Markdown")
@click.option("--csv", "shape", flag_value="csv", help="the same as CSV, numbers unrounded")
@click.option("--json", "as_json", is_flag=True, help="print cells and rows as JSON and nothing else")
def matrix(file: Path | None, **values: Any) -> None:
    """Run what is missing of strategies x suites x models x seeds x budgets, each cell an ordinary run."""
    from harness import progress

    progress.quiet()
    from harness.campaign import Campaign

    Campaign(file, **values).go()


@cli.command()
@click.argument("strategy", metavar="NAME[+NAME]|FILE.py")
@option("--suite", default=None, metavar="NAME|FILE", help="one with files of its own; default: a toy")
def check(strategy: str, suite: str | None) -> None:
    """Whether a strategy keeps the rules of the lab, by trial runs: one line a check, in about half a minute."""
    from harness.check import check as verdicts

    found = verdicts(strategy, suite)
    for verdict in found:
        click.echo(str(verdict))
    sys.exit(any(verdict.state != "kept" for verdict in found))


def _pairs(options: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise HarnessError(f"option {option!r}: expected key=value")
        pairs[key.strip()] = value
    return pairs


@cli.command()
@click.argument(
    "folders", metavar="RUN_DIR|CHECKPOINT_DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@option("--suite", default=None, metavar="NAME|FILE", help="default: the run's")
@option("--scorer", default="auto", show_default=True, type=SCORER)
@option("--vllm-python", default=None, type=FILE, help="the Python that has vLLM, where this one has not")
@option("--mirror", default=None, type=DIRECTORY, help="look in DIR/models and DIR/datasets before the hub")
@option("--limit", default=None, type=int, help="rows a task and split")
@option("--runs", default=Path("runs"), show_default=True, type=DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="print all scores as JSON and nothing else")
def score(folders: tuple[Path, ...], suite: str | None, limit: int | None, as_json: bool, **values: Any) -> None:
    """Score checkpoints on a suite's test split, all by one engine; records are not touched."""
    from harness import progress

    progress.quiet()
    from harness import rescore
    from harness import show as view
    from harness.score import Service

    def say(line: str) -> None:
        click.echo(f"harness: {line}", err=True)

    found = rescore.targets(folders, suite, limit)
    with Service(values["scorer"], values["vllm_python"], say) as service:
        all_scores = []
        for summary in rescore.score_all(found, service, values["runs"], values["mirror"], say):
            all_scores.append(summary)
            if not as_json:
                view.scores(summary)
    if as_json:
        click.echo(json.dumps(all_scores, indent=1, sort_keys=True))
    else:
        for summary in all_scores:
            click.echo(summary["path"])


@cli.command()
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


@cli.command("list")
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


@cli.command()
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
    click.echo(f"harness: {n} record{'s' * (n != 1)} read, {problems or 'no'} finding{'s' * (problems != 1)}", err=True)
    sys.exit(found.exit_code)


@cli.command()
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


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@option("--out", default=Path("export"), show_default=True, type=DIRECTORY)
@option("--organization", required=True, metavar="NAME", help="who ran it")
@option("--relation", default="other", show_default=True, metavar="first_party|third_party|collaborative|other")
def export(paths: tuple[Path, ...], out: Path, organization: str, relation: str) -> None:
    """Write records in the schema of Every Eval Ever, a file a run; prints where."""
    from harness.exchange import export as write

    for made in write(paths, out, organization, relation):
        click.echo(str(made))


@cli.command()
@option("--results", default=Path("results"), show_default=True, type=DIRECTORY)
@option("--runs", default=Path("runs"), show_default=True, type=DIRECTORY)
@option("--out", default=Path("dist"), show_default=True, type=DIRECTORY)
def site(results: Path, runs: Path, out: Path) -> None:
    """Render the leaderboard from records into plain files."""
    from harness.publish import build

    click.echo(str(build([results, runs], out)))


@cli.command()
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


def main() -> NoReturn:
    """Entry point: one line on stderr and exit 2 for a wrong request, 1 for a failed run."""
    debug = os.environ.get("HARNESS_DEBUG") == "1"
    try:
        cli.main(standalone_mode=False)
    except HarnessError as error:
        if debug:
            raise
        _exit(str(error), error.exit_code)
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
