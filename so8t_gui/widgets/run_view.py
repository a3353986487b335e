"""Everything that is shown of one run, live or past: charts, instruments, results, log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QScrollArea,
    QSplitter,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_gui.alignment import LEFT
from so8t_gui.charts.gate_panel import GatePanel
from so8t_gui.charts.line_chart import LineChart
from so8t_gui.charts.memory_panel import MemoryPanel
from so8t_gui.charts.overview import OverviewBoard
from so8t_gui.models.names import FACTS, fact_value, shown
from so8t_gui.models.run_model import RunModel
from so8t_gui.preferences import Preferences
from so8t_gui.widgets.empty_note import EmptyNote
from so8t_gui.widgets.log_pane import LogPane

# Each is imported when its tab is first looked at.
if TYPE_CHECKING:
    from so8t_gui.charts.evaluation_panel import EvaluationPanel
    from so8t_gui.charts.rotation_panel import RotationPanel
    from so8t_gui.charts.samples_panel import SamplesPanel
    from so8t_gui.charts.threshold_panel import ThresholdPanel
    from so8t_gui.widgets.report_view import ReportView


REDRAW_MS = 50
#: Of the window's time that drawing may take: after a costly redrawing it rests the longer.
SHARE = 0.2
MOST_MS = 1000
#: Between two pieces of one redrawing: the window hears keys and the pointer there.
PIECE_MS = 4


class _Holder(QWidget):
    """Instruments that are drawn as small as they allow. Asked for a height for its width, as layouts with
    texts that wrap are, a scrolling area would give them the height that they like best."""

    def hasHeightForWidth(self) -> bool:
        return False


def scrolled(holder: _Holder, name: str) -> QScrollArea:
    """``holder`` in an area that scrolls where there is less room than it needs: nothing lies on another."""
    inside = QWidget()
    layout = QVBoxLayout(inside)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(holder)
    area = QScrollArea()
    area.setAccessibleName(name)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setWidget(inside)
    return area


class RunView(QWidget):
    """Draws a `RunModel` at most twenty times a second, only what is visible, only when it changed.

    Where a redrawing takes long, on a slow computer or a large screen, it comes less often.
    """

    def __init__(self, preferences: Preferences | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._waiting: deque[Callable[[], None]] = deque()
        self._once_more = False
        self._rest_ms, self._began, self._plots = REDRAW_MS, 0.0, 0
        self.model = RunModel()
        self.folder: Path | None = None
        self.redraws = 0
        self.overview = OverviewBoard(preferences)
        self.facts = QTableWidget(0, 2)
        self.facts.setAccessibleName(_("Facts about the run"))
        self.facts.setHorizontalHeaderLabels([_("Fact"), _("Value")])
        self.facts.verticalHeader().hide()
        self.facts.setShowGrid(False)
        self.facts.setAlternatingRowColors(True)
        self.facts.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.facts.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.facts.horizontalHeader().setStretchLastSection(True)
        self.facts.horizontalHeader().setDefaultAlignment(LEFT)
        EmptyNote(self.facts, _("The facts stand here once a run has loaded its model and rows."))
        self._charts = _Holder()
        self._so8t, self._evaluation, self._memory = _Holder(), _Holder(), _Holder()
        self._report = QWidget()
        self._samples, self._thresholds = _Holder(), _Holder()
        for holder, layout in (
            (self._charts, QVBoxLayout(self._charts)),
            (self._so8t, QHBoxLayout(self._so8t)),
            (self._evaluation, QVBoxLayout(self._evaluation)),
            (self._memory, QVBoxLayout(self._memory)),
            (self._report, QVBoxLayout(self._report)),
            (self._samples, QVBoxLayout(self._samples)),
            (self._thresholds, QVBoxLayout(self._thresholds)),
        ):
            layout.setContentsMargins(0, 8 if holder is self._so8t else 0, 0, 0)
            layout.setSpacing(8)
        whole = self._charts.layout()
        assert whole is not None
        whole.addWidget(self.overview)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(_("Views of the run"))
        self.tabs.tabBar().setAccessibleName(_("Views of the run"))
        self.tabs.tabBar().setDrawBase(False)
        for widget, title in (
            (self._charts, _("Training")),
            (self._so8t, _("Gate and rotations")),
            (self._evaluation, _("Evaluation")),
            (self.facts, _("Facts")),
            (self._memory, _("Memory")),
            (self._report, _("Report")),
            (self._samples, _("Samples")),
            (self._thresholds, _("Thresholds")),
        ):
            self.tabs.addTab(scrolled(widget, title) if isinstance(widget, _Holder) else widget, title)
        self.tabs.setTabVisible(5, False)
        self.tabs.currentChanged.connect(self._redraw)
        self.log = LogPane()
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.addWidget(self.tabs)
        self.splitter.addWidget(self.log)
        self.splitter.setStretchFactor(0, 5)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([620, 130])
        self.splitter.setChildrenCollapsible(False)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.splitter)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(REDRAW_MS)
        self._timer.timeout.connect(self._draw_piece)

    @cached_property
    def gate(self) -> GatePanel:
        """Built when its tab is first looked at, as the others are: the window opens sooner."""
        panel = GatePanel()
        layout = self._so8t.layout()
        assert isinstance(layout, QHBoxLayout)
        layout.insertWidget(0, panel, 2)
        return panel

    @cached_property
    def rotations(self) -> RotationPanel:
        """R_safe, R_cmd and M."""
        from so8t_gui.charts.rotation_panel import RotationPanel

        panel = RotationPanel()
        layout = self._so8t.layout()
        assert isinstance(layout, QHBoxLayout)
        layout.addWidget(panel, 3)
        return panel

    @cached_property
    def evaluation(self) -> EvaluationPanel:
        """What was measured on held-out rows."""
        from so8t_gui.charts.evaluation_panel import EvaluationPanel

        panel = EvaluationPanel()
        layout = self._evaluation.layout()
        assert layout is not None
        layout.addWidget(panel)
        return panel

    @cached_property
    def memory(self) -> MemoryPanel:
        """Memory against limit and prediction, and the card."""
        panel = MemoryPanel()
        layout = self._memory.layout()
        assert layout is not None
        layout.addWidget(panel)
        return panel

    @cached_property
    def report(self) -> ReportView:
        """What ``so8t evaluate`` wrote about the run."""
        from so8t_gui.widgets.report_view import ReportView

        view = ReportView()
        layout = self._report.layout()
        assert layout is not None
        layout.addWidget(view)
        return view

    def _evaluated(self) -> Path | None:
        """The folder of the run's evaluation, where there is one."""
        folder = None if self.folder is None else self.folder / "evaluation"
        return folder if folder is not None and (folder / "report.json").is_file() else None

    @cached_property
    def samples(self) -> SamplesPanel:
        """What the model wrote during training."""
        from so8t_gui.charts.samples_panel import SamplesPanel

        panel = SamplesPanel()
        layout = self._samples.layout()
        assert layout is not None
        layout.addWidget(panel)
        return panel

    @cached_property
    def thresholds(self) -> ThresholdPanel:
        """What thresholds of the decision rule would have done."""
        from so8t_gui.charts.threshold_panel import ThresholdPanel

        panel = ThresholdPanel()
        layout = self._thresholds.layout()
        assert layout is not None
        layout.addWidget(panel)
        return panel

    def bind(self, model: RunModel, folder: Path | None) -> None:
        """Show another run."""
        self.model, self.folder = model, folder
        self.tabs.setTabVisible(5, self._evaluated() is not None)
        self.poke()

    def poke(self) -> None:
        """New data came; draw soon."""
        if self._waiting:
            # Pieces of this redrawing may be drawn already without what has come now.
            self._once_more = True
        elif not self._timer.isActive() and self.isVisible():
            self._timer.start(self._rest_ms)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.tabs.setTabVisible(5, self._evaluated() is not None)
        self._redraw()

    def _redraw(self) -> None:
        """Draw everything that is visible, at once."""
        if not self.isVisible():
            return
        self._waiting.clear()
        self.redraws += 1
        for part in self._parts():
            part()

    def _draw_piece(self) -> None:
        """Draw the next piece; the last one ends the redrawing."""
        if not self.isVisible():
            self._waiting.clear()
            return
        if not self._waiting:
            self.redraws += 1
            self._began, self._plots = time.thread_time(), LineChart.plots_shown
            self._waiting.extend(self._parts())
        self._waiting.popleft()()
        if self._waiting:
            self._timer.start(PIECE_MS)
            return
        # With what was painted between the pieces.
        spent_ms = (time.thread_time() - self._began) * 1e3
        if self._plots != LineChart.plots_shown:
            spent_ms = 0.0  # charts were empty before: the next redrawing takes nothing like it
        self._rest_ms = round(min(MOST_MS, max(REDRAW_MS, spent_ms * (1 / SHARE - 1))))
        if self._once_more:
            self._once_more = False
            self._timer.start(self._rest_ms)

    def _parts(self) -> Iterator[Callable[[], None]]:
        index = self.tabs.currentIndex()
        if index == 0:
            yield from self.overview.parts(self.model)
        elif index == 1:
            yield lambda: self.gate.draw(self.model, self.folder)
            yield lambda: self.rotations.draw(self.model, self.folder)
        elif index == 2:
            yield lambda: self.evaluation.draw(self.model)
        elif index == 3:
            yield self._draw_facts
        elif index == 4:
            yield lambda: self.memory.draw(self.model)
        elif index == 5:
            yield self._draw_report
        elif index == 6:
            yield lambda: self.samples.draw(self.model)
        else:
            yield lambda: self.thresholds.draw(self.folder, ended=self.model.ended)
        yield lambda: self.log.draw(self.model.log)

    def _draw_report(self) -> None:
        self.report.load(self._evaluated())

    def _draw_facts(self) -> None:
        facts = self.model.facts
        self.facts.setRowCount(len(facts))
        for row, (name, value) in enumerate(facts.items()):
            for column, cell in enumerate((shown(name, FACTS), fact_value(value))):
                item = self.facts.item(row, column)
                if item is None or item.text() != cell:
                    self.facts.setItem(row, column, QTableWidgetItem(cell))

    def shut_down(self) -> None:
        """End what runs for this view."""
        if "thresholds" in self.__dict__:
            self.thresholds.shut_down()

    def view_state(self) -> dict[str, Any]:
        """What a person has chosen here, to be restored after a change of language or theme."""
        return {
            "tab": self.tabs.currentIndex(),
            "axis": self.overview.axis.currentIndex(),
            "block": self.rotations.block.value() if "rotations" in self.__dict__ else 0,
            "level": self.log.level.currentIndex(),
            "splitter": self.splitter.sizes(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo the loss of `view_state`."""
        self.tabs.setCurrentIndex(state["tab"])
        self.overview.axis.setCurrentIndex(state["axis"])
        self.log.level.setCurrentIndex(state["level"])
        self.splitter.setSizes(state["splitter"])
        self._redraw()
        if state["block"]:
            self.rotations.draw(self.model, self.folder)
            self.rotations.block.setValue(state["block"])
