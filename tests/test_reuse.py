"""`-o mixture=RUN_DIR`: the same training without the learning, under the source's id, at both prices."""

import json
import shutil
from pathlib import Path

import pytest

from harness import matrix, record, show
from harness.errors import HarnessError
from harness.plan import estimate
from harness.request import Request, prepare
from harness.reuse import EVENT
from tests.forks import comparable
from tests.test_cli import harness

LEARNED = ("taskpgm", "regmix", "doremi", "doge")
OPTIONS = {"regmix": {"runs": "4"}}


@pytest.fixture(scope="module")
def go(forks, toy, tiny):
    """Run with scoring replaced: the record's path and the record."""

    def run(runs, strategy, **request):
        done = forks.run({"strategy": strategy, "suite": toy, "model": tiny, "runs": runs, **request})
        assert done["status"] == 0, done
        return Path(done["record"]), record.read(Path(done["record"]))

    return run


@pytest.fixture(scope="module")
def sources(go, tmp_path_factory):
    """A run of each strategy that learns one mixture."""
    runs = tmp_path_factory.mktemp("sources") / "runs"
    return {name: go(runs, name, options=OPTIONS.get(name, {})) for name in LEARNED}


def asked(toy, tiny, runs, source, strategy="taskpgm", **more):
    options = OPTIONS.get(strategy.split("+")[0], {}) | {"mixture": str(source)} | more.pop("options", {})
    return Request(strategy=strategy, suite=str(toy), model=str(tiny), runs=Path(runs), options=options, **more)


def event(made):
    (found,) = (e for e in made.events if e.note == EVENT)
    return found


@pytest.mark.parametrize("name", LEARNED)
def test_the_same_training_without_the_learning_at_both_prices(name, go, sources, tmp_path):
    path, first = sources[name]
    learning = sum(row.model_flops for phase, row in first.ledger.items() if phase in ("proxy", "probe", "gradients"))
    assert 0.05 < learning / first.total_model_flops < 0.5
    one = first.identity.budget.flops
    same = (one - learning) / one  # what was left of the source's budget when it began to train
    options = OPTIONS.get(name, {}) | {"mixture": str(path.parent)}
    again, second = go(tmp_path / "runs", name, options=options, budget=same)
    assert second.reports.reused.model_dump() == {
        "id": first.id,
        "flops": learning,
        "seed": 0,
        "lr": 0.003,
        "budget": 1,
    }
    assert second.identity.hyperparameters["mixture"] == {"run": first.id, "weights": event(first).data["weights"]}
    assert second.identity.passed["mixture"] == first.id
    assert event(second).data["weights"] == event(first).data["weights"]
    assert event(second).data["l1"] == event(first).data["l1"]
    assert event(second).data["run"] == first.id
    assert event(second).billed_flops == 0
    assert {p for p, row in second.ledger.items() if row.model_flops} == {"train", "look"}
    # The clock runs over what is left, data come from named streams: the training is the source's, step by step.
    assert second.reports.weights_sha256 == first.reports.weights_sha256
    assert second.total_model_flops == first.ledger["train"].model_flops
    assert second.first_use_flops == first.total_model_flops
    assert [m.weights for m in second.mixture] == [m.weights for m in first.mixture]
    for text in (again.read_text(), (again.parent / "config.yaml").read_text()):
        assert str(tmp_path) not in text
        assert str(path.parent.parent) not in text


def test_no_path_is_in_the_identity_and_weights_and_source_are(toy, tiny, sources, go, tmp_path):
    path, first = sources["taskpgm"]
    moved = tmp_path / "elsewhere" / "x"
    shutil.copytree(path.parent, moved)
    results = tmp_path / "results" / "toy" / "tiny" / "taskpgm"
    results.mkdir(parents=True)
    shutil.copy(path, results / f"0-{first.id[:8]}.json")
    ways = [path.parent, path, moved, path.parent.parent, results / f"0-{first.id[:8]}.json", tmp_path / "results"]
    plans = [prepare(asked(toy, tiny, tmp_path, way)) for way in ways]
    plans.append(prepare(asked(toy, tiny, path.parent.parent, first.id)))  # the id of a run in --runs
    assert len({p.id for p in plans}) == 1
    assert all(p.identity == plans[0].identity for p in plans)
    assert plans[0].id != first.id

    raw = json.loads(path.read_text())
    weights = next(e for e in raw["events"] if e["note"] == EVENT)["data"]["weights"]
    weights["copy"], weights["flip"] = weights["flip"], weights["copy"]
    (moved / "record.json").write_text(json.dumps(raw))
    assert prepare(asked(toy, tiny, tmp_path, moved)).id != plans[0].id
    _, other = go(path.parent.parent, "taskpgm", seed=1)
    two = prepare(asked(toy, tiny, tmp_path, path.parent.parent / other.id))
    assert two.id != plans[0].id
    assert two.reused.seed == 1
    # A folder of runs: the one that this run would be without its mixture.
    assert prepare(asked(toy, tiny, tmp_path, path.parent.parent, seed=1)).reused.id == other.id


def test_a_composition_takes_its_plots_mixture_and_gives_it(toy, tiny, sources, go, tmp_path):
    path, first = sources["taskpgm"]
    _, lensed = go(tmp_path, "taskpgm+dft", options={"mixture": str(path)})
    assert lensed.reports.reused.id == first.id
    assert lensed.identity.hyperparameters["taskpgm.mixture"]["run"] == first.id
    assert lensed.ledger["proxy"].model_flops == 0
    source, learned = go(tmp_path, "taskpgm+dft")
    assert event(learned).data["weights"] == event(first).data["weights"]  # proxies are not seen through the lens
    plan = prepare(asked(toy, tiny, tmp_path, source))
    assert plan.identity.hyperparameters["mixture"]["run"] == learned.id


def test_a_killed_reuse_goes_on_to_the_same_record(forks, toy, tiny, sources, go, tmp_path):
    options = {"mixture": str(sources["taskpgm"][0])}
    calm, _ = go(tmp_path / "calm", "taskpgm", options=options)
    job = {"strategy": "taskpgm", "suite": toy, "model": tiny, "runs": tmp_path / "killed", "options": options}
    assert forks.run(job, HARNESS_FAULT="kill@step:7")["status"] == -9
    done = forks.run(job)
    assert done["status"] == 0, done
    assert comparable(done["record"]) == comparable(calm)
    assert "already" not in str(forks.run(job)["said"])


def edited(sources, tmp_path, change, name="taskpgm"):
    raw = json.loads(sources[name][0].read_text())
    change(raw)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(raw))
    return path


def weights_of(raw):
    return next(e for e in raw["events"] if e["note"] == EVENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(status="failed"), "it failed; a mixture is taken from a run that has ended well"),
        (lambda raw: raw.update(rules_version=0), "its rules are version 0, these are 1; learn the mixture again"),
        (lambda raw: raw["identity"].update(seed=5), "damaged: the id is not its identity's"),
        (lambda raw: raw.pop("events"), "events: Field required"),
        (lambda raw: raw["events"].remove(weights_of(raw)), "it has learned no mixture; expected one"),
        (lambda raw: raw["events"].append(weights_of(raw)), "2 mixtures one after another"),
        (lambda raw: weights_of(raw).update(billed_flops=0), "its mixture has cost nothing"),
        (lambda raw: weights_of(raw).update(data=3), "not a weight a task"),
        (lambda raw: weights_of(raw)["data"]["weights"].update(copy=-0.5), "not a weight a task"),
        (lambda raw: weights_of(raw)["data"]["weights"].update(copy=None), "not a weight a task"),
        (lambda raw: weights_of(raw)["data"]["weights"].update(copy=5.0), "the weights sum to"),
        (lambda raw: weights_of(raw)["data"]["weights"].update(swap=0.0), "its mixture has the task 'swap', unlike"),
        (lambda raw: weights_of(raw)["data"]["weights"].pop("copy"), "its mixture lacks the task 'copy', unlike"),
    ],
)
def test_a_record_that_gives_no_mixture_says_why(change, message, toy, tiny, sources, tmp_path):
    path = edited(sources, tmp_path, change)
    with pytest.raises(HarnessError, match=message) as error:
        prepare(asked(toy, tiny, tmp_path, path))
    assert error.value.exit_code == 2
    assert str(error.value).startswith(f"option mixture={str(path)!r} of taskpgm: ")


@pytest.mark.parametrize("strategy", ["taskpgm", "taskpgm+dft"])
def test_a_mixture_of_another_version_of_the_strategy_is_not_this_ones(strategy, toy, tiny, sources, tmp_path):
    """Else one row would hold seeds whose mixtures were learned by different code."""

    def older(raw):
        raw["identity"]["source_sha256"] = 64 * "0"
        identity = record.Identity.model_validate(raw["identity"])
        raw["id"] = record.run_id(
            identity, raw["environment"]["model_revision"], raw["reports"]["limit"], raw["rules_version"]
        )

    assert prepare(asked(toy, tiny, tmp_path, sources["taskpgm"][0], strategy)).reused
    with pytest.raises(HarnessError, match="the source of taskpgm was another then; learn the mixture again"):
        prepare(asked(toy, tiny, tmp_path, edited(sources, tmp_path, older), strategy))


def test_only_the_same_entry_on_the_same_workload_takes_it(toy, tiny, sources, go, tmp_path):
    from tests.conftest import make_model, make_suite

    path, first = sources["taskpgm"]

    def refused(message, source=path, suite=toy, model=tiny, **more):
        with pytest.raises(HarnessError, match=message):
            prepare(asked(suite, model, tmp_path, source, **more))

    refused("its strategy is 'taskpgm', expected 'regmix'", strategy="regmix")
    refused("it has r=null, this run r=2.0; give both the same options", options={"r": "2"})
    refused("another workload: its suite is 'toy', this run's 'pocket'", suite="pocket")
    refused("another workload: its mode is 'full', this run's 'lora'", mode="lora")
    refused("another workload: its limit is None, this run's 5", limit=5)
    refused("other settings", suite=make_suite(tmp_path / "a", lr=0.001))
    refused("its model is 'tiny', this run's 'large'", model=make_model(tmp_path / "large", "llama"))
    refused("another revision", model=make_model(tmp_path / "b" / "tiny", "llama"))
    changed = make_suite(tmp_path / "c")
    (changed.parent / "train.jsonl").write_text((changed.parent / "train.jsonl").read_text().replace("cat", "cow"))
    refused("other data", suite=changed)

    refused("no run or record at 'nowhere'", "nowhere")
    refused("no run or record at ''", "")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").touch()
    refused("'.*begun' has not finished", tmp_path / "begun")
    (tmp_path / "empty").mkdir()
    refused("holds no finished run", tmp_path / "empty")
    junk = tmp_path / "junk.json"
    junk.write_text("{")
    refused("record '.*junk.json'", junk)
    again, _ = go(tmp_path, "taskpgm", options={"mixture": str(path)})
    refused(f"it has learned nothing, it took the mixture of run {first.id}; take that run's", again)
    typed = first.id[:-1] + "z"
    # Nearer, but not offered: a run that failed, and a record that cannot be read; nor the one that took a mixture over.
    for text, state in ((first.id, "finished"), (typed[:-1] + "y", "failed"), (typed[:-1] + "x", "junk")):
        (tmp_path / text).mkdir()
        raw = json.loads(path.read_text()) | {"status": state}
        (tmp_path / text / "record.json").write_text("{" if state == "junk" else json.dumps(raw))
    refused(f"unknown run '{typed}'; did you mean '{first.id}'", typed)
    # Of runs that learned, only the strategy's own are offered.
    mixed = sources["doge"][1]
    shutil.copytree(sources["doge"][0].parent, tmp_path / mixed.id)
    refused(f"unknown run 'zz'; known: {first.id}$", "zz")
    refused(f"unknown run '{mixed.id[:-1]}z'; known: {first.id}$", f"{mixed.id[:-1]}z")
    with pytest.raises(HarnessError, match="one mixture at most"):
        prepare(asked(toy, tiny, tmp_path, path, options={"taskpgm.mixture": str(path)}))


@pytest.mark.parametrize("name", ["skill_it", "aioli", "random_mix", "proportional"])
def test_who_moves_or_learns_no_mixture_has_no_such_option(name, toy, tiny, sources, tmp_path):
    with pytest.raises(HarnessError, match=r"has no options|unknown option of"):
        prepare(asked(toy, tiny, tmp_path, sources["taskpgm"][0], name))


def test_a_hand_made_mixture_is_no_learned_one(toy, tiny, tmp_path):
    with pytest.raises(HarnessError, match="no run or record at"):
        prepare(asked(toy, tiny, tmp_path, '{"run": "x", "weights": {"copy": 1.0}}'))


def test_a_plan_predicts_no_proxies_and_says_both_prices(toy, tiny, sources, go, tmp_path, capsys):
    from harness.plan_view import tables

    path, first = sources["taskpgm"]
    _, second = go(tmp_path, "taskpgm", options={"mixture": str(path)})
    found = estimate(asked(toy, tiny, tmp_path, path))
    assert not found["adaptive"]
    assert found["ledger"]["proxy"]["model_flops"]["max"] == 0
    total = second.total_model_flops
    assert found["total_model_flops"] == {"min": total, "max": total}
    assert found["reused"] == second.reports.reused.model_dump()
    tables(found)
    assert f"mixture of run {first.id}" in (said := capsys.readouterr().out)
    assert f"{second.first_use_flops:.3e}" in said
    show.tables(second)
    said = capsys.readouterr().out
    assert f"mixture of {first.id}" in said
    assert f"{second.first_use_flops:.4g}" in said
    with pytest.raises(HarnessError, match="name the run"):
        estimate(asked(toy, tiny, tmp_path, path.parent.parent))


def test_a_matrix_pairs_seeds_with_the_runs_they_would_be(toy, tiny, sources, go, tmp_path, monkeypatch):
    path, first = sources["taskpgm"]
    runs = path.parent.parent
    _, other = go(runs, "taskpgm", seed=1)
    file = tmp_path / "study.yaml"
    file.write_text(
        f"strategies: [{{name: taskpgm, options: {{mixture: {runs.name}/}}}}]\n"
        f"suites: ['{toy}']\nmodels: ['{tiny}']\nseeds: 0-1\n"
    )
    shutil.copytree(runs, tmp_path / runs.name)  # beside the file
    monkeypatch.chdir("/")
    cells = matrix.build(file, {}, Request(runs=tmp_path / "more")).cells
    assert [c.plan.reused.id for c in cells] == [first.id, other.id]
    assert len({c.row for c in cells}) == 1
    assert {c.id for c in cells} == {prepare(c.request).id for c in cells}
    with pytest.raises(HarnessError, match=r"strategies\[0\]: option mixture=.*holds no finished run"):
        matrix.build(file, {"seeds": "2"}, Request(runs=tmp_path / "more"))


def test_the_command_line_says_one_line(toy, tiny, tmp_path):
    done = harness("run", "--strategy", "taskpgm", "--suite", toy, "--model", tiny, "-o", "mixture=gone", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "harness: option mixture='gone' of taskpgm: no run or record at 'gone'\n"
