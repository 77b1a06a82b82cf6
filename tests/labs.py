"""A real lab over the toy suite, without the command line around it."""

from __future__ import annotations

from pathlib import Path

from harness.journal import Journal
from harness.lab import RunLab
from harness.ledger import Ledger
from harness.request import Request, prepare
from harness.session import Session
from harness.setup import build


def make_lab(tmp: Path, suite: Path, model: Path, **request):
    """(lab, core, engine, plan) ready for verbs; files go below tmp."""
    plan = prepare(Request(suite=str(suite), model=str(model), runs=tmp, **request))
    plan.folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(plan.identity.budget.flops, plan.folder / "ledger.jsonl")
    core, engine = build(plan, ledger)
    session = Session(core, Journal(plan.folder / "journal.jsonl"))
    lab = RunLab(core, session, plan.request.seed)
    return lab, core, engine, plan
