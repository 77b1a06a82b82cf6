"""`A+B`: A's plot through B's lens; what cannot be combined is refused with the reason."""

import pytest

from harness.api import HarnessError
from harness.registry import find, resolve
from harness.scripted import ScriptedLab
from tests.labs import make_lab
from tests.test_lab import same

LENS = '''"""A token weighting for tests."""
from dataclasses import dataclass
from harness.api import Lab, lens

@dataclass(frozen=True)
class {cls}:
    C: float = {C}
    def wrap(self, lab: Lab) -> Lab:
        return lens(lab, {what})
'''


@pytest.fixture
def lenses(tmp_path):
    def write(name, C, what):
        path = tmp_path / f"{name}.py"
        path.write_text(LENS.format(cls=name.capitalize(), C=C, what=what))
        return str(path)

    return {
        "half": write("half", 0.5, "objective=lambda t: self.C * t.nll"),
        "soft": write("soft", 1.0, "objective=lambda t: t.p * t.nll"),
        "flat": write("flat", 1.0, "example_weights=lambda b: [self.C] * len(b)"),
    }


def test_a_lens_alone_is_the_proportional_mixture_seen_through_it(lenses, toy, tiny, tmp_path):
    one, _, a, _ = make_lab(tmp_path / "1", toy, tiny, budget=0.5)
    two, _, b, _ = make_lab(tmp_path / "2", toy, tiny, budget=0.5)
    three, _, c, _ = make_lab(tmp_path / "3", toy, tiny, budget=0.5)
    resolve(lenses["soft"]).build({}).run(one)
    resolve(f"proportional+{lenses['soft']}").build({}).run(two)
    three.train(three.proportional(), objective=lambda t: t.p * t.nll)
    assert same(a, b)
    assert same(a, c)


def test_lenses_that_set_different_callbacks_combine_and_equal_ones_are_refused(lenses):
    class Recorder(ScriptedLab):
        def train(self, mixture, length="rest", **arguments):
            self.calls.append(("callbacks", sorted(k for k, v in arguments.items() if v is not None)))
            return super().train(mixture, length, **arguments)

    lab = Recorder({"a": 5}, [{"a": [0.1]}])
    resolve(f"proportional+{lenses['half']}+{lenses['flat']}").build({}).run(lab)
    assert lab.calls[0] == ("callbacks", ["example_weights", "objective"])
    with pytest.raises(HarnessError, match="two parts of this strategy set 'objective'"):
        resolve(f"proportional+{lenses['half']}+{lenses['soft']}").build({}).run(Recorder({"a": 5}, [{"a": [0.1]}]))


def test_a_plot_keeps_its_decisions_under_a_lens(lenses):
    script = [{"a": [0.1, 0.5, 0.4], "b": [0.1, 0.2, 0.3]}, {"a": [0.5, 0.4, 0.4], "b": [0.2, 0.6, 0.5]}]
    plain, seen = ScriptedLab({"a": 5, "b": 5}, script), ScriptedLab({"a": 5, "b": 5}, script)
    find("msft").cls().run(plain)
    resolve(f"msft+{lenses['half']}").build({}).run(seen)
    assert seen.calls == plain.calls


def test_options_go_to_the_part_that_has_them(lenses):
    both = resolve(f"msft+{lenses['half']}")
    assert both.name == "msft+half"
    built = both.build({"grid": "0.5", "half.C": "0.25", "msft.C": "3"})
    own = {"msft.C": 3.0, "msft.grid": 0.5, "msft.stages": None, "msft.faithful": False}
    assert built.hyperparameters == own | {"half.C": 0.25}
    with pytest.raises(HarnessError, match=r"belongs to several parts of msft\+half; write msft.C="):
        both.build({"C": "1"})
    with pytest.raises(HarnessError, match=r"unknown option of msft\+half 'gird'; did you mean 'grid'"):
        both.build({"gird": "1"})
    assert both.source_sha256 != resolve("msft").source_sha256


def test_only_lenses_may_follow(lenses):
    with pytest.raises(HarnessError, match="'uniform' is not a lens"):
        resolve("msft+uniform")
    with pytest.raises(HarnessError, match="did you mean 'msft'"):
        resolve("mstf+uniform")
