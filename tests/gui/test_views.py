"""Charts, log and messages show what the model holds: gaps, dashes and plain text included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot
from recorded_runs import START, events_of_a_run, gate, recorded_run, state, step

from so8t_engine.config import Config
from so8t_engine.config.training import PHI
from so8t_engine.training.events import MemoryEvent, WarningEvent
from so8t_engine.training.states import State
from so8t_gui.charts.axis import short_number
from so8t_gui.charts.evaluation_panel import EvaluationPanel
from so8t_gui.charts.gate_panel import GatePanel
from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.charts.overview import OverviewBoard
from so8t_gui.charts.rotation_panel import RotationPanel
from so8t_gui.models.log import MAX_LINES, Level, RunLog
from so8t_gui.models.run_model import RunModel
from so8t_gui.widgets.log_pane import LogPane
from so8t_gui.widgets.message_bar import MessageBar
from so8t_gui.widgets.run_view import MOST_MS, REDRAW_MS, RunView


def test_a_chart_draws_thin_reduced_lines_with_gaps(qtbot: QtBot) -> None:
    chart = LineChart("Loss")
    qtbot.addWidget(chart)
    chart.set_series([Series("loss", "training", "#123456")])
    model = RunModel()
    losses = [3.0, float("nan"), 2.0]
    model.digest([step(n + 1, 3, START, loss=loss) for n, loss in enumerate(losses)])
    chart.draw(model.steps)
    item = chart._items["loss"]
    assert item.opts["pen"].width() == 1
    assert item.opts["connect"] == "finite"
    assert not item.opts["antialias"]
    np.testing.assert_array_equal(item.getOriginalDataset()[1], losses)


def test_a_missing_newest_reading_is_a_dash(qtbot: QtBot) -> None:
    board = OverviewBoard()
    qtbot.addWidget(board)
    model = RunModel()
    model.digest([step(1, 2, START).model_copy(update={"grad_norm": None})])
    board.draw(model)
    assert "<b>—</b>" in board.norm._legend.text()
    assert "<b>0</b>" not in board.norm._legend.text()


def test_without_a_card_the_memory_chart_says_so(qtbot: QtBot) -> None:
    board = OverviewBoard()
    qtbot.addWidget(board)
    model = RunModel()
    model.digest([step(1, 2, START), MemoryEvent(step=1, process_rss=3 * 2**30, time=START)])
    board.draw(model)
    assert "No NVIDIA card: engine memory shown instead" in board.memory._legend.text()
    assert "<b>3</b>" in board.memory._legend.text()
    model.digest([MemoryEvent(step=1, device_used=2**30, device_total=8 * 2**30, source="nvml")])
    board.draw(model)
    assert "No NVIDIA card" not in board.memory._legend.text()


def test_the_gate_says_scheduled_or_learned(qtbot: QtBot) -> None:
    panel = GatePanel()
    qtbot.addWidget(panel)
    model = RunModel()
    panel.draw(model)
    assert panel.sentence.text() == "No reading of the gate yet."
    model.digest([gate(5, 100, START, "scheduled")])
    panel.draw(model)
    assert panel.sentence.text() == "scheduled: assigned, proves nothing about convergence"
    model.digest([gate(6, 100, START, "learned")])
    panel.draw(model)
    assert panel.sentence.text().startswith("learned:")
    assert "not converged" in panel.sentence.text()
    levels = [item.value() for item in panel.alpha.plot.getPlotItem().items if hasattr(item, "angle")]
    assert PHI in levels


def test_rotations_show_block_and_model_readouts(qtbot: QtBot, tmp_path: Path, demo_config: Config) -> None:
    run = recorded_run(demo_config, tmp_path / "run", 40)
    model = RunModel()
    model.digest(run.read_events())
    panel = RotationPanel()
    qtbot.addWidget(panel)
    panel.draw(model, run.path)
    assert panel.block.maximum() == 5
    first = panel.values["block_c"].text()
    panel.block.setValue(3)
    assert panel.values["block_c"].text() != first
    assert panel.values["max"].text() == "0.2444"
    (run.path / model.snapshots[-1].file).write_bytes(b"torn")  # type: ignore[operator]
    panel._loaded = None
    panel.draw(model, run.path)
    assert "cannot be read" in panel.reason.text()
    assert panel.values["block_c"].text() == "—"


def test_evaluation_shows_confusion_and_baseline(qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "rotations").mkdir()
    model = RunModel()
    model.digest(events_of_a_run(tmp_path, 20))
    panel = EvaluationPanel()
    qtbot.addWidget(panel)
    panel.draw(model)
    table = panel.table
    rows = {
        table.item(r, 0).text(): [table.item(r, c).text() for c in range(1, 5)]
        for r in range(table.rowCount())
    }
    assert rows["task accuracy"] == ["0.2500", "0.8600", "0.7000", "—"]
    assert rows["loss"] == ["3.4000", "1.1000", "—", "—"]
    assert panel.confusion._matrix is not None
    assert panel.confusion._matrix[0, 0] == 44


def test_the_view_redraws_at_most_twenty_times_a_second_and_only_for_new_data(qtbot: QtBot) -> None:
    view = RunView()
    qtbot.addWidget(view)
    model = RunModel()
    view.bind(model, None)
    view.show()
    # As the window does after its first painting.
    for prepare in view.overview.preparations():
        prepare()
    qtbot.wait(200)
    before = view.redraws
    qtbot.wait(300)
    assert view.redraws == before, "nothing new, nothing drawn"
    model.digest([state(State.IDLE, State.LOADING, START)])
    for n in range(1, 101):
        model.digest([step(n, 100, START + n)])
        view.poke()
        qtbot.wait(5)
    assert 1 <= view.redraws - before <= 100 * 5 * 20 / REDRAW_MS
    # After a costly redrawing the view rests, on a busy computer for up to a second.
    drawn = view.overview.loss._items["loss"]
    qtbot.waitUntil(lambda: len(drawn.getOriginalDataset()[0]) == 100, timeout=3 * MOST_MS)
    view.hide()


def test_the_log_is_plain_filtered_and_bounded(qtbot: QtBot) -> None:
    pane = LogPane()
    qtbot.addWidget(pane)
    log = RunLog()
    log.add(START, Level.INFO, "<b>bold?</b> <img src='file:///etc/passwd'>")
    log.add(START, Level.WARNING, "careful")
    pane.draw(log)
    assert "<b>bold?</b>" in pane.text.toPlainText(), "markup is shown, not obeyed"
    pane.level.setCurrentIndex(2)
    assert "bold" not in pane.text.toPlainText()
    assert "careful" in pane.text.toPlainText()
    pane.level.setCurrentIndex(0)
    for n in range(MAX_LINES + 100):
        log.add(START, Level.INFO, f"line {n}")
    pane.draw(log)
    assert pane.text.document().blockCount() <= MAX_LINES
    assert pane.text.toPlainText().endswith(f"line {MAX_LINES + 99}")


def test_messages_are_plain_text(qtbot: QtBot) -> None:
    bar = MessageBar()
    qtbot.addWidget(bar)
    bar.show_message("error", "<img src=x>", "<a href=y>mend</a>")
    assert bar.sentence.textFormat() is Qt.TextFormat.PlainText
    assert bar.mend.textFormat() is Qt.TextFormat.PlainText
    qtbot.mouseClick(bar.dismiss, Qt.MouseButton.LeftButton)
    assert not bar.isVisible()


def test_a_warning_of_the_run_reaches_the_log() -> None:
    model = RunModel()
    model.digest([WarningEvent(kind="disk", sentence="Disk nearly full.", mend="Free some.", time=START)])
    assert model.log.lines[-1].level is Level.WARNING


def test_axis_numbers_are_short() -> None:
    expected = {0: "0", 0.00015: "0.00015", 9999: "9999", 10_000: "10k", 12_500: "12.5k", 2_500_000: "2.5M"}
    assert {value: short_number(value) for value in expected} == expected
    assert short_number(-20_000) == "-20k"
