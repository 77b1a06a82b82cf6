"""What the lab asks of a model beside training, against the plain model: values, bills, the cap, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness import journal as journals
from harness.api import BudgetExhausted, Example, HarnessError
from harness.ledger import BILLED
from tests.conftest import make_model, make_suite
from tests.labs import make_lab


@pytest.fixture
def lab_(toy, tiny, tmp_path):
    def make(n=0, **request):
        return make_lab(tmp_path / str(n), toy, tiny, **request)

    return make


@torch.no_grad()
def alone(lm, item):
    """Log-probabilities (S, V) and gold ids (S,) of one document by itself."""
    ids = torch.tensor([item.ids])
    logits = lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
    return logits.log_softmax(-1), ids[0, -item.supervised :]


def gold(lm, items):
    return [logp.gather(1, ids[:, None])[:, 0].numpy() for logp, ids in (alone(lm, item) for item in items)]


def close(found, expected):
    assert len(found) == len(expected)
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected, strict=True))


def forward(plan, items):
    return sum(plan.arch.forward(i.tokens, i.supervised) for i in items)


def gradient_of(engine, item, wanted):
    """Gradient of one document's mean token NLL by the parameters whose name passes, flat."""
    ids = torch.tensor([item.ids])
    logits = engine.lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :]
    named = [p for n, p in engine.lm.named_parameters() if p.requires_grad and wanted(n, p)]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, -item.supervised :])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, named)]).numpy()


def matrices(n, p):
    return ".layers." in n and p.ndim > 1


# --- log-probabilities


def test_logprobs_here_and_at_a_checkpoint_are_the_plain_models_and_paid_once(lab_):
    lab, core, engine, plan = lab_()
    base = lab.checkpoint()
    asked = lab.sample("copy", 3) + lab.sample("next", 2) + lab.sample("flip", 2, "validation")
    items = core.data.items(asked)
    at_base = gold(engine.lm, items)
    lab.train(lab.proportional(), "4 step", keep="none")
    spent = core.ledger.spent
    assert close(lab.logprobs(asked, at=base), at_base)
    assert core.ledger.spent - spent == forward(plan, items)
    assert close(lab.logprobs(asked), gold(engine.lm, items))
    assert not close(lab.logprobs(asked), at_base)
    assert core.ledger.spent - spent == 2 * forward(plan, items)
    assert close(lab.logprobs(asked[::-1], at=base), at_base[::-1])
    assert core.ledger.spent - spent == 2 * forward(plan, items)
    assert {e.phase for e in core.ledger.entries if e.verb > 4 and e.phase in BILLED} == {"probe"}


def test_logprobs_named_twice_are_billed_once_and_nothing_is_free(lab_):
    lab, core, _, plan = lab_()
    (example,) = lab.sample("copy", 1)
    one, two = lab.logprobs([example, example])
    assert np.array_equal(one, two)
    assert core.ledger.spent == forward(plan, core.data.items([example]))
    one[:] = 7  # what was given away is a copy
    assert lab.logprobs([example])[0].max() < 0
    assert lab.logprobs([]) == []


def test_paid_logprobs_outlive_a_fork_that_trains(lab_):
    lab, core, _, _ = lab_()
    lab.train(lab.proportional(), "2 step", keep="none")
    asked = lab.sample("copy", 4)
    lab.logprobs(asked)
    with lab.fork("probe", start="now") as child:
        child.train(child.uniform(), "1 step")
        child.train(child.uniform(), "1 step")
    spent = core.ledger.spent
    lab.logprobs(asked)
    assert core.ledger.spent == spent


def test_logprobs_that_do_not_fit_cost_nothing_and_the_end_is_journalled(lab_):
    lab, core, _, plan = lab_(budget=0.03)
    asked = [e for t, n in lab.tasks.items() for e in lab.sample(t, n.n_train)]
    with pytest.raises(BudgetExhausted):
        lab.logprobs(asked)
    assert core.ledger.spent == 0
    line = journals.read(plan.folder / "journal.jsonl")[-1]
    assert (line["verb"], line["exhausted"]) == ("logprobs", 0)


# --- distributions


def test_distributions_here_elsewhere_and_on_anothers_support(lab_):
    lab, core, engine, plan = lab_()
    base = lab.checkpoint()
    asked = lab.sample("flip", 3)
    items = core.data.items(asked)
    before = [alone(engine.lm, i)[0] for i in items]
    lab.train(lab.proportional(), "4 step", keep="none")
    after = [alone(engine.lm, i)[0] for i in items]
    spent = core.ledger.spent
    here = lab.distributions(asked, top_k=5)
    there = lab.distributions(asked, support=here, at=base)
    for d, e, new, old in zip(here, there, after, before, strict=True):
        assert d.logp == pytest.approx(new.topk(5).values.numpy(), rel=1e-4)
        assert np.array_equal(d.ids, e.ids)
        assert e.logp == pytest.approx(old.gather(1, torch.from_numpy(d.ids)).numpy(), rel=1e-4)
        assert e.tail == pytest.approx(1 - np.exp(e.logp).sum(-1), abs=1e-5)
    assert core.ledger.spent - spent == 2 * forward(plan, items)  # never cached


# --- gradients


def test_gradients_are_autograds_billed_once_at_the_first_use(lab_):
    lab, core, engine, _ = lab_()
    asked = lab.sample("copy", 2) + lab.sample("flip", 3)
    rows = np.stack([gradient_of(engine, i, matrices) for i in core.data.items(asked)])
    handle, other = lab.gradients(asked), lab.gradients(asked[:2])
    assert core.ledger.spent == 0
    assert np.allclose(handle.gram(), rows @ rows.T, rtol=1e-3, atol=1e-6)
    price = core.ledger.spent
    P = rows.shape[1]
    assert price == handle._handle._made().cost().model + 5 * 6 * P
    assert np.allclose(handle.rows(), rows, rtol=1e-3, atol=1e-6)
    means = handle.mean()
    assert list(means) == ["copy", "flip"]
    assert np.allclose(means["flip"], rows[2:].mean(0), rtol=1e-3, atol=1e-6)
    expected = np.stack([rows[:2].mean(0), rows[2:].mean(0)])
    assert np.allclose(handle.gram(by="task"), expected @ expected.T, rtol=1e-3, atol=1e-6)
    price += 2 * 3 * P  # of the two tasks' means
    assert core.ledger.spent == price
    assert np.allclose(handle.gram(other), rows @ rows[:2].T, rtol=1e-3, atol=1e-6)
    price += other._handle._made().cost().model + 2 * 5 * 2 * P
    assert core.ledger.spent == price
    assert np.array_equal(handle.rows(project=16), handle.rows(project=16))
    projection = 2 * P * 16 * 5
    assert handle.mean(project=16)["copy"] == pytest.approx(handle.rows(project=16)[:2].mean(0), rel=1e-5)
    assert core.ledger.spent == price + projection
    handle.gram()  # products are billed every time
    assert core.ledger.spent == price + projection + 5 * 6 * P
    assert {e.phase for e in core.ledger.entries} == {"gradients"}


def test_what_gradients_compute_is_what_they_book_whatever_the_order(lab_):
    lab, core, _, _ = lab_()
    handle = lab.gradients(lab.sample("copy", 3))
    for use in (lambda: handle.rows(project=4), handle.gram, lambda: handle.rows(project=4), handle.mean):
        use()
    assert sum(e.hardware for e in core.ledger.entries) == handle._handle._made().hardware


def test_gradients_are_used_before_the_weights_move_or_at_a_checkpoint(lab_):
    lab, core, engine, _ = lab_()
    asked = lab.sample("copy", 3)
    rows = np.stack([gradient_of(engine, i, matrices) for i in core.data.items(asked)])
    early, base = lab.gradients(asked), lab.checkpoint()
    lab.train(lab.proportional(), "2 step", keep="none")
    stale = lab.gradients(asked)
    there = lab.gradients(asked, at=base)
    lab.train(lab.proportional(), "2 step", keep="none")
    with pytest.raises(HarnessError, match="before the weights move on"):
        stale.gram()
    assert np.allclose(there.rows(), rows, rtol=1e-3, atol=1e-6)
    assert np.allclose(early.rows(), rows, rtol=1e-3, atol=1e-6)  # the base can always be looked through
    unit = lab.gradients(asked, normalize=True, at=base).rows()
    assert np.allclose(unit, rows / np.linalg.norm(rows, axis=1, keepdims=True), rtol=1e-3, atol=1e-5)


def test_a_fork_that_has_ended_answers_nothing_more(lab_):
    lab, _, _, _ = lab_()
    with lab.fork("probe") as child:
        held = child.gradients(child.sample("copy", 2))
    for use in (held.gram, child.validate, child.checkpoint):
        with pytest.raises(HarnessError, match="this fork has ended"):
            use()


def test_gradients_of_two_labs_are_not_compared(lab_):
    lab, _, _, _ = lab_()
    asked = lab.sample("copy", 3)
    mine = lab.gradients(asked)
    with lab.fork("probe") as child, pytest.raises(HarnessError, match="of the same lab"):
        child.gradients(asked).gram(mine)
    with pytest.raises(HarnessError, match="at least one example"):
        lab.gradients([])


# --- generate and grade


@torch.no_grad()
def greedy(lm, prompt, limit, eos):
    ids = list(prompt)
    while len(ids) - len(prompt) < limit:
        ids.append(int(lm(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    return ids[len(prompt) :]


def test_greedy_generation_is_an_argmax_loop(lab_):
    lab, core, engine, plan = lab_(budget=8)
    lab.train(lab.proportional(), "60 step", keep="none")  # enough for responses that end, and differ
    asked = [e for t in lab.tasks for e in lab.sample(t, 4)]
    eos, ends = engine.tokenizer.eos_token_id, []
    for limit in (1, 6):
        spent, model = core.ledger.spent, 0
        found = lab.generate(asked, max_new_tokens=limit)
        for example, (text, finished), item in zip(asked, found, core.data.items(asked), strict=True):
            prompt = item.ids[: -item.supervised]
            ids = greedy(engine.lm, prompt, limit, eos)
            assert text == engine.tokenizer.decode(ids, skip_special_tokens=True), example.id
            assert finished == (ids[-1] == eos)
            model += plan.arch.generate(len(prompt), len(ids))
            ends.append(finished)
        assert core.ledger.spent - spent == model
    assert set(ends) == {True, False}


def test_several_samples_come_example_by_example_and_differ_by_verb(lab_):
    lab, _, _, _ = lab_()
    asked = lab.sample("copy", 3)
    ask = {"max_new_tokens": 4, "temperature": 1.0}
    found = lab.generate(asked, n=2, **ask)
    assert len(found) == 6
    assert lab.generate(asked, n=2, **ask) != found  # another verb: other numbers
    again, _, _, _ = lab_(1)
    assert again.sample("copy", 3) == asked
    assert again.generate(asked, n=2, **ask) == found
    narrow = lab.generate(asked, max_new_tokens=4, temperature=1.0, top_p=1e-9)
    assert narrow == lab.generate(asked, max_new_tokens=4)


def test_a_stop_string_ends_a_response_and_is_not_in_it(tiny, tmp_path):
    path = make_suite(tmp_path / "suite")
    free, _, engine, _ = make_lab(tmp_path / "free", path, tiny)
    asked = free.sample("copy", 4)
    texts = [g.text for g in free.generate(asked, max_new_tokens=6)]
    stop = engine.tokenizer.decode(engine.tokenizer(texts[0])["input_ids"][2:3])
    path.write_text(path.read_text().replace("max_new_tokens: 6", f"max_new_tokens: 6\n  until: [{json.dumps(stop)}]"))
    lab, _, _, plan = make_lab(tmp_path / "stopped", path, tiny)
    assert plan.suite.scoring.until == (stop,) or list(plan.suite.scoring.until) == [stop]
    for text, (cut, finished) in zip(texts, lab.generate(asked, max_new_tokens=6), strict=True):
        assert cut == text.split(stop)[0]
        assert finished or stop not in text


def test_the_budget_may_end_in_the_middle_of_a_generation(lab_):
    lab, core, _, _ = lab_(budget=0.05)
    asked = lab.sample("copy", 8)
    with pytest.raises(BudgetExhausted):
        lab.generate(asked, max_new_tokens=100)
    (entry,) = [e for e in core.ledger.entries if e.phase == "generate"]
    assert 0 < entry.model <= core.ledger.cap
    assert 0 < core.ledger.remaining < entry.model
    with pytest.raises(BudgetExhausted):
        lab.logprobs(asked[:1])


SPELLINGS = ["{}", " {}", "{} ", "\t{}\n", "{}.", "{} {}", "0{}", "{}\n\nQ:", "", " ", "the answer is {}", "({})"]


QUESTION = "Question {}? Options: (A) yes (B) no\nList: bee cat ant"  # what the stock filters look for


def odd(target):
    return [s.format(*[target] * s.count("{}")) for s in SPELLINGS] + [target.lower(), target.upper(), target[1:-1]]


def final_judgement(suite, rows, responses, tmp_path):
    """What lm-eval finds when a model gives these responses to these rows, in order, under the suite's filter."""
    from lm_eval.api.model import LM

    from harness.scorer import run_lm_eval

    by_prompt = {}
    for row, response in zip(rows, responses, strict=True):
        by_prompt.setdefault(row.prompt, []).append(response)

    class Fixed(LM):
        tokenizer = None

        def __init__(self, **_):
            super().__init__()

        def generate_until(self, requests, disable_tqdm=False):
            return [by_prompt[r.args[0]].pop(0) for r in requests]

        loglikelihood = loglikelihood_rolling = None

    Fixed.__abstractmethods__ = frozenset()
    (tmp_path / "raw").mkdir()
    (task,) = {r.task for r in rows}
    samples, _ = run_lm_eval(Fixed(), suite, {task: rows}, tmp_path / "raw")
    chosen = {s["doc"]["id"]: bool(s["exact_match"]) for s in samples[task] if s["filter"] == suite.scoring.filter}
    return [chosen[r.id] for r in rows]


@pytest.mark.parametrize(
    ("name", "task", "target"),
    [
        ("toy", "copy", "13"),
        ("bbh", "snarks", "(A)"),
        ("bbh", "object_counting", "12"),
        ("bbh", "boolean_expressions", "True"),
        ("bbh", "sports_understanding", "yes"),
        ("bbh", "dyck_languages", "] ) }"),
        ("bbh", "word_sorting", "ant bee cat"),
    ],
)
def test_a_grade_is_the_final_scorers_judgement(toy, tmp_path, name, task, target):
    from harness.data import Row
    from harness.grading import Grader
    from harness.suite import load_suite

    suite = load_suite(str(toy) if name == "toy" else name)
    responses = odd(target)
    prefix = suite.tasks[task].prefix
    rows = [
        Row(f"t:{task}/{k}", task, ask := QUESTION.format(k), target, f"{prefix}Q: {ask}\nA:", target)
        for k in range(len(responses))
    ]
    expected = final_judgement(suite, rows, responses, tmp_path)
    grader = Grader(suite)
    assert [grader.correct(task, r.input, target, text) for r, text in zip(rows, responses, strict=True)] == expected
    assert len(set(expected)) == 2


def test_grade_is_free_and_not_journalled(lab_):
    lab, core, _, plan = lab_()
    (example,) = lab.sample("flip", 1)
    assert lab.grade(example, example.response)
    assert not lab.grade(example, example.response + "1")
    assert core.ledger.entries == []
    assert [line["verb"] for line in journals.read(plan.folder / "journal.jsonl")] == ["sample"]


# --- what is refused


NOBODY = Example("copy/99", "copy")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lab: lab.logprobs([NOBODY]), "not an example"),
        (lambda lab: lab.distributions([NOBODY]), "not an example"),
        (lambda lab: lab.gradients([NOBODY]), "not an example"),
        (lambda lab: lab.generate([NOBODY], max_new_tokens=1), "not an example"),
        (lambda lab: lab.grade(NOBODY, "1"), "not an example"),
        (lambda lab: lab.rewrite(NOBODY, "1"), "not an example"),
        (lambda lab: lab.logprobs([Example("copy/1", "copy", version="abc")]), "no version 'abc'"),
        (lambda lab: lab.logprobs(["copy/1"]), "expected examples, found str"),
        (lambda lab: lab.examples.get("nll", [NOBODY]), "not a training example"),
        (lambda lab: lab.examples.get("nll", lab.sample("copy", 1, "validation")), "not a training example"),
        (lambda lab: lab.examples.set("nll", lab.sample("copy", 1), [1.0]), "kept by the lab"),
        (lambda lab: lab.examples.set("x", lab.sample("copy", 2), [1.0, 2.0, 3.0]), "shape"),
        (lambda lab: lab.examples.top("x", -1), "at least 0"),
        (lambda lab: lab.examples.top("x", 1, tasks=["coppy"]), "did you mean 'copy'"),
        (lambda lab: lab.state.__setitem__("x", ["a"]), "expected numbers"),
        (lambda lab: lab.counts({"copy": 25}), "has 24"),
        (lambda lab: lab.counts({"copy": -1}), "-1 examples"),
        (lambda lab: lab.counts({"copy": 1.5}), "1.5 examples"),
        (lambda lab: lab.counts({"coppy": 1}), "did you mean 'copy'"),
        (lambda lab: lab.counts({"copy": 0}), "at least one example"),
        (lambda lab: lab.counts({}), "at least one example"),
        (lambda lab: lab.rewrite(lab.sample("copy", 1, "validation")[0], "1"), "not a training example"),
        (lambda lab: lab.generate(lab.sample("copy", 1), max_new_tokens=0), "at least 1"),
        (lambda lab: lab.generate(lab.sample("copy", 1), max_new_tokens=1, temperature=-1.0), ">= 0"),
        (lambda lab: lab.distributions(lab.sample("copy", 1), top_k=0), "at least 1"),
        (lambda lab: lab.gradients(lab.sample("copy", 1), modules="first:1").gram(), "last:n"),
        (lambda lab: lab.train(lab.uniform(), "1 step", pool=2), "without a select"),
        (lambda lab: lab.draw(lab.uniform(), 0), "at least 1"),
        (lambda lab: lab.train(replace(lab.uniform(), weights={"copy": 1.5, "flip": -0.5})), "'flip' is -0.5"),
        (lambda lab: lab.draw(replace(lab.uniform(), weights={"copy": 0.5})), "sum to 0.5, expected 1"),
    ],
)
def test_bad_arguments_cost_nothing_and_say_what_was_expected(lab_, call, message):
    lab, core, _, _ = lab_()
    with pytest.raises(HarnessError, match=message):
        call(lab)
    assert core.ledger.spent == 0


CALLS = {
    "validate": lambda lab: lab.validate(n=1),
    "logprobs": lambda lab: lab.logprobs([]),
    "budget": lambda lab: lab.budget.spent,
    "rng": lambda lab: lab.rng.random(),
    "sample": lambda lab: lab.sample("copy", 1),
    "counts": lambda lab: lab.counts({"copy": 1}),
    "checkpoint": lambda lab: lab.checkpoint(),
    "state.set": lambda lab: lab.state.__setitem__("x", 1),
    "examples.get": lambda lab: lab.examples.get("nll", []),
    "log": lambda lab: lab.log("x", 1),
    "fork": lambda lab: lab.fork("probe").__enter__(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("callback", ["objective", "example_weights", "select"])
def test_callbacks_call_no_verbs(lab_, callback, name):
    lab, _, _, _ = lab_()
    with pytest.raises(HarnessError, match=f"{name}: a callback calls no verbs"):
        lab.train(lab.uniform(), "1 step", **{callback: lambda _: CALLS[name](lab)})


def test_numbers_of_numpy_are_numbers(lab_):
    lab, _, _, _ = lab_()
    weights = np.array([0.25, 0.75], dtype=np.float32)
    mixture = lab.mixture(dict(zip(("copy", "flip"), weights, strict=True)))
    batch = lab.draw(mixture, np.int64(1))
    assert len(lab.sample("copy", np.int64(2))) == 2
    assert lab.examples.top("nll", np.int64(2)) == []
    lab.train(lab.just(batch), "1 step", keep="none")
    assert len(lab.generate(batch, max_new_tokens=np.int64(1), temperature=np.float32(0.5))) == 4


def test_under_lora_probes_go_through_the_adapters(tmp_path):
    suite = make_suite(tmp_path / "suite", lora={"r": 4, "alpha": 8})
    lab, core, engine, _ = make_lab(tmp_path / "runs", suite, make_model(tmp_path / "m", "llama"), mode="lora")
    asked = lab.sample("copy", 3)
    items = core.data.items(asked)
    base = lab.checkpoint()
    at_base = gold(engine.lm, items)
    lab.train(lab.proportional(), "4 step", keep="none")
    assert close(lab.logprobs(asked), gold(engine.lm, items))
    assert close(lab.logprobs(asked, at=base), at_base)
    rows = np.stack([gradient_of(engine, i, lambda n, p: True) for i in items])
    assert np.allclose(lab.gradients(asked, modules="all").gram(), rows @ rows.T, rtol=1e-3, atol=1e-6)


def test_what_is_computed_again_after_a_crash_is_not_booked_again(lab_):
    lab, core, _, _ = lab_()
    asked = lab.sample("copy", 3)
    first = lab.gradients(asked)
    whole, small = first.rows(), first.rows(project=8)
    booked = [(e.model, e.hardware) for e in core.ledger.entries]
    again = lab.gradients(asked)  # as a replay leaves a handle: paid for, but empty
    again._handle.paid |= {0, 8}
    assert np.array_equal(again.rows(project=8), small)
    assert np.array_equal(again.rows(), whole)
    assert [(e.model, e.hardware) for e in core.ledger.entries] == booked
    other = lab.gradients(asked)
    other._handle.paid.add(0)
    other.rows(project=8)
    assert (core.ledger.entries[-1].model, core.ledger.entries[-1].hardware) == booked[-1]
