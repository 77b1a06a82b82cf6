"""The benchmark of metering: its clocks see every booking of a run, once, and are gone afterwards."""

from benchmarks.ledger_overhead import BOOKING, measure, report
from harness.request import Request


def test_clocks_stand_around_every_booking_and_leave_no_trace(toy, tiny, tmp_path, capsys):
    before = [vars(owner)[name] for group in BOOKING.values() for owner, name in group]
    request = Request("msft", str(tiny), str(toy), options={"C": "0.5"}, runs=tmp_path)
    found = measure(request)
    assert [vars(owner)[name] for group in BOOKING.values() for owner, name in group] == before
    assert found["lines"] > found["steps"] > 10
    assert found["calls"]["ledger"] >= found["lines"]
    assert found["calls"]["counting FLOPs"] >= 3 * found["steps"]  # ahead of a step, after it, and its hardware column
    assert 3 * found["verbs"] - 1 <= found["calls"]["journal"] <= 3 * found["verbs"]  # a verb met the end of the budget
    assert 0 < sum(found["seconds"].values()) < found["wall"]
    share = report(found)
    assert f"{share:.4%}" in capsys.readouterr().out.splitlines()[-1]
