"""The window stands, and shows a recorded run."""

from __future__ import annotations

from pathlib import Path

from pytestqt.qtbot import QtBot
from recorded_runs import recorded_run

from so8t_engine.config import Config
from so8t_gui.main_window import MainWindow


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
