"""A chart's plot and what is drawn in it. Imported with the first plot: pyqtgraph takes its time."""

from __future__ import annotations

import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.axis import NumberAxis
from so8t_gui.charts.plot import Plot
from so8t_gui.charts.series import Series

pg.setConfigOptions(antialias=False, useOpenGL=False)


def make_plot(title: str, *, log: bool) -> Plot:
    """An empty drawing surface with its axes."""
    plot = Plot({"bottom": NumberAxis("bottom"), "left": NumberAxis("left")})
    plot.setBackground(theme.current()["surface"])
    plot.hideButtons()
    plot.showGrid(x=True, y=True, alpha=0.18)
    plot.getPlotItem().getAxis("left").setLogMode(log)
    plot.setFrameShape(QFrame.Shape.NoFrame)
    plot.setAccessibleName(title)
    # The menu's button is the chart's stop for the keyboard; the plot itself does nothing with keys.
    plot.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    plot.viewport().setFocusPolicy(Qt.FocusPolicy.NoFocus)
    plot.setToolTip(_("Wheel zooms, dragging moves, double click shows everything."))
    return plot


def make_line(plot: Plot, one: Series) -> pg.PlotDataItem:
    """A series' line, without points yet."""
    style = Qt.PenStyle.DashLine if one.dashed else Qt.PenStyle.SolidLine
    item = pg.PlotDataItem(pen=pg.mkPen(one.colour, width=1, style=style), connect="finite")
    plot.addItem(item, ignoreBounds=True)
    return item


def make_level(plot: Plot, value: float, label: str, colour: str) -> pg.InfiniteLine:
    """A horizontal line with a name."""
    line = pg.InfiniteLine(
        pos=value,
        angle=0,
        pen=pg.mkPen(colour, width=1, style=Qt.PenStyle.DashLine),
        label=label,
        labelOpts={"position": 0.05, "color": colour, "anchors": [(0, 0), (0, 0)]},
    )
    plot.addItem(line, ignoreBounds=True)
    return line


def make_region(plot: Plot) -> pg.LinearRegionItem:
    """A marked part of the horizontal axis."""
    colour = theme.current().colour("accent")
    colour.setAlpha(40)
    region = pg.LinearRegionItem(brush=colour, hoverBrush=colour)
    region.setZValue(-10)
    plot.addItem(region, ignoreBounds=True)
    return region
