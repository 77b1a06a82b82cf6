"""Rewritten responses and fixed subsets: what is trained on afterwards, and when it is undone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api import HarnessError
from harness.data import Item
from harness.mixtures import of_examples
from harness.sampler import Sampler
from tests.labs import make_lab
from tests.test_verbs import close, gold


@pytest.fixture
def lab_(toy, tiny, tmp_path):
    def make(n=0, **request):
        return make_lab(tmp_path / str(n), toy, tiny, **request)

    return make


def by_hand(core, example, response):
    """The tokens of an example with another response, tokenised here."""
    tokenizer = core.engine.tokenizer
    row = core.data.row(example.id)
    prompt = tokenizer(row.prompt)["input_ids"]
    target = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return Item(example.id, example.task, tuple(prompt + target), len(target))


def test_training_sees_the_new_response_and_the_bill_is_its_own(lab_):
    lab, core, engine, plan = lab_()
    batch = lab.draw(lab.proportional())
    texts = [f" {k}{k + 1}" for k in range(4)]
    new = [lab.rewrite(e, t) for e, t in zip(batch, texts, strict=True)]
    items = [by_hand(core, e, t) for e, t in zip(batch, texts, strict=True)]
    assert [e.response for e in new] == texts
    assert [e.tokens for e in new] == [i.tokens for i in items]
    assert len({e.version for e in new} | {""}) == 5
    reference = gold(engine.lm, items)
    loss = -sum(row.sum() for row in reference) / sum(len(row) for row in reference)
    h = lab.train(lab.just(batch), "1 step", keep="none")  # the old names: each in its current response
    assert sum(h.train_loss[t] * sum(i.supervised for i in items if i.task == t) for t in h.train_loss) / sum(
        i.supervised for i in items
    ) == pytest.approx(loss, rel=1e-5)
    assert core.ledger.spent == sum(plan.arch.train_step(i.tokens, i.supervised) for i in items)


def test_other_versions_are_looked_at_and_billed_on_their_own(lab_):
    lab, core, engine, plan = lab_()
    (old,) = lab.sample("copy", 1)
    lab.logprobs([old])
    spent = core.ledger.spent
    new = lab.rewrite(old, " 77")
    item = by_hand(core, old, " 77")
    assert close(lab.logprobs([new, old]), gold(engine.lm, [item, core.data.items([old])[0]]))
    assert core.ledger.spent - spent == plan.arch.forward(item.tokens, item.supervised)  # the old one was paid for


def test_empty_and_too_long_responses_change_nothing(lab_):
    lab, core, _, _ = lab_()
    (example,) = lab.sample("copy", 1)
    for response in ("", " ", "\n\t", " cat dog" * 40):
        assert lab.rewrite(example, response) is None
    assert core.revised == {}
    assert lab.rewrite(example, example.response).version == ""
    first = lab.rewrite(example, " 5")
    assert lab.rewrite(first, "") is None
    assert core.revised == {example.id: first.version}
    assert lab.rewrite(first, example.response).version == ""  # the original again
    assert core.revised == {}


def test_draw_and_sample_give_current_versions(lab_):
    lab, _, _, _ = lab_()
    everyone = lab.sample("next", 8)
    for e in everyone:
        assert lab.rewrite(e, " 9").response == " 9"
    assert {e.response for e in lab.draw(lab.only("next"), 2)} == {" 9"}
    assert {e.response for e in lab.sample("next", 3)} == {" 9"}
    assert {e.version for e in lab.sample("next", 2, "validation")} == {""}
    assert {e.response for e in lab.examples.where("visits", below=1, tasks=["next"])} == {" 9"}


@pytest.mark.parametrize("steps", [0, 2])
def test_a_rollback_to_before_undoes_it_and_one_to_after_keeps_it(lab_, steps):
    lab, core, _, _ = lab_()
    if steps:
        lab.train(lab.proportional(), f"{steps} step", keep="none")
    (example,) = lab.sample("copy", 1)
    before = lab.checkpoint()
    new = lab.rewrite(example, " 5")
    after = lab.checkpoint()
    lab.rewrite(example, " 6")
    lab.train(lab.just([example]), "1 step", keep="none")
    assert core.items([example.id])[0] == by_hand(core, example, " 6")
    lab.rollback(after)
    assert core.items([example.id])[0] == by_hand(core, example, " 5")
    lab.rollback(before)
    assert core.items([example.id])[0] == core.data.item(example.id)
    lab.rollback(after)
    assert core.revised == {example.id: new.version}


def test_a_fork_from_base_sees_the_originals_and_its_own_rewriting_stays_in_it(lab_):
    lab, core, _, _ = lab_()
    lab.train(lab.proportional(), "1 step", keep="none")
    (example,) = lab.sample("copy", 1)
    new = lab.rewrite(example, " 5")
    for start, version in (("base", ""), ("now", new.version)):
        with lab.fork("probe", start=start) as child:
            (drawn,) = [e for e in child.draw(child.only("copy"), 6) if e.id == example.id]
            assert drawn.version == version
            assert child.rewrite(example, " 8").version not in ("", new.version)
            child.train(child.just([example]), "1 step", keep="none")
    assert core.revised == {example.id: new.version}


# --- counts


def test_counts_are_exact_fixed_and_each_epoch_is_a_shuffled_pass(lab_):
    lab, _, _, _ = lab_()
    mixture = lab.counts({"copy": 5, "flip": 2, "next": 1})
    assert mixture.weights == {"copy": 5 / 8, "flip": 2 / 8, "next": 1 / 8}
    assert mixture.epoch_examples == 8
    epochs = [[e.id for e in lab.draw(mixture, 2)] for _ in range(3)]
    assert all(Counter(epoch) == Counter(mixture.sequence) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(set(mixture.sequence)) == 8
    other = lab.counts({"copy": 5, "flip": 2, "next": 1})
    assert set(other.sequence) != set(mixture.sequence)
    again, _, _, _ = lab_(1)
    assert again.counts({"next": 1, "copy": 5, "flip": 2}) == mixture  # of names, not of their order


def test_counts_with_replacement_repeat_and_the_whole_of_a_task_is_the_task(lab_):
    lab, core, _, _ = lab_()
    many = lab.counts({"next": 40}, replacement=True)
    assert len(many.sequence) == 40
    assert 1 < len(set(many.sequence)) <= 8
    assert set(lab.counts({"next": 8}).sequence) == {f"next/{i}" for i in range(8)}
    lab.train(many, "1 epoch", keep="none")
    assert core.table.columns["visits"].sum() == 40


def test_without_leaves_out_examples_of_a_fixed_subset(lab_):
    lab, _, _, _ = lab_()
    mixture = lab.counts({"copy": 4, "next": 2})
    gone = [e for e in lab.draw(mixture, 2) if e.task == "next"]
    rest = mixture.without(gone)
    assert rest.weights == {"copy": 1.0}
    assert set(rest.sequence) == {i for i in mixture.sequence if i.startswith("copy")}
    assert rest.shuffled
    with pytest.raises(HarnessError, match="no example is left"):
        rest.without(lab.draw(rest, 1))
    assert len(lab.train(rest, "1 epoch").train_loss) == 1


@given(st.lists(st.sampled_from(["a/0", "a/1", "b/0", "b/1", "b/2"]), min_size=1, max_size=7), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_shuffled_sequence_gives_each_example_as_often_as_it_is_named(ids, n):
    mixture = of_examples(ids, [i[0] for i in ids], shuffled=True)
    sampler = Sampler(3, {"a": 2, "b": 3})
    drawn = []
    while len(drawn) < 3 * len(ids):
        state = sampler.state()
        drawn += sampler.draw(mixture, n)
        again = Sampler(3, {"a": 2, "b": 3})
        again.load(state)
        assert again.draw(mixture, n) == drawn[-n:]
    for epoch in range(3):
        assert Counter(drawn[epoch * len(ids) : (epoch + 1) * len(ids)]) == Counter(ids)
    assert np.isclose(sum(mixture.weights.values()), 1.0)
