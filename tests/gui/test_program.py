"""The console entry point, and that the keyboard and a screen reader find every control."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QWidget
from pytestqt.qtbot import QtBot
from recorded_runs import recorded_run

from so8t_engine.config import Config
from so8t_gui.main_window import MainWindow


def gui(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the program from another folder, as an installed one is."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "so8t_gui.app", *arguments],
        env=os.environ
        | {"QT_QPA_PLATFORM": "offscreen", "XDG_CONFIG_HOME": str(home / "xdg"), "PYTHONPATH": root},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_opening_a_run_saves_a_picture_of_every_page(demo_config: Config, tmp_path: Path) -> None:
    run = recorded_run(demo_config, tmp_path / "run", 20)
    pictures = tmp_path / "pictures"
    options = ["--screenshot-dir", str(pictures), "--lang", "en", "--theme", "dark", "--quit-when-done"]
    done = gui("--open", str(run.path), *options, home=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.stem.removesuffix("-en-dark") for path in pictures.glob("*.png")}
    tabs = ("training", "gate", "evaluation", "facts")
    pages = {"settings", "about", *(f"{page}-{tab}" for page in ("run", "history") for tab in tabs)}
    assert names >= pages


def test_a_folder_that_is_no_run_ends_with_1_and_a_sentence(tmp_path: Path) -> None:
    done = gui("--open", str(tmp_path / "none"), "--quit-when-done", "--lang", "en", home=tmp_path)
    assert done.returncode == 1
    assert "is not a run folder" in done.stderr


def test_a_wrong_option_ends_with_2(tmp_path: Path) -> None:
    assert gui("--nonsense", home=tmp_path).returncode == 2


def spoken(widget: QWidget) -> str:
    text = widget.text() if isinstance(widget, QAbstractButton) else ""
    return (widget.accessibleName() or text).strip()


@pytest.mark.parametrize("code", ["en", "ja"])
def test_every_control_that_takes_the_keyboard_has_a_name(
    window: MainWindow, qtbot: QtBot, code: str
) -> None:
    window.show_as(code, "light")
    pages = (window.run_page, window.history_page, window.about_page, window.navigation)
    # A combo box's list is a window of its own, which the combo box speaks for.
    nameless = [
        f"{type(widget).__name__} in {type(widget.parent()).__name__}"
        for page in pages
        for widget in [page, *page.findChildren(QWidget)]
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        and widget.window() is window
        # A panel that is not shown gives its buttons their texts when it is.
        and not (widget.isHidden() or widget.parentWidget().isHidden())
        and not widget.objectName().startswith("qt_")
        and not spoken(widget)
    ]
    assert nameless == []
    window.show_as("en", "light")
