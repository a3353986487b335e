"""Charts: what is drawn of a long run, one axis for all, cursor, region, smoothing, export, panels."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QGuiApplication, QPixmap
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot
from recorded_runs import START, events_of_a_run, step

from so8t_engine.training.events import WarningEvent
from so8t_gui.charts import export
from so8t_gui.charts.chart_menu import ChartMenu, FullScreenChart
from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.charts.overview import OverviewBoard
from so8t_gui.charts.series import robust_range
from so8t_gui.models.buffers import Columns
from so8t_gui.models.marks import Kind
from so8t_gui.models.run_model import RunModel
from so8t_gui.preferences import Preferences

ROWS = 1_000_000


def long_table() -> Columns:
    rng = np.random.default_rng(0)
    values = np.exp(-np.arange(ROWS) / 2e5) * 3 + rng.normal(0, 0.05, ROWS)
    values[777_777] = 40.0
    values[500_000:500_010] = np.nan
    table = Columns()
    table.extend({"step": np.arange(1, ROWS + 1), "elapsed": np.arange(ROWS) * 0.5, "loss": values})
    return table


@pytest.fixture
def chart(qtbot: QtBot) -> LineChart:
    chart = LineChart("Loss")
    qtbot.addWidget(chart)
    chart.resize(500, 300)
    chart.set_series([Series("loss", "training", "#123456")])
    chart.show()
    return chart


@pytest.fixture
def board(qtbot: QtBot, tmp_path: Path, preferences: Preferences) -> Iterator[OverviewBoard]:
    board = OverviewBoard(preferences)
    qtbot.addWidget(board)
    board.resize(1100, 560)
    model = RunModel()
    (tmp_path / "run" / "rotations").mkdir(parents=True)
    model.digest(events_of_a_run(tmp_path / "run"))
    board.show()
    qtbot.waitUntil(lambda: board._placed)
    board.draw(model)
    yield board
    for one in board.charts:
        one.dispose()


def drawn(chart: LineChart, name: str = "loss") -> tuple[np.ndarray, np.ndarray]:
    return chart._items[name].getOriginalDataset()


def test_a_million_rows_are_drawn_as_extremes_of_pixels_and_no_spike_is_lost(chart: LineChart) -> None:
    table = long_table()
    chart.draw(table)
    x, y = drawn(chart)
    assert len(x) < 6_000
    assert np.nanmax(y) == np.float32(40.0)
    assert "40 outside the range" in chart._legend.text(), "the outlier does not squeeze the rest"
    assert chart.plot.box.viewRange()[1][1] < 10
    chart.set_options(robust=False)
    assert chart.plot.box.viewRange()[1][1] > 40
    chart.show_span(777_770.0, 777_790.0, by_hand=True)
    x, y = drawn(chart)
    assert y[np.flatnonzero(x == 777_778)[0]] == np.float32(40.0), "zoomed in, each row is there"
    chart.show_span(499_990.0, 500_020.0, by_hand=True)
    assert np.isnan(drawn(chart)[1]).sum() == 10


def test_robust_range_shows_everything_of_a_curve_without_outliers() -> None:
    values = np.exp(-np.linspace(0, 3, 1000))
    assert robust_range(values) == (values.min(), values.max())
    assert robust_range(np.array([np.nan])) is None


def test_a_logarithmic_chart_leaves_out_what_has_no_logarithm(chart: LineChart) -> None:
    table = Columns()
    for number, value in enumerate((100.0, 0.0, -1.0, 0.01)):
        table.append({"step": number, "loss": value})
    chart.draw(table)
    chart.set_options(log=True)
    np.testing.assert_allclose(drawn(chart)[1], [2, np.nan, np.nan, -2], atol=1e-6)


def test_zooming_one_chart_shows_the_same_steps_in_all_until_everything_is_asked_for(
    board: OverviewBoard,
) -> None:
    board.loss.plot.box.setXRange(20, 40, padding=0)
    board.loss.plot.box.sigRangeChangedManually.emit([True, False])
    for chart in board.charts:
        np.testing.assert_allclose(chart.plot.box.viewRange()[0], [20, 40])
    model = board.model
    assert model is not None
    model.digest([step(121, 130, START + 130)])
    board.draw(model)
    np.testing.assert_allclose(board.memory.plot.box.viewRange()[0], [20, 40])
    board.reset.click()
    for chart in board.charts:
        low, high = chart.plot.box.viewRange()[0]
        assert low <= 1
        assert high >= 121


def test_newest_steps_are_followed(board: OverviewBoard) -> None:
    board.span.setCurrentIndex(1)
    low, high = board.loss.plot.box.viewRange()[0]
    assert 18 <= low <= 22
    assert high >= 120


def test_the_cursor_is_read_in_every_chart_and_moved_by_keys(board: OverviewBoard, qtbot: QtBot) -> None:
    board.loss.hovered.emit(30.2)
    qtbot.waitUntil(lambda: "cursor at step 30" in board.place.text(), timeout=1000)
    assert board.model is not None
    expected = board.model.steps.at("lr", 29)
    assert f"LoRA {expected:.4g}" in board.rate.accessibleDescription()
    qtbot.keyClick(board.axis, Qt.Key.Key_Semicolon, Qt.KeyboardModifier.ControlModifier)
    assert "cursor at step 31" in board.place.text()
    board.loss.hovered.emit(None)
    qtbot.waitUntil(lambda: board.place.text() == "", timeout=1000)


def test_statistics_of_a_region_are_those_of_its_rows(board: OverviewBoard, qtbot: QtBot) -> None:
    board.region.click()
    board.link.set_region((11.0, 30.0))
    qtbot.waitUntil(lambda: board.statistics.rowCount() > 0, timeout=1000)
    assert board.model is not None
    rows = board.model.steps.view("loss")[10:30].astype(float)
    cells = [board.statistics.item(0, column).text() for column in range(8)]  # type: ignore[union-attr]
    expected = (rows.mean(), rows.std(), rows.min(), rows.max(), rows[-1] - rows[0])
    assert cells == ["Loss", "training", "20", *(f"{value:.4g}" for value in expected)]
    board.region.click()
    assert board.statistics_dock.isHidden()


def test_a_line_is_switched_off_by_its_name_and_by_the_menu(board: OverviewBoard) -> None:
    board.loss._legend.linkActivated.emit("loss")
    assert not board.loss._items["loss"].isVisible()
    menu = next(m for m in board.loss.header.findChildren(ChartMenu))
    menu.fill()
    series = next(a.menu() for a in menu.menu().actions() if a.menu() and "eries" in a.text())
    series.actions()[0].toggle()
    assert board.loss._items["loss"].isVisible()


def test_nan_is_a_gap_that_is_named_and_marks_are_told_in_words(board: OverviewBoard) -> None:
    model = board.model
    assert model is not None
    model.digest(
        [
            step(121, 130, START + 130, loss=float("nan")),
            WarningEvent(kind="oom", sentence="Memory ran out.", time=START + 131),
        ]
    )
    board.draw(model)
    assert "no finite loss in 1 steps" in board.loss._legend.text()
    words = board.loss.accessibleDescription()
    assert "2 checkpoints" in words
    assert "memory ran out 1 times" in words
    assert model.marks.between(Kind.CHECKPOINT, "step", 50, 70) == [60]


def test_numbers_are_exported_as_they_are_where_they_are_shown(board: OverviewBoard, tmp_path: Path) -> None:
    board.link.show_span(10.0, 12.0)
    file = tmp_path / "loss.csv"
    export.write(board.loss, file)
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["step"] for row in rows] == ["10", "11", "12"]
    assert board.model is not None
    np.testing.assert_array_equal(
        np.array([row["training"] for row in rows], np.float32), board.model.steps.view("loss")[9:12]
    )


def test_pictures_are_exported_and_copied(board: OverviewBoard, tmp_path: Path) -> None:
    export.write(board.loss, tmp_path / "loss.png")
    picture = QPixmap(str(tmp_path / "loss.png"))
    assert picture.size() == board.loss.size() * 2
    export.write(board.loss, tmp_path / "loss.svg")
    root = ET.parse(tmp_path / "loss.svg").getroot()
    assert root.findall(".//{*}path") or root.findall(".//{*}polyline")
    menu = next(m for m in board.loss.header.findChildren(ChartMenu))
    menu.fill()
    {a.text(): a for a in menu.menu().actions()}["Copy &numbers"].trigger()
    assert QGuiApplication.clipboard().text().startswith("step\ttraining\t")


def test_full_screen_follows_the_chart_until_escape(board: OverviewBoard, qtbot: QtBot) -> None:
    menu = next(m for m in board.loss.header.findChildren(ChartMenu))
    menu.full_screen()
    full = next(w for w in QApplication.topLevelWidgets() if isinstance(w, FullScreenChart))
    assert board.model is not None
    board.model.digest([step(121, 130, START + 130)])
    board.draw(board.model)
    assert full.chart.extent() == board.loss.extent()
    qtbot.keyClick(full, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: not full.isVisible())


def test_panels_stay_as_a_person_left_them(
    board: OverviewBoard, qtbot: QtBot, preferences: Preferences
) -> None:
    board.docks[board.norm].hide()
    board.loss.set_options(smoothing=0.9, log=True)
    board.hide()
    again = OverviewBoard(preferences)
    qtbot.addWidget(again)
    again.resize(1100, 560)
    again.show()
    qtbot.waitUntil(lambda: again._placed)
    assert again.docks[again.norm].isHidden()
    assert again.docks[again.rate].isVisible()
    assert (again.loss.options.smoothing, again.loss.options.log) == (0.9, True)
    again.arrange()
    assert again.docks[again.norm].isVisible()
    for one in again.charts:
        one.dispose()


def test_the_wheel_zooms_steps_and_values_follow(chart: LineChart, qtbot: QtBot) -> None:
    chart.draw(long_table())
    before = chart.plot.box.viewRange()[0]
    from PySide6.QtCore import QPointF
    from PySide6.QtGui import QWheelEvent

    place = chart.plot.viewport().rect().center()
    event = QWheelEvent(
        QPointF(place),
        QPointF(chart.plot.viewport().mapToGlobal(place)),
        QPoint(0, 120),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(chart.plot.viewport(), event)
    after = chart.plot.box.viewRange()[0]
    assert after[1] - after[0] < before[1] - before[0]
    assert chart.zoomed
    qtbot.mouseDClick(chart.plot.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert not chart.zoomed


def test_a_small_chart_names_its_series_and_keeps_room_for_them(qtbot: QtBot) -> None:
    chart = LineChart("terms")
    qtbot.addWidget(chart)
    names = ["consistency", "inertia", "safety", "both sides", "task", "alpha"]
    chart.set_series([Series(name, name, "#123456") for name in names])
    table = Columns("step")
    for at in range(1, 4):
        table.append({"step": at, **dict.fromkeys(names, at / 10)})
    chart.resize(190, 210)
    chart.show()
    chart.draw(table)
    assert "<b>" not in chart._legend.text()
    assert "consistency 0.3" in chart._legend.toolTip()
    assert "consistency 0.3" in chart.accessibleDescription()
    chart.resize(900, 420)
    chart.refresh()
    assert chart._legend.text().count("<b>") == len(names)
    assert chart._legend.toolTip() == ""
    chart.dispose()
