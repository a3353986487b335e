"""The rotations of a run or soul file over all blocks and over training; two runs beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QMenu,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.inspection import RotationSet, commutators, drift, stored_rotations
from so8t_gui import theme
from so8t_gui.charts.block_map import BlockMap
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.models.inspected import Inspected, angles_of, both, histogram
from so8t_gui.widgets.heads_view import plain
from so8t_gui.widgets.message_bar import MessageBar

READ_EVERY_MS = 10


class _Spread(LineChart):
    """A histogram: the value of its last bin says nothing."""

    def _value_text(self, one: Series, value: float | None) -> str:
        return ""


class InspectPage(QWidget):
    """Opens a run folder, a snapshot or a soul.safetensors; a second one can be laid over it.

    Args:
        looked_at: the run to begin with, as long as a person has opened nothing here.
    """

    def __init__(
        self,
        folder: Path,
        looked_at: Callable[[], Path | None] = lambda: None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.folder = folder
        self._looked_at = looked_at
        self._chosen = False
        self.first: Inspected | None = None
        self.second: Inspected | None = None
        self.message = MessageBar()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.setSpacing(8)
        layout.addLayout(self._make_top())
        layout.addWidget(self.message)
        layout.addLayout(self._make_scrubber())
        layout.addLayout(self._make_charts(), 1)
        self._timer = QTimer(self)
        self._timer.setInterval(READ_EVERY_MS)
        self._timer.timeout.connect(self._read_on)
        self._draw()

    def _make_top(self) -> QHBoxLayout:
        self.open_button, self.compare_button = QPushButton(_("Open")), QPushButton(_("Compare with"))
        self.name, self.other_name = plain(MISSING_TEXT, "value"), plain(MISSING_TEXT, "value")
        row = QHBoxLayout()
        for button, name, second in (
            (self.open_button, self.name, False),
            (self.compare_button, self.other_name, True),
        ):
            menu = QMenu(button)
            run = menu.addAction(_("Run folder…"))
            run.triggered.connect(lambda _checked=False, second=second: self._choose_run(second))
            file = menu.addAction(_("Soul file or snapshot…"))
            file.triggered.connect(lambda _checked=False, second=second: self._choose_file(second))
            button.setMenu(menu)
            row.addWidget(button)
            row.addWidget(name, 1)
        self.drop_button = QPushButton(_("No comparison"))
        self.drop_button.clicked.connect(self.drop_comparison)
        row.addWidget(self.drop_button)
        return row

    def _make_scrubber(self) -> QHBoxLayout:
        self.what = QComboBox()
        self.what.setAccessibleName(_("Matrix"))
        for key, title in (("safe", "R_safe"), ("cmd", "R_cmd"), ("total", "M = R_cmd R_safe")):
            self.what.addItem(title, key)
        self.what.setCurrentIndex(2)
        self.minus = QComboBox()
        self.minus.setAccessibleName(_("Shown as"))
        for key, title in (
            ("identity", _("minus I")),
            ("start", _("minus its start")),
            ("other", _("minus the other run")),
        ):
            self.minus.addItem(title, key)
        self.scrubber = QSlider(Qt.Orientation.Horizontal)
        self.scrubber.setAccessibleName(_("Snapshot"))
        self.scrubber.setRange(0, 0)
        self.step = plain(MISSING_TEXT, "value")
        self.step.setMinimumWidth(self.fontMetrics().horizontalAdvance("step 000000 (000/000)  "))
        for box in (self.what, self.minus):
            box.currentIndexChanged.connect(self._draw)
        self.scrubber.valueChanged.connect(self._draw)
        row = QHBoxLayout()
        for widget in (self.what, self.minus, plain(_("Training"), "muted")):
            row.addWidget(widget)
        row.addWidget(self.scrubber, 1)
        row.addWidget(self.step)
        return row

    def _make_charts(self) -> QGridLayout:
        s = theme.current().series
        self.map = BlockMap(_("All blocks"))
        self.commutator = _Spread(_("Commutator, share of blocks"))
        self.angles = _Spread(_("Eigen-angles of M, share of planes"))
        self.travel = LineChart(_("Drift of M from the start, and the commutator"))
        for chart, label in ((self.commutator, _("commutator")), (self.angles, _("angle / π"))):
            chart.set_x("value", label)
        self.travel.set_series(
            [
                Series("drift_mean", _("mean"), s[0]),
                Series("drift_max", _("largest"), s[1]),
                Series("commutator_mean", _("commutator, mean"), s[2], dashed=True),
            ]
        )
        grid = QGridLayout()
        grid.setSpacing(8)
        grid.addWidget(self.map, 0, 0, 3, 1)
        charts: list[LineChart] = [self.commutator, self.angles, self.travel]
        for row, one in enumerate(charts):
            grid.addWidget(one, row, 1)
            one.setMinimumHeight(150)
            grid.setRowStretch(row, 1)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        return grid

    # Opening

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._begin()

    def _begin(self) -> None:
        """Show the run that is looked at elsewhere, with the snapshots it has by now."""
        path = self._looked_at()
        if self._chosen or path is None:
            return
        known = self.first if self.first is not None and self.first.path == path else None
        try:
            files = stored_rotations(path)
        except SO8TError:
            return  # it has stored none yet
        if known is None or known.files != files:
            self._open(path)

    def set_folder(self, folder: Path) -> None:
        """Where the dialogs begin."""
        self.folder = folder

    def _choose_run(self, second: bool) -> None:
        chosen = QFileDialog.getExistingDirectory(self, _("Open a run folder"), str(self.folder))
        if chosen:
            self.open(Path(chosen), second=second)

    def _choose_file(self, second: bool) -> None:
        name, _filter = QFileDialog.getOpenFileName(
            self, _("Open a soul file"), str(self.folder), "safetensors (*.safetensors)"
        )
        if name:
            self.open(Path(name), second=second)

    def open(self, path: Path, *, second: bool = False) -> bool:
        """Show ``path``, or lay it over what is shown; False with a message where it cannot be."""
        self._chosen = True
        return self._open(path, second=second)

    def _open(self, path: Path, *, second: bool = False) -> bool:
        try:
            found = Inspected.open(path)
        except SO8TError as error:
            self.message.show_message("error", error.sentence, error.mend)
            return False
        if second and self.first is not None and len(found.at(0)) != len(self.first.at(0)):
            self.message.show_message(
                "error",
                _("The two have %(first)d and %(second)d blocks.")
                % {"first": len(self.first.at(0)), "second": len(found.at(0))},
                _("Compare runs on models of the same width."),
            )
            return False
        self.message.hide()
        if second:
            self.second = found
        else:
            self.first = found
            if self.second is not None and len(self.second.at(0)) != len(found.at(0)):
                self.second = None
            self.scrubber.setRange(0, len(found) - 1)
            self.scrubber.setValue(len(found) - 1)
        self._timer.start()
        self._draw()
        return True

    def drop_comparison(self) -> None:
        """Show one run alone."""
        self.second = None
        self._draw()

    def _read_on(self) -> None:
        """One snapshot at a time: the window stays fluid however many there are."""
        try:
            more = [one.read_one() for one in (self.first, self.second) if one is not None]
        except SO8TError as error:
            self.message.show_message("warning", error.sentence, error.mend)
            return
        if not any(more):
            self._timer.stop()
        self._draw_travel()

    # Drawing

    def _current(self) -> tuple[RotationSet, RotationSet | None] | None:
        if self.first is None:
            return None
        try:
            now = self.first.at(self.scrubber.value())
            other = None
            if self.second is not None:
                # The same part of its training.
                part = self.scrubber.value() / max(1, len(self.first) - 1)
                part = part if len(self.first) > 1 else 1.0
                other = self.second.at(round(part * (len(self.second) - 1)))
        except SO8TError as error:
            self.message.show_message("error", error.sentence, error.mend)
            return None
        return now, other

    def _draw(self) -> None:
        self.drop_button.setEnabled(self.second is not None)
        s = theme.current().series
        mine, theirs = Series("first", _("this run"), s[0]), Series("second", _("the other"), s[1])
        for chart in (self.commutator, self.angles):
            chart.set_series([mine] if self.second is None else [mine, theirs])
        self.compare_button.setEnabled(self.first is not None)
        for label, one in ((self.name, self.first), (self.other_name, self.second)):
            label.setText(MISSING_TEXT if one is None else one.path.name)
        found = self._current()
        if found is None:
            self.step.setText(MISSING_TEXT)
            self.map.set_blocks(None, 1.0)
            return
        now, other = found
        assert self.first is not None
        step = MISSING_TEXT if now.step is None else str(now.step)
        self.step.setText(
            _("step %(step)s (%(at)d/%(of)d)")
            % {"step": step, "at": self.scrubber.value() + 1, "of": len(self.first)}
        )
        self._draw_map(now, other)
        self._draw_spreads(now, other)
        self._draw_travel()

    def _draw_map(self, now: RotationSet, other: RotationSet | None) -> None:
        assert self.first is not None
        key = f"{self.what.currentData()}_B88"
        blocks = getattr(now, key)
        minus = self.minus.currentData()
        if minus == "start":
            blocks = blocks - getattr(self.first.at(0), key)
        elif minus == "other" and other is not None:
            blocks = blocks - getattr(other, key)
        else:
            blocks = blocks - np.eye(8)
        self.map.set_blocks(blocks, max(float(np.abs(blocks).max()), 1e-9))

    def _draw_spreads(self, now: RotationSet, other: RotationSet | None) -> None:
        mine = commutators(now)
        theirs = commutators(other) if other is not None else None
        top = max(float(mine.max()), float(theirs.max()) if theirs is not None else 0.0, 1e-6)
        first = histogram(mine, 0.0, top, "first")
        second = histogram(theirs, 0.0, top, "second") if theirs is not None else None
        self.commutator.draw(both(first, second, "first", "second"))
        note = _("mean %(mean).4f, largest %(max).4f") % {"mean": mine.mean(), "max": mine.max()}
        if other is not None:
            apart = drift(now.total_B88, other.total_B88)
            note += " – " + _("M of the two runs apart by %(mean).4f on average") % {"mean": apart.mean()}
        self.commutator.set_note(note)
        angles, others = angles_of(now), angles_of(other) if other is not None else None
        wide = max(float(angles.max()), float(others.max()) if others is not None else 0.0, 1e-3)
        first = histogram(angles, 0.0, wide, "first")
        second = histogram(others, 0.0, wide, "second") if others is not None else None
        self.angles.draw(both(first, second, "first", "second"))

    def _draw_travel(self) -> None:
        first = self.first
        if first is None:
            return
        # A part of the training must not look like the whole of it.
        part = _("still reading: %(done)d of %(of)d snapshots") % {"done": first.read, "of": len(first)}
        self.travel.set_note(part if first.read < len(first) else "")
        self.travel.draw(first.travel)

    def shut_down(self) -> None:
        """Stop reading."""
        self._timer.stop()
