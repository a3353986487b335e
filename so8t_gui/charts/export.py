"""Charts as pictures and as numbers, on disk and on the clipboard."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QPainter, QPixmap
from PySide6.QtSvg import QSvgGenerator

from so8t_engine.files import write_atomically
from so8t_gui.charts.line_chart import LineChart
from so8t_gui.charts.series import rows_between

SCALE = 2


def picture(chart: LineChart) -> QPixmap:
    """The chart with its readings, at twice the screen's resolution."""
    pixmap = QPixmap(chart.size() * SCALE)
    pixmap.setDevicePixelRatio(SCALE)
    pixmap.fill(Qt.GlobalColor.transparent)
    chart.render(pixmap)
    return pixmap


def write_picture(chart: LineChart, path: Path) -> None:
    """PNG. Raises `OSError` where it cannot be written."""
    if not picture(chart).save(str(path), "PNG"):
        raise OSError(f"{path}")


def write_svg(chart: LineChart, path: Path) -> None:
    """SVG, lines and letters as such. Raises `OSError` where it cannot be written."""
    with path.open("wb"):
        pass  # QSvgGenerator does not say that it could not write
    generator = QSvgGenerator()
    generator.setFileName(str(path))
    generator.setSize(chart.size())
    generator.setViewBox(chart.rect())
    generator.setTitle(chart.title_text)
    painter = QPainter(generator)
    chart.render(painter, QPoint(0, 0))
    painter.end()


def numbers(chart: LineChart, delimiter: str = ",") -> str:
    """The shown series where they are shown, unsmoothed and at full resolution; a missing value is empty.

    Rows are the steps of all series together. Columns: the horizontal axis, then one for each series.
    """
    low, high = chart.plot.box.viewRange()[0]
    parts = []
    for one, table in chart.shown_tables():
        start, stop = rows_between(table, chart.along, low, high)
        parts.append((one.label, table.view(chart.along)[start:stop], table.view(one.column)[start:stop]))
    axis = np.unique(np.concatenate([x for _label, x, _y in parts])) if parts else np.empty(0)
    columns = []
    for _label, x, y in parts:
        column = np.full(len(axis), np.nan, np.float32)
        column[np.searchsorted(axis, x)] = y
        columns.append(column)
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow([chart.along, *(label for label, _x, _y in parts)])
    for row, place in enumerate(axis):
        values = [column[row] for column in columns]
        # float32 prints the shortest text that reads back as the same number.
        cells = ["" if np.isnan(value) else str(value) for value in values]
        writer.writerow([f"{place:.15g}", *cells])
    return out.getvalue()


def write(chart: LineChart, path: Path) -> None:
    """As the file's ending says: .svg, .csv, else PNG. Raises `OSError`."""
    ending = path.suffix.lower()
    if ending == ".csv":
        write_atomically(path, numbers(chart))
    elif ending == ".svg":
        write_svg(chart, path)
    else:
        write_picture(chart, path)
