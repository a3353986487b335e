"""The queue in the window, the tour of the first start, and the tray that keeps a run without a window."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication, QMessageBox
from pytestqt.qtbot import QtBot

from so8t_engine.config import Config
from so8t_engine.history.queue import OnFailure, RunQueue
from so8t_engine.training.events import ErrorEvent, StateEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State
from so8t_gui import sound, tour, tray
from so8t_gui.main_window import MainWindow
from so8t_gui.preferences import Preferences
from so8t_gui.run_controller import RunController


class WrittenRun:
    """A run whose events the test writes as a trainer does, and that ends when the test says."""

    def __init__(self, config: Config, path: Path) -> None:
        self.run = RunDirectory.create(config, path)
        self.run.process.write_text(ProcessMark.current().to_json(), encoding="utf-8")
        self.writer = EventWriter(self.run)
        self.to(State.IDLE, State.LOADING)
        self.to(State.LOADING, State.RUNNING)

    def to(self, before: State, after: State) -> None:
        self.writer.write(StateEvent(from_=before, to=after, time=time.time()))

    def end(self, state: State) -> None:
        from so8t_engine.training.events import EndEvent

        if state is State.FAILED:
            self.writer.write(ErrorEvent(kind="test", sentence="It broke.", mend=""))
        elif state is State.STOPPED:
            self.to(State.RUNNING, State.STOPPING)
        self.to(State.STOPPING if state is State.STOPPED else State.RUNNING, state)
        self.writer.write(EndEvent(status=str(state), step=1, seconds=1.0))  # type: ignore[arg-type]
        self.writer.close()


@pytest.fixture
def live_run(window: MainWindow, demo_config: Config, qtbot: QtBot) -> Iterator[WrittenRun]:
    run = WrittenRun(demo_config, Path(demo_config.run.directory) / "first")
    assert window.attach(run.run.path)
    qtbot.waitUntil(lambda: window.controller.model.state is State.RUNNING, timeout=10_000)
    yield run
    window.controller.detach()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of runs that the window would begin to train; the training itself has tests of its own."""
    names: list[str] = []

    def start(_self: RunController, config: Config, path: Path | None = None) -> bool:
        names.append(config.name)
        return True

    monkeypatch.setattr(RunController, "start", start)
    return names


def fill(window: MainWindow, config: Config, *names: str) -> RunQueue:
    for name in names:
        assert window.queue.add(config.model_copy(update={"name": name}))
    return window.queue.queue


def press(qtbot: QtBot, button: object) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_a_queue_is_reordered_and_changed_by_keys_and_clicks(
    window: MainWindow, demo_config: Config, qtbot: QtBot
) -> None:
    queue = fill(window, demo_config, "a", "b", "c")
    window.show_queue()
    panel = window.history_page.list.queue

    def shown() -> list[str]:
        assert [entry.name for entry in queue.entries()] == [entry.name for entry in window.queue.entries]
        return [panel.list.item(row).text().split()[-1] for row in range(panel.list.count())]

    assert shown() == ["a", "b", "c"]
    panel.list.setCurrentRow(2)
    panel.list.setFocus()
    qtbot.keyClick(panel.list, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    assert shown() == ["a", "c", "b"]
    assert panel.list.currentRow() == 1, "the run that was moved stays chosen"
    press(qtbot, panel.up)
    assert shown() == ["c", "a", "b"]
    assert not panel.up.isEnabled()
    press(qtbot, panel.remove)
    assert shown() == ["a", "b"]
    press(qtbot, panel.undo)
    assert shown() == ["c", "a", "b"], "it came back where it was"
    panel.choice.setCurrentIndex(1)
    panel.choice.activated.emit(1)
    assert queue.on_failure is OnFailure.GO_ON
    press(qtbot, panel.add)
    assert shown() == ["c", "a", "b", window.settings_page.config().name]  # type: ignore[union-attr]
    RunQueue(queue.runs).remove(queue.entries()[0].id)
    qtbot.waitUntil(lambda: len(window.queue.entries) == 3, timeout=5_000)
    assert shown()[0] == "a", "what another window did is seen"


def test_dragging_moves_a_run(window: MainWindow, demo_config: Config) -> None:
    queue = fill(window, demo_config, "a", "b", "c")
    model = window.history_page.list.queue.list.model()
    for row, before, expected in ((0, 3, "bca"), (2, 0, "abc"), (1, 3, "acb")):
        assert model.moveRow(model.index(0, 0).parent(), row, model.index(0, 0).parent(), before)
        assert "".join(entry.name for entry in queue.entries()) == expected


@pytest.mark.parametrize(
    ("end", "choice", "follows"),
    [
        (State.FINISHED, OnFailure.HOLD, True),
        (State.FAILED, OnFailure.HOLD, False),
        (State.FAILED, OnFailure.GO_ON, True),
        (State.STOPPED, OnFailure.GO_ON, False),
    ],
)
def test_the_next_run_follows_as_the_setting_says(
    window: MainWindow,
    demo_config: Config,
    live_run: WrittenRun,
    started: list[str],
    qtbot: QtBot,
    end: State,
    choice: OnFailure,
    follows: bool,
) -> None:
    queue = fill(window, demo_config, "second", "third")
    window.queue.set_on_failure(choice)
    strip = window.run_page.queue
    assert strip is not None
    assert strip.isVisible()
    assert not strip.start.isVisible(), "a run is going on"
    live_run.end(end)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=10_000)
    qtbot.wait(50)
    assert started == (["second"] if follows else [])
    assert [entry.name for entry in queue.entries()] == (["third"] if follows else ["second", "third"])
    if not follows:
        assert "2 runs wait" in strip.words.text()
        assert "The queue is held" in strip.words.text()
        press(qtbot, strip.start)
        assert started == ["second"], "a person lets it go on"


def test_watching_no_more_starts_nothing(
    window: MainWindow, demo_config: Config, live_run: WrittenRun, started: list[str], qtbot: QtBot
) -> None:
    fill(window, demo_config, "second")
    window.controller.detach()
    qtbot.wait(50)
    assert started == []
    live_run.writer.close()


def answer(qtbot: QtBot, name: str, seen: list[str]) -> None:
    """Press a button of the question once it is there."""

    def look() -> None:
        box = QApplication.activeModalWidget()
        if not isinstance(box, QMessageBox):
            QTimer.singleShot(20, look)
            return
        seen.append(box.informativeText())
        seen.extend(button.objectName() for button in box.buttons())
        press(qtbot, next(button for button in box.buttons() if button.objectName() == name))

    QTimer.singleShot(20, look)


def test_the_window_closes_to_the_tray_and_comes_back(
    window: MainWindow, live_run: WrittenRun, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tray, "tray_available", lambda: True)
    seen: list[str] = []
    answer(qtbot, "tray", seen)
    window.close()
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=5_000)
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    assert not app.quitOnLastWindowClosed(), "the program lives on without a window"
    assert window.controller.live
    assert window.leaving.in_tray
    window.leaving.tray.actions[0].trigger()
    qtbot.waitUntil(window.isVisible, timeout=5_000)
    assert app.quitOnLastWindowClosed()
    assert not window.leaving.in_tray
    live_run.end(State.FINISHED)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=10_000)


def test_without_a_tray_the_question_says_what_happens(
    window: MainWindow,
    demo_config: Config,
    live_run: WrittenRun,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tray, "tray_available", lambda: False)
    fill(window, demo_config, "second")
    seen: list[str] = []
    answer(qtbot, "keep", seen)
    handed: list[Path] = []
    monkeypatch.setattr(type(window.queue), "hand_over", lambda _self, run: handed.append(run))
    window.close()
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=5_000)
    assert "tray" not in seen
    assert "1 runs wait in the queue" in seen[0]
    assert handed == [live_run.run.path], "a process without a window goes on with the queue"
    live_run.writer.close()


def test_the_tour_is_offered_once_and_leads_through_the_demonstration(
    window: MainWindow, started: list[str], preferences: Preferences, qtbot: QtBot
) -> None:
    assert not window.tour_card.isVisible()
    assert window.tour.offer()
    card = window.tour_card
    assert card.isVisible()
    press(qtbot, card.language)
    assert window.tour_card is not card, "the pages were made anew in Japanese"
    assert "ようこそ" in window.tour_card.title.text()
    press(qtbot, window.tour_card.language)
    card = window.tour_card
    qtbot.waitUntil(card.isVisible, timeout=5_000)
    pages = []
    for stop in tour.STOPS:
        pages.append(window.pages.specs[window.pages.currentIndex()].name)
        assert stop.title in card.title.text()
        if stop.trains:
            assert card.train.isVisible()
            press(qtbot, card.train)
        else:
            press(qtbot, card.next)
    assert started == ["demo"]
    assert pages == [stop.page for stop in tour.STOPS]
    assert not card.isVisible()
    assert not window.tour.offer(), "it never comes back by itself"
    window.tour.begin()
    press(qtbot, card.skip)
    assert not card.isVisible()
    assert Preferences(preferences._store).tour_seen


def test_a_sound_is_played_only_where_it_is_wanted(
    window: MainWindow, preferences: Preferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[bool] = []
    monkeypatch.setattr("so8t_gui.notifier.play", lambda *, bad: played.append(bad))
    window.notifier.tell("title", "text", bad=True)
    preferences.sound = True
    window.notifier.tell("title", "text", bad=True)
    assert played == [True]
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name == "canberra-gtk-play" else None)
    assert sound.linux_player(bad=False) == ["/bin/canberra-gtk-play", "-i", "complete"]
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert sound.linux_player(bad=False) is None
