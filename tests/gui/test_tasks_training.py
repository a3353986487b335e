"""The everyday tasks that train and upload, done with clicks and keys only; see test_tasks.

They take their time, so they run on a real X screen: one by ``test_xvfb``, all by hand with
``xvfb-run -a python -m pytest tests/gui/test_tasks_training.py -s`` and ``QT_QPA_PLATFORM=xcb``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from person import Person
from PySide6.QtWidgets import QLineEdit
from pytestqt.qtbot import QtBot
from test_real_run import demo_config, wait_for, wait_for_step

from so8t_engine.config import load_config
from so8t_engine.hub.stand_in import TOKEN, StandIn, serving
from so8t_engine.training.states import Command, State
from so8t_gui.main_window import MainWindow
from so8t_gui.widgets.upload_dialog import UploadDialog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="done on a real screen by test_xvfb"
    ),
]
__all__ = ["demo_config"]
MINUTES = 240


@pytest.fixture
def person(window: MainWindow, qtbot: QtBot, request: pytest.FixtureRequest) -> Iterator[Person]:
    window.activateWindow()
    person = Person(window, qtbot)
    yield person
    sys.stdout.write(f"\n{request.node.name}: {person.steps} steps\n")


def field(person: Person, path: str) -> QLineEdit:
    return person.window.settings_page.form.rows[path].editor.findChildren(QLineEdit)[0]


def test_train_the_preset(window: MainWindow, person: Person, qtbot: QtBot) -> None:
    """The demonstration's preset from the list, six steps of it, to its end."""
    person.page("settings")
    page = window.settings_page
    toolbar = page.toolbar
    page.set_config(load_config("demo"))
    runs = Path(window.runs_folder)
    person.click_menu(toolbar.presets, "demo")
    person.wait(lambda: page.config() is not None and page.config().name == "demo")  # type: ignore[union-attr]
    # Not part of the task: a test has no three minutes, and keeps its runs to itself.
    page.form.rows["training.max_steps"].set_value(3)
    page.form.rows["data.max_rows"].set_value(24)
    page.form.rows["run.directory"].set_value(str(runs))
    page._check()
    person.page("run")
    person.click(window.run_page.controls.start)
    wait_for(window, qtbot, State.FINISHED)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=MINUTES * 1000)
    assert window.controller.config is not None
    assert window.controller.config.name == "demo"
    assert person.steps == 5


def test_stop_save_and_resume(window: MainWindow, person: Person, qtbot: QtBot) -> None:
    person.click(window.run_page.controls.start)
    wait_for_step(window, qtbot, 2)
    began = person.steps
    person.click(window.run_page.controls.buttons[Command.STOP])
    wait_for(window, qtbot, State.STOPPED)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=MINUTES * 1000)
    stopped = window.controller.model.last_step
    assert stopped is not None
    person.page("history")
    person.click(window.history_page.resume_button)
    wait_for_step(window, qtbot, stopped.step + 1)
    assert person.steps - began == 3
    steps = window.controller.model.steps.view("step").tolist()
    assert steps == list(range(1, int(steps[-1]) + 1)), "each step stands once, in order"
    person.click(window.run_page.controls.buttons[Command.STOP])
    wait_for(window, qtbot, State.STOPPED)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=MINUTES * 1000)


def test_upload_privately(
    window: MainWindow, person: Person, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = window.settings_page
    page.form.rows["training.max_steps"].set_value(2)
    page._check()
    person.click(window.run_page.controls.start)
    wait_for(window, qtbot, State.FINISHED)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=MINUTES * 1000)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub = StandIn(tmp_path / "hub")
    with serving(hub) as address:
        began = person.steps
        person.page("history")
        person.wait(lambda: window.history_page.table_model.rowCount() == 1)
        person.wait(window.history_page.list.more.isEnabled)
        person.click_menu(window.history_page.list.more, "Upload")
        person.wait(lambda: any(w.isVisible() for w in window.findChildren(UploadDialog)))
        dialog = next(w for w in window.findChildren(UploadDialog) if w.isVisible())
        # The address of the stand-in takes the place of huggingface.co, which is there already.
        dialog.hub.setText(address)
        person.click(dialog.repo)
        person.write(dialog.repo, "me/model")
        person.click(dialog.look)
        person.wait(lambda: dialog.files.rowCount() > 0 and not dialog.runner.running, MINUTES)
        assert hub.repo("me/model") is None, "nothing is sent before the button is pressed"
        person.click(dialog.send)
        person.wait(lambda: not dialog.runner.running, MINUTES)
        assert "is private" in dialog.words.text(), dialog.words.text()
        person.click(dialog.shut)
        repo = hub.repo("me/model")
    assert repo is not None
    assert repo["private"] is True
    assert person.steps - began == 8
