"""What waits until the window is seen, and what waits until a person's wish is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.models.buffers import Columns
from so8t_gui.page_stack import PageSpec, PageStack

#: Prints what is imported and which plots there are at the first painting, and when the pages stand.
STARTED = """
import json, sys
from pathlib import Path
from so8t_gui.entry import prepare
prepare()
from so8t_gui.benchmark.measures import _FirstPaint, make_window, wait_until
app, window = make_window(Path(sys.argv[1]))
seen, done = _FirstPaint(), []
window.pages.complete.connect(lambda: done.append(True))
window.installEventFilter(seen)
window.show()
wait_until(lambda: bool(seen.painted_at), 60)
board = window.run_page.view.overview
def told():
    return {
        "imported": "pyqtgraph" in sys.modules,
        "plots": sum(chart._plot is not None for chart in board.charts),
        "places": [chart.mapTo(window, chart.rect().topLeft()).toTuple() for chart in board.charts]
        + [chart.size().toTuple() for chart in board.charts],
        "built": [spec.name for spec in window.pages.specs if window.pages.is_built(spec.name)],
    }
first = told()
wait_until(lambda: bool(done), 120)
app.processEvents()
print(json.dumps([first, told()]))
sys.stdout.flush()
import os
os._exit(0)
"""


def test_the_first_painting_waits_for_no_plot_and_nothing_moves_when_they_come(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTED, str(tmp_path)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, later = json.loads(done.stdout.strip().splitlines()[-1])
    assert (first["imported"], first["plots"], first["built"]) == (False, 0, ["run"])
    assert (later["imported"], later["plots"]) == (True, 8)
    assert "settings" in later["built"]
    assert later["places"] == first["places"]


def _table() -> Columns:
    table = Columns()
    for number in range(1, 51):
        table.append({"step": number, "elapsed": number * 0.5, "loss": 2.0 / number})
    return table


def test_what_a_chart_was_told_before_its_plot_is_in_it(qtbot: QtBot) -> None:
    chart = LineChart("Loss", log=True)
    qtbot.addWidget(chart)
    chart.resize(500, 300)
    chart.set_series([Series("loss", "training", "#123456"), Series("step", "step", "#654321")])
    chart.set_options(hidden={"step"})
    chart.add_level(0.5, "half", "#00ff00")
    chart.set_x("elapsed")
    chart.set_cursor(4.0)
    chart.show_span(3.0, 9.0, by_hand=True)
    chart.show()
    chart.draw(Columns())
    assert chart._plot is None, "nothing is to be drawn yet"
    chart.draw(_table())
    assert chart._plot is not None
    assert chart._stack.currentWidget() is chart.plot
    qtbot.waitUntil(lambda: chart.plot.width() == chart._empty.width())  # laid out
    bottom, left = (chart.plot.getPlotItem().getAxis(side) for side in ("bottom", "left"))
    assert (bottom.labelText, bottom.durations, left.logMode) == ("time", True, True)
    assert [line.value() for line in chart.level_lines] == [0.5]
    assert chart._items["loss"].isVisible()
    assert not chart._items["step"].isVisible()
    assert chart.plot._cursor is not None
    assert chart.plot._cursor.value() == 4.0
    assert chart.plot.box.viewRange()[0] == [3.0, 9.0]
    assert len(chart._items["loss"].getOriginalDataset()[0]) < 20, "the part that was asked for"
    chart.show_whole()
    assert len(chart._items["loss"].getOriginalDataset()[0]) == 50
    chart.dispose()


def test_a_chart_without_a_plot_can_be_shown_whole_and_taken_apart(qtbot: QtBot) -> None:
    chart = LineChart("Loss")
    qtbot.addWidget(chart)
    chart.show_span(1.0, 2.0, by_hand=True)
    assert not chart.follows
    chart.show_whole()
    assert chart.follows
    chart.set_region(None)
    chart.dispose()
    assert chart._plot is None


def test_small_pieces_come_before_pages_and_nothing_is_built_while_somebody_waits(qtbot: QtBot) -> None:
    order: list[str] = []

    def maker(name: str) -> PageSpec:
        def make() -> QWidget:
            order.append(name)
            return QWidget()

        return PageSpec(name, name, make)

    stack = PageStack([maker("one"), maker("two")])
    qtbot.addWidget(stack)
    waiting = True
    stack.busy = lambda: waiting
    stack.build_when_idle([lambda: order.append("piece"), lambda: order.append("another")])
    qtbot.wait(150)
    assert order == []
    waiting = False
    with qtbot.waitSignal(stack.complete, timeout=5000):
        pass
    assert order == ["piece", "another", "one", "two"]
