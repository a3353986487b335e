"""The menu behind each chart's title: smoothing, axis, series, full screen, export."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QActionGroup, QGuiApplication, QKeySequence, QShortcut
from PySide6.QtWidgets import QDialog, QFileDialog, QMenu, QMessageBox, QToolButton, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts import export
from so8t_gui.charts.line_chart import LineChart
from so8t_gui.icons import icon

SMOOTHING = (0.0, 0.6, 0.9, 0.97, 0.99)


class ChartMenu(QToolButton):
    """A button in the chart's header. Its menu is filled when it is opened: a window has many charts."""

    def __init__(self, chart: LineChart) -> None:
        super().__init__(chart)
        self._chart = chart
        self.setIcon(icon("more", theme.current()["muted"]))
        self.setAutoRaise(True)
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setToolTip(_("Smoothing, axis, series, full screen, export"))
        self.setAccessibleName(_("Menu of the chart %(title)s") % {"title": chart.title_text})
        self._menu = QMenu(self)
        self._menu.aboutToShow.connect(self.fill)
        self.setMenu(self._menu)
        chart.add_to_header(self)

    def fill(self) -> None:
        """Write the entries as things stand."""
        menu, chart = self._menu, self._chart
        menu.clear()
        smoothing = menu.addMenu(_("&Smoothing"))
        group = QActionGroup(smoothing)
        for factor in SMOOTHING:
            action = self._check(smoothing, f"{factor:g}" if factor else _("None"))
            action.setChecked(factor == chart.options.smoothing)
            action.triggered.connect(lambda _on=False, f=factor: chart.set_options(smoothing=f))
            group.addAction(action)
        log = self._check(menu, _("&Logarithmic values"))
        log.setChecked(chart.options.log)
        log.toggled.connect(lambda on: chart.set_options(log=on))
        robust = self._check(menu, _("Let &outliers leave the range"))
        robust.setChecked(chart.options.robust)
        robust.toggled.connect(lambda on: chart.set_options(robust=on))
        if len(chart.series) > 1:
            series = menu.addMenu(_("S&eries"))
            for one in chart.series:
                action = self._check(series, one.label)
                action.setChecked(one.id not in chart.options.hidden)
                action.toggled.connect(lambda _on, name=one.id: chart.toggle_series(name))
        menu.addSeparator()
        for text, slot in (
            (_("&Full screen"), self.full_screen),
            (_("Show &everything"), chart.show_whole),
            (_("&Copy picture"), self._copy_picture),
            (_("Copy &numbers"), self._copy_numbers),
            (_("E&xport as PNG, SVG or CSV…"), self._export),
        ):
            menu.addAction(text).triggered.connect(lambda _on=False, s=slot: s())

    @staticmethod
    def _check(menu: QMenu, text: str) -> QAction:
        # An ampersand in a series' name is none for the keyboard.
        action = QAction(text, menu, checkable=True)
        menu.addAction(action)
        return action

    def full_screen(self) -> None:
        """A copy that fills the screen and is drawn along with the chart."""
        FullScreenChart(self._chart, self.window()).showFullScreen()

    def _copy_picture(self) -> None:
        QGuiApplication.clipboard().setPixmap(export.picture(self._chart))

    def _copy_numbers(self) -> None:
        QGuiApplication.clipboard().setText(export.numbers(self._chart, "\t"))

    def _export(self) -> None:
        filters = [_("Picture (*.png)"), _("Drawing (*.svg)"), _("Table (*.csv)")]
        name, chosen = QFileDialog.getSaveFileName(
            self.window(), _("Export the chart"), f"{self._chart.title_text}.png", ";;".join(filters)
        )
        if not name:
            return
        path = Path(name)
        if not path.suffix:
            path = path.with_suffix((".png", ".svg", ".csv")[filters.index(chosen)])
        try:
            export.write(self._chart, path)
        except OSError as error:
            box = QMessageBox(self.window())
            box.setTextFormat(Qt.TextFormat.PlainText)
            box.setIcon(QMessageBox.Icon.Warning)
            box.setText(
                _("%(path)s cannot be written: %(reason)s.")
                % {"path": str(path), "reason": error.strerror or str(error)}
            )
            box.open()


class FullScreenChart(QDialog):
    """Shows what another chart shows, until Esc or F11."""

    def __init__(self, chart: LineChart, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(chart.title_text)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._source = chart
        self.chart = LineChart(chart.title_text, log=chart.options.log, robust=chart.options.robust)
        self.chart.options = chart.options
        ChartMenu(self.chart)
        layout = QVBoxLayout(self)
        layout.addWidget(self.chart)
        for level in chart.levels():
            self.chart.add_level(*level)
        self.chart.set_marks(chart.marks)
        self.chart.set_x(chart.along)
        self.chart.hovered.connect(self.chart.set_cursor)
        chart.drawn.connect(self.follow)
        QShortcut(QKeySequence("F11"), self, self.close)
        self.follow()

    def follow(self) -> None:
        """Draw what the other chart has drawn."""
        self.chart.set_series(self._source.series)
        self.chart.draw_from(self._source.sources())

    def done(self, result: int) -> None:
        self._source.drawn.disconnect(self.follow)
        self.chart.dispose()
        super().done(result)
