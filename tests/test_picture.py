from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from harness import picture


def point(strategy, score, multiple=1.0, low=None, high=None):
    return picture.Point(strategy, strategy, multiple, multiple, score, low, high)


def test_picture_has_a_mark_a_bar_and_a_label_for_each_point():
    svg = picture.draw(
        [point("proportional", 0.5, low=0.48, high=0.52), point("msft", 0.6), point("msft", 0.7, 2.0)], 0.49
    )
    texts = [e.text for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("msft") == texts.count("proportional") == 1
    assert {"1x", "2x", "base model 49.0 %"} <= set(texts)
    assert svg.count('aria-roledescription="point"') == 3
    assert "var(--series-1)" in svg
    assert "currentColor" in svg


def test_far_base_models_do_not_flatten_the_picture():
    near, far = (
        picture.frame([point("a", 0.5), point("b", 0.6)], 0.45),
        picture.frame([point("a", 0.5), point("b", 0.6)], 0.0),
    )
    assert near.bottom < 45
    assert far.bottom > 40
    assert "base model 0.0 %, below this axis" in picture.draw([point("a", 0.5), point("b", 0.6)], 0.0)


def test_points_of_one_budget_stand_beside_each_other_by_name_around_what_they_spent():
    points = [point("c", 0.7), point("a", 0.6), point("b", 0.5)]
    marks = {m["label"]: m["x"] for m in picture.place(points, picture.frame(points, None))}
    assert marks["a"] < marks["b"] < marks["c"] < 1.05
    assert abs(marks["b"] - 1) < 1e-9


def test_wide_intervals_are_cut_at_the_frame():
    points = [point("a", 0.5, low=-0.8, high=1.8)]
    f = picture.frame(points, None)
    (mark,) = picture.place(points, f)
    assert f.bottom <= mark["low"] < mark["high"] <= f.top


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted), st.floats(0.1, 10))
def test_labels_keep_their_order_their_distance_and_the_frame(values, gap):
    out = picture.spread(values, gap, 0, 100)
    gap = min(gap, 100 / max(1, len(values) - 1))
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(out))
    assert out[0] >= -1e-6
    assert out[-1] <= 100 + 1e-6
