"""A run is digested from its events truthfully: nothing invented, nothing claimed too early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from recorded_runs import START, events_of_a_run, gate, state, step

from so8t_engine.training.events import ErrorEvent, Event, MemoryEvent, StepEvent
from so8t_engine.training.states import State
from so8t_gui.models.log import MAX_LINES, Level
from so8t_gui.models.run_model import RunModel


def running() -> list[Event]:
    return [state(State.IDLE, State.LOADING, START), state(State.LOADING, State.RUNNING, START)]


def test_every_step_reaches_the_columns(tmp_path: Path) -> None:
    (tmp_path / "rotations").mkdir()
    events = events_of_a_run(tmp_path, 50)
    model = RunModel()
    model.digest(events)
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert model.steps.view("step").tolist() == [event.step for event in steps]
    assert model.steps.view("loss").tolist() == np.float32([event.loss for event in steps]).tolist()
    assert model.term_names == ["lm", "safety", "task", "alpha"]
    assert model.state is State.FINISHED
    assert model.ended
    assert model.end is not None
    assert model.end.status == "finished"


def test_a_missing_reading_is_a_gap_and_not_zero() -> None:
    model = RunModel()
    model.digest([*running(), step(1, 2, START + 1).model_copy(update={"grad_norm": None})])
    model.digest([MemoryEvent(step=1, process_rss=2**30, time=START + 1)])
    assert np.isnan(model.steps.view("grad_norm")[0])
    assert model.steps.last("grad_norm") is None
    assert not model.has_card
    assert model.memory.last("process_rss") == 1.0
    assert model.memory.last("device_used") is None


def test_a_nan_loss_stays_nan() -> None:
    model = RunModel()
    model.digest([*running(), step(1, 2, START + 1, loss=float("nan"))])
    assert np.isnan(model.steps.view("loss")[0])


def test_a_resumed_run_walks_its_steps_again() -> None:
    model = RunModel()
    first = [step(n, 100, START + n, loss=1.0) for n in range(1, 61)]
    second = [step(n, 100, START + 100 + n, loss=2.0) for n in range(51, 71)]
    again = [state(State.IDLE, State.LOADING, START + 90), state(State.LOADING, State.RUNNING, START + 100)]
    model.digest([*running(), *first, *again, *second])
    assert model.steps.view("step").tolist() == list(range(1, 71))
    assert model.steps.view("loss").tolist() == [1.0] * 50 + [2.0] * 20


def test_convergence_is_claimed_for_a_learned_gate_only() -> None:
    late = gate(100, 100, START + 5, source="scheduled").model_copy(update={"converged_at": 100})
    model = RunModel()
    model.digest([*running(), late])
    assert model.converged_at is None
    assert model.convergence_sentence() == ""
    model.digest([late.model_copy(update={"source": "learned", "converged_at": 93})])
    assert model.converged_at == 93
    assert model.convergence_sentence() == "α reached φ within 0.01 at step 93."


def test_convergence_on_another_target_does_not_name_phi() -> None:
    model = RunModel()
    model.digest([gate(100, 100, START).model_copy(update={"final_target": 1.0, "converged_at": 90})])
    assert "φ" not in model.convergence_sentence()
    assert "1 within" in model.convergence_sentence()


def test_errors_carry_sentence_and_mend_into_the_log() -> None:
    model = RunModel()
    model.digest([ErrorEvent(kind="oom", sentence="Too little memory.", mend="Shorten rows.", time=START)])
    assert model.last_error is not None
    assert model.log.lines[-1].level is Level.ERROR
    assert model.log.lines[-1].text == "Too little memory. Shorten rows."


def test_the_log_is_bounded_and_tells_what_is_new() -> None:
    log = RunModel().log
    for number in range(MAX_LINES + 10):
        log.add(0.0, Level.INFO, str(number))
    assert len(log.lines) == MAX_LINES
    assert [line.text for line in log.since(MAX_LINES + 8)] == [str(MAX_LINES + 8), str(MAX_LINES + 9)]
    assert len(log.since(0)) == MAX_LINES
