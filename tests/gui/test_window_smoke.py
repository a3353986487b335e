"""The window stands, and shows a recorded run."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QObject
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot
from recorded_runs import recorded_run

from so8t_engine.config import Config
from so8t_gui.main_window import MainWindow
from so8t_gui.preferences import Preferences


def test_every_page_can_be_shown(window: MainWindow, qtbot: QtBot) -> None:
    for name in [spec.name for spec in window.pages.specs]:
        window.show_page(name)
        qtbot.wait(20)
        assert window.pages.currentWidget().isVisible()


def test_opening_a_recorded_run_draws_its_loss(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    run = recorded_run(demo_config, tmp_path / "runs" / "one")
    assert window.open_run(run.path)
    view = window.history_page.view
    qtbot.waitUntil(lambda: view.isVisible() and view.redraws > 0, timeout=5000)
    x, y = view.overview.loss._items["loss"].getOriginalDataset()
    assert len(x) == 120
    assert x[-1] == 120
    assert y[0] > y[-1]


class _Windows(QObject):
    """Which widgets were shown as windows of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.Show and isinstance(watched, QWidget) and watched.isWindow():
            self.shown.append(f"{type(watched).__name__} {watched.objectName()}")
        return False


def test_building_pages_shows_no_other_window(
    qapp: QApplication, demo_config: Config, preferences: Preferences, qtbot: QtBot
) -> None:
    """A part that is shown before it has its place flashes on the screen and closes an open menu."""
    windows = _Windows()
    qapp.installEventFilter(windows)
    window = MainWindow(demo_config, preferences, "light")
    for name in [spec.name for spec in window.pages.specs]:
        window.pages.page(name)
    qapp.removeEventFilter(windows)
    window.controller.shut_down()
    window.close()
    window.deleteLater()
    assert windows.shown == []


@pytest.mark.usefixtures("program_collects")
def test_what_the_window_is_made_of_is_set_aside_from_collection(
    qapp: QApplication, demo_config: Config, preferences: Preferences, qtbot: QtBot
) -> None:
    """A full collection over it would hold the window up; what a rebuilt page leaves is collected."""
    before = gc.get_freeze_count()
    window = MainWindow(demo_config, preferences, "light")
    window.show()
    qtbot.waitUntil(lambda: gc.get_freeze_count() > before + 50_000, timeout=120_000)
    window.show_as("ja", "light")
    qtbot.waitUntil(lambda: gc.get_freeze_count() > before + 50_000, timeout=120_000)
    window.controller.shut_down()
    window.close()
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()
    window.deleteLater()
