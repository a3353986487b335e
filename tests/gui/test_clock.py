"""Elapsed and remaining time leave pauses out."""

from __future__ import annotations

from so8t_engine.training.states import State
from so8t_gui.models.clock import RunClock, format_duration


def test_pauses_are_left_out_of_elapsed() -> None:
    clock = RunClock()
    for to, time in (
        (State.LOADING, 0.0),
        (State.RUNNING, 10.0),
        (State.PAUSING, 20.0),
        (State.PAUSED, 21.0),
        (State.RUNNING, 1000.0),
    ):
        clock.on_state(to, time)
    assert clock.elapsed(1010.0) == 31.0


def test_an_ended_run_no_longer_ages() -> None:
    clock = RunClock()
    clock.on_state(State.LOADING, 0.0)
    clock.on_state(State.STOPPED, 5.0)
    assert clock.elapsed(500.0) == 5.0


def test_a_run_that_died_silently_is_counted_up_to_its_last_event() -> None:
    clock = RunClock()
    clock.on_state(State.LOADING, 0.0)
    clock.on_time(30.0)
    clock.on_state(State.LOADING, 5000.0)
    assert clock.elapsed(5010.0) == 40.0


def test_the_estimate_is_the_median_and_needs_some_steps() -> None:
    clock = RunClock()
    clock.on_step(1.0)
    clock.on_step(1.0)
    assert clock.remaining(10) is None
    clock.on_step(100.0)
    assert clock.remaining(10) == 10.0, "one slow step must not move the estimate"


def test_durations_read_naturally() -> None:
    assert format_duration(0) == "0:00"
    assert format_duration(187) == "3:07"
    assert format_duration(7387) == "2:03:07"
