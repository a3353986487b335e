"""The bridge between the background thread and the window."""

from __future__ import annotations

from pathlib import Path

from pytestqt.qtbot import QtBot
from recorded_runs import recorded_run

from so8t_engine.config import Config
from so8t_engine.training.events import Event
from so8t_gui.engine_thread import EngineThread, WindowSession
from so8t_gui.run_controller import RunController


def test_a_flood_is_one_signal_until_it_is_taken(qtbot: QtBot, demo_config: Config, tmp_path: Path) -> None:
    run = recorded_run(demo_config, tmp_path / "run", 10)
    events = run.read_events()
    thread = EngineThread(WindowSession.join(run.path))
    signals: list[int] = []
    thread.arrived.connect(lambda: signals.append(1))
    for event in events:
        thread._put([event])
    qtbot.wait(20)
    assert len(signals) == 1
    assert thread.take() == events
    assert thread.take() == []
    thread._put(events[:1])
    qtbot.wait(20)
    assert len(signals) == 2


def test_following_a_recorded_run_hands_over_every_event_in_order(
    qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    run = recorded_run(demo_config, tmp_path / "run", 30)
    controller = RunController()
    seen: list[Event] = []
    controller.replaced.connect(lambda: _spy(controller, seen))
    with qtbot.waitSignal(controller.ended, timeout=5000) as ended:
        assert controller.attach(run.path)
    assert ended.args == [0]
    assert [event.seq for event in seen] == [event.seq for event in run.read_events()]
    assert not controller.live


def _spy(controller: RunController, seen: list[Event]) -> None:
    original = controller.model.digest

    def digest(events: list[Event]) -> None:
        seen.extend(events)
        original(events)

    controller.model.digest = digest  # type: ignore[method-assign,assignment]


def test_a_folder_that_is_no_run_is_a_sentence(qtbot: QtBot, tmp_path: Path) -> None:
    controller = RunController()
    with qtbot.waitSignal(controller.failed) as failed:
        assert not controller.attach(tmp_path)
    assert "is not a run folder" in failed.args[0]
    assert failed.args[1]


def test_a_runs_folder_that_cannot_be_made_is_a_sentence(
    qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    controller = RunController()
    with qtbot.waitSignal(controller.failed) as failed:
        assert not controller.start(demo_config, blocked / "run")
    assert str(blocked) in failed.args[0]
    assert controller.exit_status == 1
