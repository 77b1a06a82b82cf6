"""What mSFT's logged exclusions say together: benchmarks/exclusions.py."""

from benchmarks import exclusions
from harness.record import Event


def excluded(task, epoch, value):
    return Event(
        billed_flops=1,
        verb="log",
        note="excluded",
        data={"task": task, "epoch": epoch, "value": value, "back_to": "0:1"},
    )


def test_exclusions_are_those_that_the_run_logged_in_their_order():
    other = Event(billed_flops=1, verb="rollback", note="from 0:2 to 0:1", data={"weights": "0:1"})
    [a, b] = exclusions.exclusions([excluded("last", 0.25, 0.9), other, excluded("colours", 0.0, 0.02)])
    assert (a.task, a.order, b.task, b.order, b.epoch) == ("last", 1, "colours", 2, 0.0)


def test_tables_count_runs_and_take_means_over_the_runs_that_exclude_a_task():
    runs = [
        [excluded("last", 0.25, 0.9), excluded("colours", 0.0, 0.02)],
        [excluded("colours", 0.5, 0.14)],
        [],  # a run that has excluded nothing
    ]
    made = {"msft 1x": [exclusions.exclusions(run) for run in runs]}
    text = "\n".join(exclusions.lines(made, 0.05)).splitlines()
    assert text[2] == "| msft 1x | 3 | 1.0 | 0.3 |"
    assert text[6:] == [
        "| msft 1x | colours | 2 of 3 | 1.5 | 0.25 | 0.08 | 1 |",
        "| msft 1x | last | 1 of 3 | 1.0 | 0.25 | 0.90 | 0 |",
    ]
