import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness import drawing, marks, picture

SVG = "{http://www.w3.org/2000/svg}"


def point(strategy, score, multiple=1.0, low=None, high=None, spent=None, label=None, provisional=False):
    return marks.Point(strategy, label or strategy, multiple, spent or multiple, score, low, high, provisional)


def parsed(points, base=None):
    return [ElementTree.fromstring(svg) for svg in picture.draw(points, base)]


def texts(svg):
    return [e.text for e in svg.iter(f"{SVG}text")]


def glyphs(svg, label):
    """Marks of an entry: their place in pixels and their shape, colour and filling."""
    found = []
    for e in svg.iter(f"{SVG}path"):
        if e.get("aria-roledescription") == "point" and e.get("aria-label").startswith(label + ":"):
            x, y = re.match(r"translate\(([\d.]+) ([\d.]+)\)", e.get("transform")).groups()
            found.append((float(x), float(y), (e.get("d"), e.get("stroke")), e.get("fill")))
    return found


def test_the_list_has_every_entry_of_the_first_budget_in_order_and_the_plot_every_point():
    points = [point("msft", 0.6), point("proportional", 0.5, low=0.48, high=0.52), point("msft", 0.7, 2.0)]
    listed, scattered = parsed(points, 0.49)
    assert [t for t in texts(listed) if t in ("msft", "proportional")] == ["msft", "proportional"]
    assert {"60.0", "50.0"} <= set(texts(listed))
    assert "macro mean score at 1x, %" in texts(listed)
    assert [len(glyphs(listed, n)) for n in ("msft", "proportional")] == [1, 1]
    assert len(glyphs(scattered, "proportional")) == 1
    assert len(glyphs(scattered, "msft")) == 3, "two budgets, and the name's own"
    assert {"1x", "2x", "base model 49.0 %", "msft"} <= set(texts(scattered))
    assert "proportional" not in texts(scattered), "one budget: the list names it"


def test_marks_of_the_list_are_where_their_scores_are():
    points = [point(n, score) for n, score in (("a", 0.8), ("b", 0.6), ("c", 0.5))]
    (listed,) = parsed(points)
    (a, *_), (b, *_), (c, *_) = (glyphs(listed, n)[0] for n in "abc")
    assert (a - c) / (b - c) == pytest.approx(3, abs=0.02)
    ys = [glyphs(listed, n)[0][1] for n in "abc"]
    assert [q - p for p, q in pairwise(ys)] == pytest.approx([picture.ROW] * 2)


def test_bills_that_differ_by_less_than_a_tenth_need_no_plot():
    assert len(picture.draw([point("a", 0.5), point("b", 0.6, spent=0.92)], None)) == 1
    assert len(picture.draw([point("a", 0.5), point("b", 0.6, spent=0.7)], None)) == 2


def test_no_two_entries_look_the_same_and_the_plot_draws_them_as_the_list():
    labels = [(f"s{k // 2}", f"s{k // 2} C={k % 2}") for k in range(28)]
    known = marks.glyphs([point(s, 0.5, label=name) for s, name in labels])
    assert len(set(known.values())) == 28
    listed, scattered = parsed([point("a", 0.5), point("b", 0.6, spent=0.7), point("b", 0.7, 2.0)])
    for name in "ab":
        assert {g[2] for g in glyphs(listed, name)} == {g[2] for g in glyphs(scattered, name)}


def test_provisional_entries_are_hollow_and_say_so():
    (listed,) = parsed([point("a", 0.5, provisional=True), point("b", 0.6)])
    (a,), (b,) = glyphs(listed, "a"), glyphs(listed, "b")
    assert (a[3], b[3]) == ("none", b[2][1])
    assert "provisional" in ElementTree.tostring(listed, "unicode").split("a: 50.0 %")[1][:20]


def test_far_base_models_do_not_flatten_the_picture():
    points = [point("a", 0.5), point("a", 0.6, 2.0)]
    near, far = ("".join(picture.draw(points, base)) for base in (0.48, 0.1))
    assert "base model 48.0 %</text>" in near
    assert "base model 10.0 %, below this axis" in far
    height = [glyphs(parsed(points, base)[1], "a") for base in (None, 0.1)]
    assert height[0] == height[1]


def test_a_wide_interval_does_not_squeeze_the_rest_and_ends_in_arrows():
    usual = [point(n, s, low=s - 0.02, high=s + 0.02) for n, s in (("a", 0.5), ("b", 0.55), ("c", 0.6))]
    wide = point("d", 0.52, low=-1.2, high=2.2)
    assert marks.domain([*usual, wide]) == pytest.approx((44, 66))
    assert marks.domain(usual) == pytest.approx((48, 62)), "these can be read"
    (listed,) = parsed([*usual, wide])
    bars = {
        e.get("aria-label")[0]: e.get("d")
        for e in listed.iter(f"{SVG}path")
        if e.get("aria-label") and e.get("aria-roledescription") is None
    }
    assert {name: d.count("Z") for name, d in bars.items()} == {"a": 0, "b": 0, "c": 0, "d": 2}
    assert "-120.0 to 220.0" in ElementTree.tostring(listed, "unicode")


def test_points_stand_at_their_bill_and_bars_that_would_overlap_beside_it_by_name():
    entries = [("c", 0.7), ("a", 0.71), ("b", 0.3)]
    points = [point(n, s, m, s - 0.05, s + 0.05) for n, s in entries for m in (1.0, 2.0)]
    _, scattered = parsed([*points, point("lone", 0.7), point("other", 0.7)])
    at = {n: min(x for x, *_ in glyphs(scattered, n)) for n in ("a", "b", "c", "lone", "other")}
    assert at["a"] == at["b"] == at["lone"] == at["other"]
    assert at["c"] == pytest.approx(at["a"] + picture.ASIDE)


def test_a_mark_is_never_more_than_a_place_from_its_bill():
    points = [point(f"s{k}", 0.5, m, 0.4, 0.6) for k in range(6) for m in (1.0, 2.0)]
    _, scattered = parsed(points)
    at = sorted(min(glyphs(scattered, f"s{k}"))[0] for k in range(6))
    assert at == pytest.approx([at[1] - picture.ASIDE, *[at[1]] * 4, at[1] + picture.ASIDE])


def test_what_is_cut_off_a_name_is_what_a_strategys_entries_share():
    labels = ("a", "a pool=4, rate=2", "a pool=4, rate=2, within=True", "a pool=4, rate=3", "b pool=4, deep=1", "c")
    points = [marks.Point(label[0], label, m, m, 0.5, None, None) for label in labels for m in (1.0, 2.0)]
    assert [*marks.called(points).values()] == [
        "a", "a rate=2, pool=4", "a within=True, rate=2, pool=4", "a rate=3, pool=4", "b pool=4, deep=1", "c"
    ]  # fmt: skip


def test_of_many_lines_the_plot_has_no_bars_and_every_mark_at_its_bill():
    points = [point(f"s{k}", 0.5 + 0.001 * k, m, 0.4, 0.6) for k in range(picture.MOST_BARS + 1) for m in (1.0, 2.0)]
    for shown, bars in ((points[:-2], 2 * picture.MOST_BARS), (points, 0)):
        _, scattered = parsed(shown)
        drawn = [e for e in scattered.iter(f"{SVG}path") if re.match(r"M[\d.]+ [\d.]+V", e.get("d"))]
        assert len([e for e in drawn if e.get("aria-label")]) == bars
    assert len({min(glyphs(scattered, f"s{k}"))[0] for k in range(picture.MOST_BARS + 1)}) == 1


def test_hostile_and_long_names_are_short_text():
    name = '"><script>alert(1)</script>' + "x" * 200
    for svg in parsed([point(name, 0.5), point(name, 0.6, 2.0), point("日本" * 40, 0.4)]):
        assert not [e for e in svg.iter() if e.tag.endswith("script")]
        assert all(marks.letters(t) <= 32 for t in texts(svg) if "alert" in t or "日" in t)


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    st.lists(st.floats(0, 4), max_size=30),
)
def test_an_axis_holds_all_values_and_usual_intervals(values, halves):
    ends = [(v - h, v + h) for v, h in zip(values, halves, strict=False)]
    low, high = drawing.readable(values, ends)
    assert low <= min(values)
    assert high >= max(values)
    usual = sorted(halves[: len(ends)])[: (len(ends) + 3) // 4]
    assert all(low <= a and b <= high for (a, b), h in zip(ends, halves, strict=False) if h in usual)
    room = max((max(values) - min(values)) / 2, 3 * max(usual, default=0))
    assert high - low <= max(values) - min(values) + 2 * room + 1e-9


@example(1.0, 401.0, 3)
@given(st.floats(-1e3, 1e3), st.floats(0.01, 1e3), st.integers(2, 9))
def test_ticks_are_few_round_and_inside(low, width, most):
    found = drawing.ticks(low, low + width, most)
    assert 1 <= len(found) <= most
    assert all(low - 1e-6 <= t <= low + width + 1e-6 for t in found)
    assert len({round(b - a, 9) for a, b in pairwise(found)}) <= 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted), st.floats(0.1, 10))
def test_labels_keep_their_order_their_distance_and_the_frame(values, gap):
    out = picture.spread(values, gap, 0, 100)
    gap = min(gap, 100 / max(1, len(values) - 1))
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(out))
    assert out[0] >= -1e-6
    assert out[-1] <= 100 + 1e-6
