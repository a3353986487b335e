"""Buttons are enabled exactly as the table of states says, and clicking acknowledges at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication, QMessageBox
from pytestqt.qtbot import QtBot
from recorded_runs import START, state, step

from so8t_engine.config import Config
from so8t_engine.training.events import CheckpointEvent, EndEvent, ErrorEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import ACCEPTS, ENDED, TRANSITIONS, Command, State
from so8t_gui.main_window import MainWindow


class LiveRun:
    """A run directory whose trainer, by its mark, is this process; events are written by the test."""

    def __init__(self, config: Config, path: Path) -> None:
        self.run = RunDirectory.create(config, path)
        ProcessMark.current().write(self.run.process)
        self.writer = EventWriter(self.run)
        self.now = State.IDLE

    def walk_to(self, target: State) -> None:
        """The shortest way through the table."""
        paths = [[self.now]]
        while paths[0][-1] is not target:
            path = paths.pop(0)
            paths += [[*path, following] for following in sorted(TRANSITIONS[path[-1]])]
        for following in paths[0][1:]:
            self.writer.write(state(self.now, following, START))
            self.now = following

    def commands(self) -> list[str]:
        lines = self.run.commands.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["command"] for line in lines]


@pytest.fixture
def live(demo_config: Config, tmp_path: Path) -> Iterator[LiveRun]:
    run = LiveRun(demo_config, tmp_path / "runs" / "live")
    yield run
    if run.now not in ENDED:
        run.walk_to(State.ABORTED)
    run.writer.write(_end())
    run.writer.close()


def _end():  # type: ignore[no-untyped-def]  # noqa: ANN202
    return EndEvent(status="aborted", step=0, seconds=0.0)


def attach(window: MainWindow, live: LiveRun, qtbot: QtBot) -> None:
    assert window.attach(live.run.path)
    qtbot.waitUntil(lambda: window.controller.model.state is live.now, timeout=5000)


LIVE_STATES = [s for s in State if s not in ENDED and s is not State.IDLE]


@pytest.mark.parametrize("target", LIVE_STATES)
def test_buttons_are_enabled_exactly_as_the_state_accepts(
    window: MainWindow, live: LiveRun, qtbot: QtBot, target: State
) -> None:
    live.walk_to(target)
    attach(window, live, qtbot)
    bar = window.run_page.controls
    enabled = {command for command, button in bar.buttons.items() if button.isEnabled()}
    assert enabled == ACCEPTS[target]
    assert not bar.start.isEnabled(), "no second run beside a live one"


def test_without_a_run_no_command_can_be_given(window: MainWindow) -> None:
    assert not any(button.isEnabled() for button in window.run_page.controls.buttons.values())


def test_the_bar_reaches_to_the_figures_and_to_the_end_while_there_are_none(
    window: MainWindow, live: LiveRun, qtbot: QtBot
) -> None:
    controls = window.run_page.controls
    window.show_page("run")
    qtbot.waitUntil(controls.isVisible)
    last = controls.buttons[Command.ABORT].geometry().right()
    height = controls.height()
    assert controls.bar.geometry().right() == last
    live.walk_to(State.RUNNING)
    live.writer.write(step(3, 10, START + 5))
    attach(window, live, qtbot)
    qtbot.waitUntil(controls.figures.isVisible, timeout=5000)
    qtbot.waitUntil(lambda: controls.figures.geometry().right() == last, timeout=2000)
    assert 0 < controls.figures.geometry().left() - controls.bar.geometry().right() < 20
    assert controls.height() == height


@pytest.mark.parametrize(
    ("command", "word"),
    [(Command.PAUSE, "pausing…"), (Command.CHECKPOINT, "saving…"), (Command.STOP, "stopping…")],
)
def test_a_click_is_acknowledged_before_the_state_follows(
    window: MainWindow, live: LiveRun, qtbot: QtBot, command: Command, word: str
) -> None:
    live.walk_to(State.RUNNING)
    attach(window, live, qtbot)
    bar = window.run_page.controls
    qtbot.mouseClick(bar.buttons[command], Qt.MouseButton.LeftButton)
    assert bar.state.text() == word
    assert not bar.buttons[command].isEnabled(), "one click, one command"
    assert live.commands() == [command.value]


def answer_dialog(label: str) -> None:
    """Click the button with this text in the next message box."""

    def click() -> None:
        box = QApplication.activeModalWidget()
        if not isinstance(box, QMessageBox):
            QTimer.singleShot(20, click)
            return
        next(b for b in box.buttons() if b.text().replace("&", "") == label).click()

    QTimer.singleShot(20, click)


def test_abort_asks_first(window: MainWindow, live: LiveRun, qtbot: QtBot) -> None:
    live.walk_to(State.RUNNING)
    attach(window, live, qtbot)
    button = window.run_page.controls.buttons[Command.ABORT]
    answer_dialog("Cancel")
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert live.commands() == []
    answer_dialog("Abort")
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert live.commands() == ["abort"]


def test_an_ending_run_says_what_it_does_and_leaves_and_offers_kill_after_a_countdown(
    window: MainWindow, live: LiveRun, qtbot: QtBot
) -> None:
    live.walk_to(State.RUNNING)
    for n in range(1, 8):
        live.writer.write(step(n, 65, START + n))
    live.writer.write(
        CheckpointEvent(step=4, path="checkpoints/step-00000004", bytes=1, sha256="", time=START)
    )
    attach(window, live, qtbot)
    qtbot.waitUntil(lambda: len(window.controller.model.checkpoints) == 1)
    panel = window.run_page.ending
    assert not panel.isVisible()
    qtbot.mouseClick(window.run_page.controls.buttons[Command.STOP], Qt.MouseButton.LeftButton)
    assert panel.isVisible()
    assert panel.words.now.text() == "Step 8 is being finished, and a checkpoint saved."
    assert "On disk afterwards: a checkpoint of the last step" in panel.words.disk.text()
    assert "Until then: checkpoint of step 4 from" in panel.words.disk.text()
    assert panel.kill.isVisible()
    assert not panel.kill.isEnabled()
    assert panel.kill.text() in {"Kill (in 10 s)", "Kill (in 9 s)"}
    window.controller._asked_at -= 11
    qtbot.waitUntil(panel.kill.isEnabled, timeout=2000)
    assert panel.kill.text() == "Kill"
    assert "Kill keeps: checkpoint of step 4 from" in panel.words.disk.text()


def test_an_aborted_run_says_what_is_lost(window: MainWindow, live: LiveRun, qtbot: QtBot) -> None:
    live.walk_to(State.RUNNING)
    for n in range(1, 4):
        live.writer.write(step(n, 65, START + n))
    attach(window, live, qtbot)
    qtbot.waitUntil(lambda: window.controller.model.last_step is not None)
    live.walk_to(State.ABORTING)
    panel = window.run_page.ending
    qtbot.waitUntil(panel.isVisible)
    assert panel.words.now.text() == "Step 4 is being broken off."
    assert panel.words.disk.text() == "On disk afterwards: no checkpoint; all 3 steps are lost."


def test_a_silent_trainer_is_named_and_kill_offered_at_once(
    window: MainWindow, live: LiveRun, qtbot: QtBot
) -> None:
    live.walk_to(State.RUNNING)
    attach(window, live, qtbot)
    session = window.controller.session
    assert session is not None
    panel = window.run_page.ending
    assert not panel.isVisible()
    session._watchdog._silent_s = 0.5
    live.run.heartbeat.write_text("{}", encoding="utf-8")
    qtbot.waitUntil(panel.isVisible, timeout=8000)
    assert "no sign of life for" in panel.words.now.text()
    assert "There is no checkpoint yet" in panel.words.disk.text()
    assert panel.kill.isEnabled()
    session._watchdog._silent_s = 60.0
    live.run.heartbeat.write_text('{"a": 1}', encoding="utf-8")
    qtbot.waitUntil(lambda: not panel.isVisible(), timeout=8000)


def test_a_failed_run_stays_with_its_cause_and_the_way_on(
    window: MainWindow, live: LiveRun, qtbot: QtBot
) -> None:
    live.walk_to(State.RUNNING)
    (live.run.checkpoints / "step-00000004").mkdir()
    attach(window, live, qtbot)
    live.writer.write(ErrorEvent(kind="crash", sentence="<b>Why</b>", mend="How."))
    live.walk_to(State.FAILED)
    live.writer.write(EndEvent(status="failed", step=4, seconds=1.0))
    qtbot.waitUntil(lambda: not window.controller.live, timeout=5000)
    bar = window.run_page.message
    assert bar.sentence.text() == "<b>Why</b>"
    assert bar.sentence.textFormat() is Qt.TextFormat.PlainText
    assert bar.action.isVisible()
    with qtbot.waitSignal(window.run_page.resume_asked) as asked:
        # The trainer's mark is this test's own process, so that going on is refused with a sentence.
        qtbot.mouseClick(bar.action, Qt.MouseButton.LeftButton)
    assert asked.args == [live.run.path]
    assert "is being trained now" in bar.sentence.text()
    assert not bar.action.isVisible()


def test_progress_tells_step_epoch_elapsed_and_an_estimate(
    window: MainWindow, live: LiveRun, qtbot: QtBot
) -> None:
    live.walk_to(State.RUNNING)
    for n in range(1, 6):
        live.writer.write(step(n, 65, START + n))
    attach(window, live, qtbot)
    bar = window.run_page.controls
    qtbot.waitUntil(lambda: bar.bar.value() == 5)
    assert bar.bar.maximum() == 65
    assert "step 5 of 65" in bar.figures.text()
    assert "about 1:00 left (estimate)" in bar.figures.text()


@pytest.mark.parametrize("choice", ["Cancel", "Keep training"])
def test_closing_asks_and_leaves_a_kept_run_alone(
    window: MainWindow, live: LiveRun, qtbot: QtBot, choice: str
) -> None:
    live.walk_to(State.RUNNING)
    attach(window, live, qtbot)
    answer_dialog(choice)
    window.close()
    qtbot.wait(300)
    assert window.isVisible() is (choice == "Cancel")
    assert window.controller.live is (choice == "Cancel")
    assert live.commands() == []


def test_closing_waits_for_the_end_it_asked_for(window: MainWindow, live: LiveRun, qtbot: QtBot) -> None:
    live.walk_to(State.RUNNING)
    attach(window, live, qtbot)
    answer_dialog("Stop and save")
    window.close()
    qtbot.waitUntil(lambda: live.commands() == ["stop"], timeout=5000)
    assert window.isVisible(), "the window stays until the trainer has ended"
    live.walk_to(State.STOPPED)
    live.writer.write(_end())
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=5000)
    assert not window.controller.live
