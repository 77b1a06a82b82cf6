"""Commands that compute: run, plan, matrix, check, score."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from harness import REFERENCE
from harness.cli_options import DIRECTORY, FILE, SCORER, option, pairs, run_options


@click.command()
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
    from harness.rehearsal import before
    from harness.request import Request, prepare
    from harness.run import execute
    from harness.rundir import finished

    with ranks.main_first():
        plan = prepare(Request(options=pairs(options), **values))
    done = finished(plan)
    if done is None:
        before(plan)
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


@click.command()
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
        found = estimate(Request(options=pairs(options), **values), mfu, say)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        plan_view.tables(found)


@click.command()
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
@option("--results", default=Path("results"), show_default=True, type=DIRECTORY, help="its records are done, too")
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
@option(
    "--against",
    default=REFERENCE,
    show_default=True,
    metavar="ENTRY[@BUDGET]",
    help="the row that differences are to",
)
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


@click.command()
@click.argument("strategy", metavar="NAME[+NAME]|FILE.py")
@option("--suite", default=None, metavar="NAME|FILE", help="one with files of its own; default: a toy")
def check(strategy: str, suite: str | None) -> None:
    """Whether a strategy keeps the rules of the lab, by trial runs: one line a check, in about half a minute."""
    from harness.check import check as verdicts

    found = verdicts(strategy, suite)
    for verdict in found:
        click.echo(str(verdict))
    sys.exit(any(verdict.state != "kept" for verdict in found))


@click.command()
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
