"""When rows and checkpoints are due: so many a run; in long ones by the clock, decided once and recorded."""

import json
import sys

import pytest

from steersman.run.loops.cadence import Cadence


def measured(cadence, pace, updates=100, start=0, times=5):
    """Whether anything changed over some calls of so many updates, each of ``pace`` seconds."""
    return [cadence.measured(start + (i + 1) * updates, updates, updates * pace) for i in range(times)]


def test_a_run_of_minutes_keeps_its_hundred_rows():
    cadence = Cadence(1000, 5000, True)
    assert not any(measured(cadence, 0.01, times=50))  # a row in 10 s, a checkpoint in 50
    assert cadence.due(0) == (1000, 5000, sys.maxsize)
    assert cadence.due(1000) == (2000, 5000, sys.maxsize)
    assert cadence.to_json() == {"checkpoints_by_clock": True, "changes": []}


def test_a_run_of_hours_has_a_row_every_ten_seconds_and_a_checkpoint_every_five_minutes():
    cadence = Cadence(100_000, 1_000_000, True)
    assert measured(cadence, 0.01) == [False, False, False, False, True]
    assert cadence.to_json()["changes"] == [[500, 1000, 30_000]]
    assert cadence.due(500) == (1000, 30_000, sys.maxsize)
    assert not any(measured(cadence, 0.014, start=500, times=20))  # near enough
    assert any(measured(cadence, 0.05, start=2500))  # now it learns, and is slower
    assert cadence.to_json()["changes"][-1] == [2800, 200, 6000]  # three of the last five say so


@pytest.mark.parametrize("by_clock", [True, False])
def test_checkpoints_that_somebody_asked_for_stay(by_clock):
    """So do those of host environments, which cut episodes."""
    cadence = Cadence(10, 1_000_000, by_clock)
    assert any(measured(cadence, 0.01)) == by_clock
    assert cadence.due(500) == (510, 30_000 if by_clock else 1_000_000, sys.maxsize)


def test_a_night_in_which_the_machine_slept_changes_nothing():
    cadence = Cadence(1000, 5000, True)
    for call in range(50):
        assert not cadence.measured(20 * call, 20, 30_000.0 if call % 5 == 2 else 0.2)


def test_short_calls_say_nothing():
    cadence = Cadence(100_000, 1_000_000, True)
    assert not any(measured(cadence, 0.05, updates=1, times=30))


def test_updates_that_last_for_minutes_have_a_row_each():
    cadence = Cadence(7, 100, True)
    assert any(measured(cadence, 60.0, updates=1))
    assert cadence.due(5) == (6, 10, sys.maxsize)


def test_what_was_recorded_holds_in_a_run_that_goes_on_from_before_it():
    cadence = Cadence(1000, 5000, True)
    recorded = json.loads(json.dumps([[700, 300, 600], [2000, 50, 600]]))
    again = Cadence(1000, 5000, True, recorded)
    assert again.to_json()["changes"] == recorded
    assert again.due(0) == (1000, 5000, 700)  # a call ends at 700: what is due there is not known before
    assert again.due(700) == (900, 1200, 2000)
    assert again.due(2000) == (2050, 2400, sys.maxsize)
    assert cadence.due(700)[0] == 1000
