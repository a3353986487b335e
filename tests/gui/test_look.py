"""What a person sees: nothing reaches out of its column, empty places say why, axes have round numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QLabel,
    QListWidget,
    QScrollArea,
    QTableWidget,
    QTreeWidget,
    QWidget,
)
from pytestqt.qtbot import QtBot
from recorded_runs import START, recorded_run, step
from walk import settle

from so8t_engine.config import Config, preset_paths
from so8t_engine.i18n import set_language
from so8t_gui.charts.axis import NumberAxis
from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.charts.matrix_view import MatrixView
from so8t_gui.charts.series import grown_span
from so8t_gui.main_window import MainWindow
from so8t_gui.models.buffers import Columns
from so8t_gui.models.names import result_name
from so8t_gui.models.run_model import RunModel
from so8t_gui.pages.about_page import shortcuts
from so8t_gui.widgets.empty_note import EmptyNote


@pytest.mark.parametrize("code", ["en", "ja"])
def test_a_budget_that_is_exceeded_stays_in_its_column(window: MainWindow, qtbot: QtBot, code: str) -> None:
    set_language(code)
    window.show_as(code, "light")
    window.resize(1280, 720)
    page = window.settings_page
    window.show_page("settings")
    assert page.load_file(preset_paths()["phi35_8gb"], "phi35_8gb")
    page.apply_changes({"data.max_length": 131072})
    settle()
    assert page.budget.apply.isVisible()
    assert page.budget.others.isVisible()
    page.budget.show_undo(True)
    settle()
    inside, room = page.side.widget(), page.side.viewport()
    assert inside.width() <= room.width()
    for button in (page.budget.apply, page.budget.others, page.budget.undo, page.budget.measure):
        right = button.mapTo(room, button.rect().topRight()).x()
        assert right <= room.width(), f"{button.text()} ends at {right} of {room.width()}"


@pytest.mark.parametrize("code", ["en", "ja"])
def test_readings_of_several_lines_leave_a_small_chart_its_axis(
    window: MainWindow, demo_config: Config, qtbot: QtBot, code: str
) -> None:
    set_language(code)
    window.show_as(code, "dark")
    window.resize(960, 620)
    path = recorded_run(demo_config, Path(demo_config.run.directory) / "one", 40).path
    window.open_run(path)
    board = window.history_page.view.overview
    qtbot.waitUntil(lambda: board.terms._plot is not None and board.terms._plot.isVisible(), timeout=5000)
    terms = board.terms
    terms.set_series(
        [Series(f"term.{name}", name * 3, "#123456") for name in ("task", "dual", "safety", "pet")]
    )
    settle()
    lines = terms.readings.height() / terms.fontMetrics().height()
    assert lines > 2.5, "the case is here"
    for chart in board.charts:
        plot = chart.plot
        assert plot.geometry().bottom() <= chart.rect().bottom(), chart.title_text
        assert chart.readings.geometry().bottom() < plot.geometry().top(), chart.title_text
        assert chart.readings.height() >= chart.readings.heightForWidth(chart.readings.width())


def test_an_empty_list_says_why_until_it_holds_something(qtbot: QtBot) -> None:
    views: list[QListWidget | QTableWidget] = [QListWidget(), QTableWidget(0, 2)]
    for view in views:
        qtbot.addWidget(view)
        note = EmptyNote(view, "<b>nothing</b> yet")
        view.resize(300, 200)
        view.show()
        settle()
        assert note.isVisible()
        assert note.size() == view.viewport().size()
        assert note.textFormat() is Qt.TextFormat.PlainText
        if isinstance(view, QListWidget):
            view.addItem("one")
        else:
            view.setRowCount(1)
        assert not note.isVisible()
        if isinstance(view, QListWidget):
            view.clear()
        else:
            view.setRowCount(0)
        assert note.isVisible()


def test_no_place_of_an_empty_window_is_silent(window: MainWindow, qtbot: QtBot) -> None:
    """Item views say why they are empty; choices that have nothing to choose from are not there."""
    view = window.run_page.view
    window.show_page("run")
    for index in range(view.tabs.count()):
        if view.tabs.isTabVisible(index):
            view.tabs.setCurrentIndex(index)
            settle()
            assert _silent(window.run_page) == []
    for name in ("history", "inspect", "pipeline"):
        window.show_page(name)
        settle()
        assert _silent(window.pages.current_page()) == []
    assert not window.inspect_page.map.plot.isVisible(), "axes without a picture say what is not so"


def _silent(page: QWidget) -> list[str]:
    found = []
    for view in page.findChildren(QAbstractItemView):
        if not isinstance(view, QListWidget | QTableWidget | QTreeWidget):
            continue
        if view.isVisible() and not view.model().rowCount():
            notes = [one for one in view.findChildren(QLabel) if one.isVisible() and one.text()]
            found += [] if notes else [view.accessibleName()]
    found += [
        f"{box.accessibleName()} (empty choice)"
        for box in page.findChildren(QComboBox)
        if box.isVisible() and not box.count()
    ]
    return found


def test_a_single_place_gets_a_span_of_whole_steps() -> None:
    low, high = grown_span((0.0, 0.0), (-0.1, 0.5))
    assert low < 0 < 10 <= high
    assert grown_span((0.0, 0.0), (low, high)) == (low, high), "and stays"
    assert grown_span((0.0, 100.0), (-1.0, 105.0)) == (-1.0, 105.0)


def test_a_line_at_the_edge_of_its_range_is_not_cut_off(qtbot: QtBot) -> None:
    chart = LineChart("Accuracy")
    qtbot.addWidget(chart)
    chart.resize(400, 300)
    chart.show()
    chart.set_series([Series("share", "share", "#123456")])
    table = Columns("step")
    for n, share in enumerate((0.0, 1.0)):
        table.append({"step": n, "share": share})
    chart.draw(table)
    low, high = chart.plot.box.viewRange()[1]
    assert low < 0.0
    assert high > 1.0


def test_durations_have_round_minutes(qtbot: QtBot) -> None:
    axis = NumberAxis("bottom")
    axis.durations = True
    for span, expected in ((700.0, 60), (60.0, 5), (7 * 3600.0, 1800), (20.0, 2)):
        [(spacing, _offset)] = axis.tickSpacing(0.0, span, 1000.0)
        assert spacing == expected, span
    axis.durations = False
    assert len(axis.tickSpacing(0.0, 700.0, 1000.0)) > 1


def test_names_above_a_matrix_fit(qtbot: QtBot) -> None:
    matrix = MatrixView("Confusion", diverging=False, numbers=True, labels=("ALLOW", "ESCALATION", "DENY"))
    qtbot.addWidget(matrix)
    matrix.resize(420, 150)
    left, top, wide, high = matrix._geometry(3, 3)
    assert wide >= matrix.fontMetrics().horizontalAdvance("ESCALATION")
    assert left + 3 * wide < matrix.width(), "with its frame"
    assert top + 3 * high < matrix.height()
    plain = MatrixView("R_safe")
    qtbot.addWidget(plain)
    plain.resize(420, 150)
    _left, _top, wide, high = plain._geometry(8, 8)
    assert wide == high, "rotations have square cells"


def test_the_list_of_keys_names_as_many_pages_as_there_are(window: MainWindow) -> None:
    assert shortcuts()[0][0] == f"Ctrl+1 … Ctrl+{len(window.pages.specs)}"


def test_results_have_names_in_words() -> None:
    assert result_name("evaluation.test.after.task_accuracy") == "test · after · task accuracy"
    assert result_name("alpha_converged_at") == "α within 0.01 of φ from step"
    assert result_name("unheard_of.loss") == "unheard_of · loss"


def test_what_is_no_run_is_told_where_it_is_seen(window: MainWindow, tmp_path: Path) -> None:
    window.show_page("about")
    assert not window.open_run(tmp_path)
    assert window.run_page.message.isVisible()


@pytest.mark.parametrize("tab", [0, 1, 2, 4, 6, 7])
def test_instruments_scroll_where_the_window_is_low(
    window: MainWindow, qtbot: QtBot, tmp_path: Path, demo_config: Config, tab: int
) -> None:
    """With the least window that there is, and a message above: no instrument lies on another."""
    run = recorded_run(demo_config, tmp_path / "run", 40)
    model = RunModel()
    model.digest(run.read_events())
    page = window.run_page
    window.resize(window.minimumSize())
    page.message.show_message("good", "α is there.")
    page.view.bind(model, run.path)
    window.show_page("run")
    page.view.tabs.setCurrentIndex(tab)
    page.view.restore(page.view.view_state())
    settle()
    area = page.view.tabs.widget(tab)
    assert isinstance(area, QScrollArea)
    inside = area.widget()

    def fits() -> bool:
        least = inside.minimumSizeHint()
        return inside.height() >= least.height() and inside.width() >= least.width()

    # Readings that need another line ask for it in a turn of their own.
    qtbot.waitUntil(fits, timeout=5000)


def test_samples_have_no_picker_before_there_are_any(window: MainWindow, qtbot: QtBot) -> None:
    panel = window.run_page.view.samples
    window.show_page("run")
    window.run_page.view.tabs.setCurrentIndex(6)
    settle()
    assert panel.nothing.isVisible()
    assert not panel.slider.isVisible()
    assert not panel.prompts.isVisible()


def test_one_evaluation_is_drawn_over_whole_steps(qtbot: QtBot) -> None:
    chart = LineChart("Held-out loss")
    qtbot.addWidget(chart)
    chart.resize(500, 300)
    chart.show()
    chart.set_series([Series("loss", "loss", "#123456", points=True)])
    model = RunModel()
    model.digest([step(1, 3, START, loss=2.0)])
    chart.draw(model.steps)
    low, high = chart.plot.box.viewRange()[0]
    assert high - low >= 10
    np.testing.assert_allclose(low, 0.9)
