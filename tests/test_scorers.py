"""Our own lm-eval task files' functions, against values worked out by hand."""

import importlib.util
import math

import pytest

from harness.paths import asset


def load(name):
    spec = importlib.util.spec_from_file_location(name, asset("suites") / "scorers" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def answer():
    return load("answer")


@pytest.fixture(scope="module")
def chemistry():
    pytest.importorskip("rdkit")
    pytest.importorskip("selfies")
    return load("chemistry")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" It is 4 + 5. #### 9.", "9"),
        ("so\n#### 1,234\nThe answer is: 7", "1234"),
        ("The answer is: $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("just this.\nand that", "just this"),
        ("\n\n 18.0 \n", "18.0"),
        ("", ""),
        ("####", ""),
    ],
)
def test_the_final_answer_of_a_text(answer, text, found):
    assert answer.final(text) == found


@pytest.mark.parametrize(
    ("given", "wanted", "right"),
    [
        ("18", "18.0", True),
        ("18", "18.5", False),
        ("True", "true", True),
        ("B", "B", True),
        ("(B)", "B", True),
        ("B. the second", "B", True),
        ("Because", "B", False),
        ("", "B", False),
        ("mitosis", "Mitosis", True),
        ("18", "C", False),
    ],
)
def test_when_two_answers_are_equal(answer, given, wanted, right):
    assert answer.equal(given, wanted) is right
    assert answer.process_results({"target": f"#### {wanted}"}, [f" #### {given}"]) == {"exact_match": int(right)}


def test_molecules_are_compared_by_what_they_are(chemistry):
    ethanol = {"target": "[C][C][O]"}
    same = chemistry.process_results(ethanol, ["[O][C][C] and so on"])
    assert same["exact_match"] == same["validity"] == same["coverage"] == 1
    assert same["edit_distance"] == 0
    assert same["bleu"] == ("[C][C][O]", "[O][C][C]")
    other = chemistry.process_results(ethanol, ["[C][C][N]\n[C][C][O]"])
    assert (other["exact_match"], other["edit_distance"]) == (0, 1)  # CCO and CCN
    longer = chemistry.process_results(ethanol, ["[C][C][C][C][O]"])
    assert longer["edit_distance"] == 2


@pytest.mark.parametrize("text", ["", "ethanol", "[Nonsense]", "no [idea]"])
def test_what_is_no_molecule(chemistry, text):
    found = chemistry.process_results({"target": "[C][C][O]"}, [text])
    assert found["exact_match"] == found["validity"] == found["coverage"] == 0
    assert found["edit_distance"] is None


def test_two_molecules_and_the_mean_of_what_is_known(chemistry):
    pair = {"target": "[C][C][O].[C][O]"}
    assert chemistry.process_results(pair, ["[C][O].[O][C][C]"])["exact_match"] == 1
    assert chemistry.process_results(pair, ["[C][O]"])["exact_match"] == 0
    assert chemistry.mean_known([1, None, 4]) == 2.5


def test_corpus_bleu_by_hand(chemistry):
    """'abcde' for 'abcdf': n-gram precisions 4/5, 3/4, 2/3, 1/2 and equal lengths, so the fourth root of 1/5."""
    assert chemistry.corpus([("abcdf", "abcde")]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert chemistry.corpus([("[C][C]", "[C][C]")]) == 1
    # An empty answer beside a perfect one of six characters: NLTK gives it one missed n-gram of each length, and
    # half of the characters are missing, so exp(1 - 12/6) times the fourth root of 6/7 * 5/6 * 4/5 * 3/4.
    found = chemistry.corpus([("[C][C]", "[C][C]"), ("[C][C]", "")])
    assert found == pytest.approx((3 / 7) ** 0.25 * math.exp(-1))
