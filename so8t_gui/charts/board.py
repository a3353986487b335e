"""Charts as panels: moved, hidden, floating, arranged as a person left them; one axis, cursor and region."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QByteArray, QSize, Qt, QTimer
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QComboBox,
    QDockWidget,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QMenu,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_gui.charts.chart_link import ZOOM, ChartLink
from so8t_gui.charts.chart_menu import ChartMenu
from so8t_gui.charts.line_chart import LineChart
from so8t_gui.charts.statistics_table import StatisticsTable
from so8t_gui.models.clock import format_duration
from so8t_gui.models.run_model import RunModel
from so8t_gui.preferences import Preferences

LAYOUT_VERSION = 1
NEWEST = (100, 1_000, 10_000)
STATISTICS_MS = 60
Features = QDockWidget.DockWidgetFeature


class ChartBoard(QWidget):
    """A row of choices above an area of panels.

    Args:
        name: under which the arrangement is kept.
        rows: the charts by name, as they stand at first.
    """

    def __init__(
        self,
        name: str,
        rows: list[dict[str, LineChart]],
        preferences: Preferences | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._name, self._rows, self._preferences = name, rows, preferences
        self._shown_once = self._placed = False
        self._panels: QByteArray | None = None
        self.model: RunModel | None = None
        self.named = {key: chart for row in rows for key, chart in row.items()}
        self.charts = list(self.named.values())
        self.link = ChartLink(self.charts, self)
        self.area = QMainWindow()
        self.area.setWindowFlags(Qt.WindowType.Widget)
        self.area.setDockNestingEnabled(True)
        self.area.setContextMenuPolicy(Qt.ContextMenuPolicy.NoContextMenu)
        self.docks: dict[LineChart, QDockWidget] = {}
        for key, chart in self.named.items():
            self.docks[chart] = self._make_dock(key, chart)
        self.statistics = StatisticsTable()
        self.statistics_dock = QDockWidget(_("Statistics of the region"))
        self.statistics_dock.setObjectName("statistics")
        self.statistics_dock.setFeatures(Features.DockWidgetMovable | Features.DockWidgetFloatable)
        self.statistics_dock.setWidget(self.statistics)
        self.area.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, self.statistics_dock)
        self.statistics_dock.hide()
        self._statistics_later = QTimer(self, singleShot=True, interval=STATISTICS_MS)
        self._statistics_later.timeout.connect(self._fill_statistics)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(self._header())
        layout.addWidget(self.area, 1)
        self.arrange()
        self._restore()
        # Only now: panels that have never been laid out would be kept as if they were nowhere.
        for chart in self.charts:
            chart.options_changed.connect(self._keep)
        self.link.hovered.connect(self._show_place)
        self.link.region_changed.connect(lambda _region: self._statistics_later.start())
        self.link.following_changed.connect(self._show_following)
        self._keys()

    def preparations(self) -> list[Callable[[], object]]:
        """What the first drawing would else wait for, in pieces of some 30 ms."""
        return [chart.prepare for chart in self.charts]

    def _make_dock(self, key: str, chart: LineChart) -> QDockWidget:
        ChartMenu(chart)
        dock = QDockWidget(chart.title_text)
        dock.setObjectName(key)
        dock.setFeatures(
            Features.DockWidgetMovable | Features.DockWidgetFloatable | Features.DockWidgetClosable
        )
        dock.setTitleBarWidget(chart.detach_header())
        dock.setWidget(chart)
        return dock

    def _header(self) -> QHBoxLayout:
        self.axis = QComboBox()
        self.axis.addItem(_("Steps"), "step")
        self.axis.addItem(_("Working time"), "elapsed")
        self.axis.setAccessibleName(_("Horizontal axis"))
        self.axis.setToolTip(_("What the charts run over. Pauses are left out of the working time."))
        self.axis.currentIndexChanged.connect(self._change_axis)
        label = QLabel(_("&Horizontal axis"))
        label.setBuddy(self.axis)
        self.span = QComboBox()
        self.span.setAccessibleName(_("Part shown"))
        self.span.setToolTip(_("Which steps the charts follow."))
        self.span.addItem(_("Whole run"), None)
        for count in NEWEST:
            self.span.addItem(_("Newest %(count)s steps") % {"count": f"{count:,}"}, count)
        self.span.currentIndexChanged.connect(self._change_span)
        self.place = QLabel()
        self.place.setObjectName("muted")
        self.place.setTextFormat(Qt.TextFormat.PlainText)
        self.place.setAccessibleName(_("Place of the cursor"))
        self.region = QPushButton(_("Re&gion"))
        self.region.setCheckable(True)
        self.region.setToolTip(_("Mark a part in every chart and see the figures of each series in it."))
        self.region.toggled.connect(self._toggle_region)
        self.panels = QPushButton(_("&Panels"))
        self.panels.setToolTip(_("Show and hide panels; drag a panel by its title to move it."))
        menu = QMenu(self.panels)
        menu.aboutToShow.connect(lambda: self._fill_panels(menu))
        self.panels.setMenu(menu)
        self.reset = QPushButton(_("Show everything"))
        self.reset.setToolTip(_("Undo zooming and moving in every chart; they follow the run again."))
        self.reset.clicked.connect(self.show_everything)
        row = QHBoxLayout()
        for widget in (label, self.axis, self.span, self.place):
            row.addWidget(widget, 1 if widget is self.place else 0)
        for button in (self.region, self.panels, self.reset):
            row.addWidget(button)
        return row

    def _keys(self) -> None:
        for keys, slot in (
            ("Ctrl++", lambda: self.link.zoom(1 / ZOOM)),
            ("Ctrl+=", lambda: self.link.zoom(1 / ZOOM)),
            ("Ctrl+-", lambda: self.link.zoom(ZOOM)),
            ("Ctrl+0", self.show_everything),
            ("Ctrl+Shift+Left", lambda: self.link.move(-0.25)),
            ("Ctrl+Shift+Right", lambda: self.link.move(0.25)),
            ("Ctrl+,", lambda: self._move_cursor(-1)),
            ("Ctrl+;", lambda: self._move_cursor(1)),
            ("Ctrl+Shift+R", self.region.toggle),
        ):
            shortcut = QShortcut(QKeySequence(keys), self, slot)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)

    def _move_cursor(self, rows: int) -> None:
        if self.model is not None:
            self.link.move_cursor(rows, self.model.steps, self.axis.currentData())

    # Arrangement

    def arrange(self) -> None:
        """The panels in rows, as at first."""
        previous: QDockWidget | None = None
        rows = [[self.docks[chart] for chart in row.values()] for row in self._rows]
        for row in rows:
            if previous is None:
                self.area.addDockWidget(Qt.DockWidgetArea.TopDockWidgetArea, row[0])
            else:
                self.area.splitDockWidget(previous, row[0], Qt.Orientation.Vertical)
            previous = row[0]
        for row in rows:
            for left, right in itertools.pairwise(row):
                self.area.splitDockWidget(left, right, Qt.Orientation.Horizontal)
        for row in rows:
            for dock in row:
                dock.setFloating(False)
                dock.show()
            self.area.resizeDocks(row, [100] * len(row), Qt.Orientation.Horizontal)
        self.area.resizeDocks([row[0] for row in rows], [100] * len(rows), Qt.Orientation.Vertical)

    def _fill_panels(self, menu: QMenu) -> None:
        menu.clear()
        for dock in self.docks.values():
            menu.addAction(dock.toggleViewAction())
        menu.addSeparator()
        menu.addAction(_("Arrange as at &first")).triggered.connect(lambda _on=False: self.arrange())

    def arrangement(self) -> dict[str, Any]:
        """What a person has chosen here: panels and options of the charts."""
        options = {
            key: {
                "smoothing": chart.options.smoothing,
                "log": chart.options.log,
                "robust": chart.options.robust,
                "hidden": sorted(chart.options.hidden),
            }
            for key, chart in self.named.items()
        }
        state = self.area.saveState(LAYOUT_VERSION).toBase64().toStdString()
        return {"panels": state, "charts": options}

    def _keep(self) -> None:
        if self._preferences is not None and self._placed:
            self._preferences.set_board(self._name, self.arrangement())

    def _restore(self) -> None:
        held = self._preferences.board(self._name) if self._preferences is not None else {}
        panels = held.get("panels")
        self._panels = QByteArray.fromBase64(panels.encode()) if isinstance(panels, str) else None
        charts = held.get("charts")
        for key, options in charts.items() if isinstance(charts, dict) else ():
            chart = self.named.get(key)
            if chart is not None and isinstance(options, dict):
                chart.take_options(options)

    def showEvent(self, event: Any) -> None:  # noqa: ANN401
        super().showEvent(event)
        if not self._shown_once:
            self._shown_once = True
            # Qt loses panels that do not fit while the area has no size yet.
            QTimer.singleShot(0, self, self._place_panels)

    def _place_panels(self) -> None:
        if self._panels is not None:
            self.area.restoreState(self._panels, LAYOUT_VERSION)
        self.statistics_dock.setVisible(self.region.isChecked())
        self._placed = True

    def hideEvent(self, event: Any) -> None:  # noqa: ANN401
        super().hideEvent(event)
        self._keep()

    def sizeHint(self) -> QSize:
        return QSize(900, 500)

    # Choices above the panels

    def _change_axis(self) -> None:
        for chart in self.charts:
            chart.set_x(self.axis.currentData())
        self.region.setChecked(False)
        self.link.follow()
        self.redraw()

    def _change_span(self) -> None:
        self.link.newest = self.span.currentData()
        self.link.follow()
        self.redraw()

    def show_everything(self) -> None:
        """Follow the run in every chart."""
        self.link.follow()
        self.redraw()

    def redraw(self) -> None:
        """Draw the model again, if there is one."""
        if self.model is not None:
            self.draw(self.model)

    def draw(self, model: RunModel) -> None:
        """Draw what the model holds."""
        raise NotImplementedError

    def _show_following(self, following: bool) -> None:
        self.reset.setProperty("role", "" if following else "primary")
        self.reset.style().polish(self.reset)

    def _show_place(self, x: float | None) -> None:
        if x is None:
            self.place.setText("")
            return
        if self.axis.currentData() == "elapsed":
            text = _("cursor at %(time)s") % {"time": format_duration(x)}
        else:
            text = _("cursor at step %(step)d") % {"step": round(x)}
        self.place.setText(text)

    def _toggle_region(self, on: bool) -> None:
        if on:
            low, high = self.link.span()
            third = (high - low) / 3
            self.link.set_region((low + third, high - third))
        else:
            self.link.set_region(None)
        self.statistics_dock.setVisible(on)

    def _fill_statistics(self) -> None:
        if self.link.region is not None:
            self.statistics.show_region(self.charts, *self.link.region)
