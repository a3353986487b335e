"""What the next window does: attach to what went on, offer what was interrupted, ask no more if told so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot
from recorded_runs import START, state, step

from so8t_engine.config import Config
from so8t_engine.training.events import EndEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State
from so8t_gui.main_window import MainWindow
from so8t_gui.widgets.interrupted_dialog import Answer, InterruptedDialog

DEAD = ProcessMark(2**22 + 1, 1.0)


def _begun(config: Config, path: Path, mark: ProcessMark, saved: int | None = 5) -> RunDirectory:
    run = RunDirectory.create(config, path)
    writer = EventWriter(run)
    writer.write(state(State.IDLE, State.LOADING, START))
    writer.write(state(State.LOADING, State.RUNNING, START + 1))
    for n in range(1, 8):
        writer.write(step(n, 20, START + 1 + n))
    writer.close()
    mark.write(run.process)
    if saved is not None:
        (run.checkpoints / f"step-{saved:08d}").mkdir()
    return run


@pytest.fixture
def other_process() -> Iterator[ProcessMark]:
    """A living process that is not this one."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield ProcessMark.of(process.pid)
    process.kill()
    process.wait()


def _look(window: MainWindow, qtbot: QtBot) -> None:
    window.look_for_runs()
    qtbot.waitUntil(lambda: window.start_up._scan is None, timeout=5000)


def _dialog(window: MainWindow) -> InterruptedDialog:
    assert window.start_up.dialog is not None
    return window.start_up.dialog


def test_an_interrupted_run_is_offered_with_what_was_lost(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _begun(demo_config, tmp_path / "runs" / "one", DEAD)
    resumed: list[Path] = []
    monkeypatch.setattr(window, "resume", lambda path: resumed.append(path))
    _look(window, qtbot)
    dialog = _dialog(window)
    assert dialog.isVisible()
    assert dialog.name.text() == "one"
    assert "ended without a word" in dialog.cause.text()
    assert "Saved is step 5; 2 steps" in dialog.loss.text()
    qtbot.mouseClick(dialog.go, Qt.MouseButton.LeftButton)
    assert resumed == [run.path]
    assert window.start_up.dialog is None


def test_later_asks_again_and_never_does_not(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    _begun(demo_config, tmp_path / "runs" / "one", DEAD)
    _begun(demo_config, tmp_path / "runs" / "two", DEAD, saved=None)
    _look(window, qtbot)
    dialog = _dialog(window)
    assert dialog.list.count() == 2
    for row, possible in ((0, None), (1, None)):
        dialog.list.setCurrentRow(row)
        possible = dialog.chosen.path.name == "one"
        assert dialog.go.isEnabled() is possible
        assert ("started anew" in dialog.loss.text()) is not possible
    dialog.reject()
    _look(window, qtbot)
    qtbot.mouseClick(_dialog(window).buttons[Answer.NEVER], Qt.MouseButton.LeftButton)
    _look(window, qtbot)
    assert window.start_up.dialog is None
    assert len(window.preferences.left_alone) == 2


def test_ended_runs_are_not_asked_about(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    run = _begun(demo_config, tmp_path / "runs" / "one", DEAD)
    writer = EventWriter(run)
    writer.write(state(State.RUNNING, State.STOPPING, START + 9))
    writer.write(state(State.STOPPING, State.STOPPED, START + 9))
    writer.close()
    _look(window, qtbot)
    assert window.start_up.dialog is None
    assert not window.run_page.message.isVisible()


@pytest.mark.parametrize("outlives", [True, False])
def test_a_living_run_is_taken_up_or_offered(
    window: MainWindow,
    qtbot: QtBot,
    demo_config: Config,
    tmp_path: Path,
    other_process: ProcessMark,
    outlives: bool,
) -> None:
    settings = demo_config.run.model_copy(
        update={"when_window_dies": "continue" if outlives else "save_and_stop"}
    )
    run = _begun(demo_config.model_copy(update={"run": settings}), tmp_path / "runs" / "one", other_process)
    _look(window, qtbot)
    bar = window.run_page.message
    if not outlives:
        assert bar.sentence.text() == f"The run one is being trained by process {other_process.pid}."
        qtbot.mouseClick(bar.action, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: window.controller.model.last_step is not None, timeout=5000)
    assert window.controller.run_path == run.path
    assert window.controller.session is not None
    assert window.controller.session.attached
    writer = EventWriter(run)
    writer.write(state(State.RUNNING, State.FINISHED, START + 20))
    writer.write(EndEvent(status="finished", step=7, seconds=1.0))
    writer.close()
    qtbot.waitUntil(lambda: not window.controller.live, timeout=5000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd")
def test_the_menu_switches_the_start_at_logon(
    window: MainWindow, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from so8t_gui.widgets.autostart_action import AutostartAction

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (action,) = window.findChildren(AutostartAction)
    action.refresh()
    assert not action.isChecked()
    action.trigger()
    assert action.isChecked()
    assert "continued at logon" in window.run_page.message.sentence.text()
    unit = tmp_path / "config" / "systemd" / "user" / "so8t-continue.service"
    assert str(tmp_path / "runs") in unit.read_text(encoding="utf-8")
    action.trigger()
    assert not action.isChecked()
    assert not unit.exists()
    assert not os.listdir(unit.parent / "default.target.wants")  # noqa: PTH208
