"""What a strategy refuses in its first lines is found before anything is trained, and its option is named."""

import pytest

from harness import record
from harness.errors import HarnessError
from harness.plan import estimate
from harness.process import Job, work
from harness.rehearsal import before, opening
from harness.request import Request, prepare

MINE = '''"""Mine."""
from dataclasses import dataclass
from harness.api import Lab

@dataclass(frozen=True)
class Mine:
    k: int = 2
    tau: float = 1.0
    late: bool = False

    def __post_init__(self) -> None:
        if self.k > 99:
            raise ValueError("k is below 100")

    def run(self, lab: Lab) -> None:
        if not self.late:
            self.check()
        lab.train(lab.temperature(tau=self.tau), "1 step")
        self.check()

    def check(self) -> None:
        1 / self.k
        if self.k < 1:
            raise ValueError("k is at least 1")
        if self.tau < 1 and self.k < 2 or self.tau > 9:
            raise ValueError("tau is too small or too large")
'''


@pytest.fixture
def asked(toy, tiny, tmp_path):
    def request(strategy=None, **options):
        (tmp_path / "mine.py").write_text(MINE)
        options = {k.replace("__", "."): v for k, v in options.items()}
        strategy = strategy or str(tmp_path / "mine.py")
        return Request(strategy, str(tiny), str(toy), options=options, runs=tmp_path / "runs")

    return request


@pytest.mark.filterwarnings("error::RuntimeWarning")  # one line on stderr: none of numpy's beside it
@pytest.mark.parametrize(
    ("strategy", "options", "said"),
    [
        (None, {"k": "-1"}, "option k='-1' of mine: k is at least 1"),
        (None, {"tau": "2", "k": "-1"}, "option k='-1' of mine: k is at least 1"),
        (None, {"tau": "0.5", "k": "1"}, "option tau='0.5' of mine: tau is too small or too large"),
        (None, {"tau": "10", "k": "-1"}, "strategy mine (tau=10, k=-1): k is at least 1"),  # neither alone
        (None, {"tau": "-.inf"}, "option tau='-.inf' of mine: expected a finite number"),
        (None, {"tau": "2", "k": "100"}, "option k='100' of mine: k is below 100"),
        ("taskpgm", {"utility": "1", "faithful": "true"}, "option utility='1' of taskpgm: utility needs"),
        ("taskpgm", {"r": "-1"}, "option r='-1' of taskpgm: r is at least 0, m at least 1"),
        ("taskpgm", {"m": "0"}, "option m='0' of taskpgm: r is at least 0"),
        ("taskpgm", {"proxies": "1.5"}, "option proxies='1.5' of taskpgm: proxies and looks are shares"),
        (
            "taskpgm",
            {"B": "0"},
            "option B='0' of taskpgm: proxies and looks are shares above 0 and below 1, B is above 0",
        ),
        ("regmix", {"proxies": "1.0"}, "option proxies='1.0' of regmix: proxies and looks are shares"),
        ("skill_it", {"T": "0"}, "option T='0' of skill_it: proxies and looks"),
        ("doremi", {"reference": "0.9"}, "option reference='0.9' of doremi: reference and proxy are shares"),
        ("regmix", {"weakest": "0"}, "option weakest='0' of regmix: "),  # numpy: OverflowError, after a warning
        ("random_mix", {"B": "1e30", "union": "true"}, "option B='1e30' of random_mix: "),
        ("doge", {"mu": "0"}, "option mu='0' of doge: proxy is a share"),
        ("aioli", {"delta": "1"}, "option delta='1' of aioli: looks and delta are shares"),
        ("taskpgm", {"r": "1", "faithful": "true"}, "option r='1' of taskpgm: r is not for faithful"),
        ("msft", {"C": "0"}, "option C='0' of msft: length '0.0 epoch': expected a positive"),
        ("msft+cadft", {"msft__C": "-1"}, "option msft.C='-1' of msft+cadft: length '-1.0 epoch'"),
    ],
)
def test_a_value_that_is_refused_is_named_by_run_and_plan_alike(asked, tmp_path, strategy, options, said):
    for command in (lambda r: before(prepare(r)), estimate):
        with pytest.raises(HarnessError) as caught:
            command(asked(strategy, **options))
        assert str(caught.value).startswith(said)
        assert caught.value.exit_code == 2
    assert not (tmp_path / "runs").exists()


def test_what_crashes_or_comes_later_is_left_to_the_run_which_names_what_it_was_given(asked, forks, tmp_path):
    opening(prepare(asked(k="0")))
    opening(prepare(asked(k="-1", late="true")))
    opening(prepare(asked()))
    assert not (tmp_path / "runs").exists()
    for options, said in (
        ({"k": "0"}, "strategy mine (k=0) failed: ZeroDivisionError: division by zero (line "),
        ({"k": "-1", "late": "true"}, "strategy mine (k=-1, late=true) failed: ValueError: k is at least 1"),
        ({"tau": "1e999"}, "option tau='1e999' of mine: expected a finite number"),
    ):
        r = asked(**options)
        request = {"strategy": r.strategy, "model": r.model, "suite": r.suite, "options": options, "runs": r.runs}
        done = forks.run(request)
        assert done["status"] == 1
        assert said in done["error"]
    errors = {record.read(p).reports.error: p for p in tmp_path.glob("runs/*/record.json")}
    assert len(errors) == 2
    assert all((path.parent / "error.txt").is_file() for path in errors.values())
    assert not any(str(tmp_path) in error for error in errors)


def test_no_callback_is_shown_what_is_made_up(toy, tiny, tmp_path):
    path = tmp_path / "nosy.py"
    path.write_text(NOSY)
    opening(prepare(Request(str(path), str(tiny), str(toy), runs=tmp_path / "runs")))


NOSY = '''"""Refuses all that it is shown."""
from dataclasses import dataclass
from harness.api import Lab

def refuse(seen):
    raise ValueError("shown")

@dataclass(frozen=True)
class Nosy:
    def run(self, lab: Lab) -> None:
        with lab.fork("proxy") as fork:
            fork.train(lab.uniform(), "2 step", example_weights=refuse, objective=refuse)
'''


def test_a_cell_of_a_matrix_refuses_it_too_and_leaves_no_run(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.process.os.setsid", lambda: None)
    monkeypatch.setattr("harness.process._redirect", lambda log: None)
    request, sent = asked(k="-1"), []
    pipe = type("Pipe", (), {"send": lambda self, message: sent.append(message)})()
    work(Job(request, prepare(request).id), pipe)
    assert sent == [("failed", "option k='-1' of mine: k is at least 1")]
    assert not (tmp_path / "runs").exists()


def test_a_run_that_goes_on_has_been_let_in(asked):
    plan = prepare(asked(k="-1"))
    plan.folder.mkdir(parents=True)
    (plan.folder / "journal.jsonl").touch()
    before(plan)
