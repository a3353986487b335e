"""The memory panel: readings against limit and prediction, phases, marks, and readings that are missing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from so8t_engine.history.event_blocks import EventBlocks
from so8t_engine.training.events import (
    CheckpointEvent,
    Event,
    InfoEvent,
    MemoryEvent,
    ProgressEvent,
    WarningEvent,
)
from so8t_engine.training.states import State
from so8t_gui.charts.memory_panel import MemoryPanel, bands_in_words, summary
from so8t_gui.models.bulk import digest_blocks
from so8t_gui.models.run_model import RunModel
from tests.gui.recorded_runs import START, evaluation, state, step

GIB = 2**30


def card_events(*, hidden: bool = False, second: bool = False) -> list[Event]:
    """A short run on a card: loading, an evaluation, steps, memory running out, a checkpoint."""

    def reading(time: float, reserved: float) -> MemoryEvent:
        other = {"1.device_used": (reserved + 1.4) * GIB, "1.device_total": 12.0 * GIB, "1.power_w": 90.0}
        if time > 10:  # an allocator is told of after its first step
            other |= {"1.reserved": reserved * GIB, "1.peak_reserved": 3.3 * GIB, "1.utilisation": 0.5}
        return MemoryEvent(
            allocated=int(reserved * 0.97 * GIB), reserved=int(reserved * GIB), peak_reserved=int(3.1 * GIB),
            device_used=None if hidden else int((reserved + 0.9) * GIB),
            device_total=None if hidden else 12 * GIB, process_rss=2 * GIB,
            temperature_c=None if hidden else 61.0 + time % 7, utilisation=None if hidden else 0.93,
            power_w=None if hidden else 118.0, throttled=None if hidden else ["power limit"],
            source="none" if hidden else "nvml", time=START + time,
            cards=other if second else None,
        )  # fmt: skip

    found: list[Event] = [state(State.IDLE, State.LOADING, START)]
    found += [reading(t, 0.2 + 0.25 * t) for t in range(1, 10)]
    found.append(
        InfoEvent(facts={"memory_limit": int(7.2 * GIB), "memory_predicted": int(4.0 * GIB)}, time=START + 10)
    )
    found.append(state(State.LOADING, State.RUNNING, START + 10))
    found.append(ProgressEvent(what="evaluating validation", done=1, of=4, time=START + 10.5))
    found += [reading(10 + t / 2, 2.6) for t in range(1, 9)]
    found.append(evaluation(0, START + 15))
    for n in range(1, 41):
        found.append(step(n, 40, START + 15 + n))
        found.append(reading(15.4 + n, 3.0 + 0.1 * (n % 2)))
        if n == 20:
            found.append(WarningEvent(kind="oom", sentence="Memory ran out.", time=START + 15.5 + n))
    found.append(state(State.RUNNING, State.SAVING, START + 56))
    found += [reading(56 + t, 2.7) for t in range(1, 4)]
    found.append(CheckpointEvent(step=40, path="c", bytes=1, sha256="ab", time=START + 60))
    found.append(state(State.SAVING, State.RUNNING, START + 60))
    return found


def _digested(events: list[Event]) -> RunModel:
    model = RunModel()
    model.digest(events)
    return model


def test_readings_phases_and_marks_are_on_one_chart(qtbot: QtBot) -> None:
    model = _digested(card_events())
    panel = MemoryPanel()
    qtbot.addWidget(panel)
    panel.resize(900, 600)
    panel.draw(model)
    assert [one.column for one in panel.memory.series] == [
        "device_used",
        "memory_limit",
        "memory_predicted",
        "reserved",
        "allocated",
    ]
    names = [phase.name for phase in model.activities.phases]
    assert names == ["loading", "training", "evaluation", "training", "saving", "training"]
    places = [phase.elapsed for phase in model.activities.phases]
    assert places == pytest.approx([0.0, 10.0, 10.5, 15.0, 56.0, 60.0])
    words = bands_in_words(model)
    assert "loading, evaluation, saving" in words
    assert "1 checkpoints" in words
    assert "ran out 1 times" in words
    text = summary(model)
    assert "93%" in text
    assert "118 W" in text
    assert "slowed down: power limit" in text
    assert model.memory.last("temperature_c") is not None


def test_the_cards_of_all_processes_are_on_the_charts(qtbot: QtBot) -> None:
    model = _digested(card_events(second=True))
    panel = MemoryPanel()
    qtbot.addWidget(panel)
    panel.resize(900, 600)
    panel.draw(model)
    assert [one.column for one in panel.memory.series][-2:] == ["card.1.device_used", "card.1.reserved"]
    assert [one.column for one in panel.card.series][3:] == [
        "card.1.temperature_c",
        "card.1.utilisation",
        "card.1.power_w",
    ]
    assert model.memory.last("card.1.device_used") == pytest.approx(2.7 + 1.4, rel=1e-6)
    assert model.memory.last("card.1.utilisation") == pytest.approx(50.0)
    text = summary(model)
    assert "Process 1: card 4.10 GiB of 12.00 GiB; engine 2.70 GiB, at most 3.30 GiB" in text
    assert "temperature —; utilisation 50%; power 90 W" in text


def test_readings_that_the_driver_hides_are_dashes(qtbot: QtBot) -> None:
    model = _digested(card_events(hidden=True))
    panel = MemoryPanel()
    qtbot.addWidget(panel)
    panel.draw(model)
    assert not model.memory.has_any("temperature_c")
    assert model.last_memory is not None
    with_card = model.last_memory.model_copy(update={"device_used": 3 * GIB, "device_total": None})
    model.digest([with_card])
    text = summary(model)
    assert "of —" in text
    assert "temperature —" in text
    assert "clocks: —" in text
    assert "0 °C" not in text


def test_a_run_that_is_read_at_once_has_the_same_readings() -> None:
    events = card_events(second=True)
    lines = b"".join(
        (event.model_copy(update={"seq": number}).model_dump_json() + "\n").encode()
        for number, event in enumerate(events, 1)
    )
    blocks = EventBlocks()
    list(blocks.read(io.BytesIO(lines)))
    read, digested = digest_blocks(blocks), _digested(events)
    others = ("card.1.device_used", "card.1.reserved", "card.1.utilisation", "card.1.power_w")
    for name in ("reserved", "temperature_c", "utilisation", "power_w", "elapsed", *others):
        assert np.allclose(read.memory.view(name), digested.memory.view(name), equal_nan=True, rtol=1e-6), (
            name
        )
    assert [(p.name, p.elapsed) for p in read.activities.phases] == [
        (p.name, p.elapsed) for p in digested.activities.phases
    ]
