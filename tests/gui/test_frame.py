"""The palette, the doctor, alarms and crash reports."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot
from recorded_runs import START, state, step
from typer.testing import CliRunner

from so8t_engine import doctor
from so8t_engine.cli import app as cli
from so8t_engine.training.states import State
from so8t_gui import crash_report
from so8t_gui.main_window import MainWindow
from so8t_gui.models.run_model import RunModel
from so8t_gui.models.watch import Watch
from so8t_gui.pages.doctor_page import DoctorPage
from so8t_gui.widgets.palette import CommandPalette


def open_palette(window: MainWindow, qtbot: QtBot) -> CommandPalette:
    window.show_palette()
    # One that was closed before is still being taken apart.
    found = [w for w in QApplication.topLevelWidgets() if isinstance(w, CommandPalette) and w.isVisible()]
    palette = found[-1]
    qtbot.waitUntil(palette.isVisible)
    return palette


def test_the_palette_finds_pages_and_settings_by_keys_alone(window: MainWindow, qtbot: QtBot) -> None:
    palette = open_palette(window, qtbot)
    qtbot.keyClicks(palette.field, "view history")
    qtbot.keyClick(palette.field, Qt.Key.Key_Return)
    assert window.pages.specs[window.pages.currentIndex()].name == "history"
    palette = open_palette(window, qtbot)
    qtbot.keyClicks(palette.field, "training.seed")
    qtbot.keyClick(palette.field, Qt.Key.Key_Return)
    row = window.settings_page.form.rows["training.seed"]
    assert row.isVisible()
    qtbot.waitUntil(
        lambda: row.isAncestorOf(QApplication.focusWidget()) if QApplication.focusWidget() else True
    )


def test_the_palette_moves_its_mark_and_leaves_by_escape(window: MainWindow, qtbot: QtBot) -> None:
    palette = open_palette(window, qtbot)
    qtbot.keyClick(palette.field, Qt.Key.Key_Down)
    assert palette.list.currentRow() == 1
    page = window.pages.currentIndex()
    qtbot.keyClick(palette, Qt.Key.Key_Escape)
    assert window.pages.currentIndex() == page


def test_the_doctor_names_what_is_bad_and_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = CliRunner().invoke(cli, ["doctor", "--runs", str(tmp_path), "--json"])
    result = json.loads(good.stdout)
    assert result["ready"] == (good.exit_code == 0)
    keys = [one["key"] for one in result["findings"]]
    assert {"python", "torch", "card", "ram", "disk", "runs", "window"} <= set(keys)
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    bad = CliRunner().invoke(cli, ["doctor", "--runs", str(tmp_path), "--json"])
    assert bad.exit_code == 1
    missing = json.loads(bad.stdout)["findings"][1]
    assert (missing["verdict"], missing["mend"]) == ("bad", "Install it with: pip install no-such-package")


def test_the_doctor_page_shows_the_same(window: MainWindow, qtbot: QtBot) -> None:
    window.show_page("doctor")
    page = window.pages.page("doctor")
    assert isinstance(page, DoctorPage)
    qtbot.waitUntil(lambda: page.summary.text() != "", timeout=10_000)
    assert page._grid.rowCount() >= 8


def model_with(losses: list[float]) -> RunModel:
    model = RunModel()
    model.digest([state(State.IDLE, State.LOADING, START), state(State.LOADING, State.RUNNING, START)])
    model.digest([step(n + 1, 999, START + n, loss=loss) for n, loss in enumerate(losses)])
    return model


@pytest.mark.parametrize(
    ("losses", "keys"),
    [
        ([1 + 0.01 * (n % 5) for n in range(120)], []),
        ([1 + 0.01 * (n % 5) for n in range(60)] + [5.0], ["spike"]),
        ([1.0] * 40 + [math.nan], ["nan"]),
        ([1 + 0.02 * n for n in range(120)], ["divergence"]),
        ([3 * math.exp(-n / 40) + 0.1 * math.sin(n) for n in range(300)], []),
    ],
)
def test_alarms_are_raised_for_what_is_wrong_and_for_nothing_else(
    losses: list[float], keys: list[str]
) -> None:
    watch = Watch()
    now = START + len(losses)
    model = model_with(losses)
    found = watch.look(model, now)
    assert [alarm.key for alarm in found] == keys
    assert all(alarm.mend for alarm in found)
    assert watch.look(model, now) == [], "each is told once"


def test_a_stall_is_told_once_it_is_far_longer_than_a_step() -> None:
    model = model_with([1.0] * 50)
    assert Watch().look(model, START + 60) == []
    found = Watch().look(model, START + 500)
    assert [alarm.key for alarm in found] == ["stall"]


def test_a_crash_report_holds_versions_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_report, "crash_folder", lambda: tmp_path)
    monkeypatch.setenv("MY_SERVICE_TOKEN", "very-secret-value")
    try:
        raise ValueError(f"very-secret-value hf_abcdefgh12345678 {Path.home()}/x https://me:pw@host/")
    except ValueError as error:
        path = crash_report.write_crash_report(ValueError, error, error.__traceback__)
    assert path is not None
    text = path.read_text(encoding="utf-8")
    assert "test_frame" in text
    assert "PySide6" in text
    for secret in ("very-secret-value", "hf_abcdefgh12345678", "me:pw", str(Path.home()) + "/x"):
        assert secret not in text
