"""R_safe, R_cmd and M of a chosen block, with the readouts of the block and of the whole model."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.safe_paths import inside
from so8t_gui import theme
from so8t_gui.charts.block_strip import BlockStrip
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.charts.matrix_view import MatrixView
from so8t_gui.models.rotations import RotationBlocks
from so8t_gui.models.run_model import RunModel
from so8t_gui.widgets.elided_label import ElidedLabel

READOUTS = ("mean", "max", "orthogonality", "det", "block_c", "block_o", "block_d")


def _plain(text: str = "", name: str = "") -> QLabel:
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setObjectName(name)
    return label


class RotationPanel(QFrame):
    """Heatmaps of one block; a slider goes through blocks, another through the run's snapshots."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self._model: RunModel | None = None
        self._folder: Path | None = None
        self._loaded: Path | None = None
        self._blocks: RotationBlocks | None = None
        self._reason = _("No rotation snapshot yet.")
        self.maps = {
            "safe": MatrixView("R_safe"),
            "cmd": MatrixView("R_cmd"),
            "total": MatrixView("M = R_cmd R_safe"),
        }
        self.reason = _plain(name="notice")
        self.reason.setWordWrap(True)
        self.reason.setAlignment(Qt.AlignmentFlag.AlignCenter)
        maps = QHBoxLayout()
        maps.setSpacing(14)
        for view in self.maps.values():
            column = QVBoxLayout()
            caption = ElidedLabel(view.accessibleName())
            caption.setObjectName("title")
            caption.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            column.addWidget(caption)
            column.addWidget(view, 1)
            maps.addLayout(column, 1)
        self.history = LineChart(_("Commutator over the run"))
        s = theme.current().series
        self.history.set_series(
            [
                Series("commutator_mean", _("mean"), s[0]),
                Series("commutator_max", _("largest"), s[1]),
            ]
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 8, 12, 8)
        layout.setSpacing(8)
        layout.addLayout(self._pickers())
        layout.addWidget(self.strip)
        layout.addLayout(maps, 5)
        layout.addWidget(self.reason)
        layout.addLayout(self._readouts())
        layout.addWidget(self.history, 3)

    def _pickers(self) -> QVBoxLayout:
        self.block = QSpinBox()
        self.block.lineEdit().setTextMargins(6, 0, 0, 0)
        self.block.setRange(0, 0)
        self.block.setAccessibleName(_("Block"))
        self.block.setToolTip(_("Which block of 8 channels to show, counted from 0."))
        self.block_slider = QSlider(Qt.Orientation.Horizontal)
        self.block_slider.setAccessibleName(_("Block"))
        self.block.valueChanged.connect(self.block_slider.setValue)
        self.block_slider.valueChanged.connect(self.block.setValue)
        self.block.valueChanged.connect(self._show_block)
        self.snapshot = QSlider(Qt.Orientation.Horizontal)
        self.snapshot.setAccessibleName(_("Snapshot"))
        self.snapshot.setToolTip(_("Goes back through the stored rotations; at the right end it follows."))
        self.snapshot.setRange(0, 0)
        self.snapshot.valueChanged.connect(self._show_snapshot)
        self.snapshot_label = _plain(MISSING_TEXT, "muted")
        self.snapshot_label.setMinimumWidth(self.fontMetrics().horizontalAdvance("000000 (00000)"))
        self.strip = BlockStrip()
        self.strip.chosen.connect(self.block.setValue)
        self.block.valueChanged.connect(self.strip.set_marked)
        self.highest = QPushButton(_("&Highest commutator"))
        self.highest.setToolTip(_("Goes to the block in which the order of the rotations matters most."))
        self.highest.clicked.connect(self._go_to_highest)
        rows = QVBoxLayout()
        for text, widgets in (
            (_("&Block"), (self.block, self.block_slider, self.highest)),
            (_("S&napshot"), (self.snapshot, self.snapshot_label)),
        ):
            label = QLabel(text)
            label.setBuddy(widgets[0])
            row = QHBoxLayout()
            row.addWidget(label)
            for widget in widgets:
                row.addWidget(widget, 1 if isinstance(widget, QSlider) else 0)
            rows.addLayout(row)
        return rows

    def _go_to_highest(self) -> None:
        block = self.strip.largest()
        if block is not None:
            self.block.setValue(block)

    def _readouts(self) -> QGridLayout:
        self.values = {key: _plain(MISSING_TEXT, "value") for key in READOUTS}
        grid = QGridLayout()
        grid.setHorizontalSpacing(14)
        grid.setVerticalSpacing(2)
        heads = (
            (_("commutator"), _("mean")),
            (_("largest"), _("largest")),
            ("|RᵀR − I|", _("largest")),
            ("|det − 1|", _("largest")),
        )
        for column, (title, what) in enumerate(heads, start=1):
            head = _plain(title, "muted")
            head.setToolTip(what)
            grid.addWidget(head, 0, column)
        whole, block = _("Whole model"), _("Block shown")
        for row, (name, keys) in enumerate(
            (
                (whole, ("mean", "max", "orthogonality", "det")),
                (block, ("block_c", "", "block_o", "block_d")),
            ),
            start=1,
        ):
            grid.addWidget(_plain(_("Model") if name == whole else _("Block"), "title"), row, 0)
            for column, key in enumerate(keys, start=1):
                if key:
                    self.values[key].setAccessibleName(f"{name}: {heads[column - 1][0]}")
                    grid.addWidget(self.values[key], row, column)
        grid.setColumnStretch(5, 1)
        return grid

    def draw(self, model: RunModel, folder: Path | None) -> None:
        """Draw what the model holds; snapshots are read from the run's folder."""
        new_run = model is not self._model or folder != self._folder
        self._model, self._folder = model, folder
        if new_run:
            self._loaded, self._blocks = None, None
        self.history.draw(model.rotation)
        at_end = self.snapshot.value() == self.snapshot.maximum() or new_run
        self.snapshot.blockSignals(True)
        self.snapshot.setRange(0, max(0, len(model.snapshots) - 1))
        if at_end:
            self.snapshot.setValue(self.snapshot.maximum())
        self.snapshot.blockSignals(False)
        self._show_snapshot()

    def _show_snapshot(self) -> None:
        model = self._model
        if model is None or self._folder is None or not model.snapshots:
            self._blocks = None
            self.strip.set_values(None)
            self.highest.setEnabled(False)
            self._reason = _("No rotation snapshot yet.")
            for key in ("mean", "max", "orthogonality", "det"):
                self.values[key].setText(MISSING_TEXT)
            self.snapshot_label.setText(MISSING_TEXT)
            self._show_block()
            return
        event = model.snapshots[min(self.snapshot.value(), len(model.snapshots) - 1)]
        self.snapshot_label.setText(_("step %(step)d") % {"step": event.step})
        self.values["mean"].setText(f"{event.commutator_mean:.4f}")
        self.values["max"].setText(f"{event.commutator_max:.4f}")
        self.values["orthogonality"].setText(f"{event.orthogonality:.1e}")
        self.values["det"].setText(f"{max(abs(event.det_min - 1), abs(event.det_max - 1)):.1e}")
        try:
            # The name comes from the run's events, and the run perhaps from a stranger.
            self._load(inside(self._folder, event.file) if event.file else None)
        except SO8TError as error:
            self._loaded, self._blocks, self._reason = None, None, error.sentence
        self._show_block()

    def _load(self, path: Path | None) -> None:
        if path is None:
            self._blocks, self._reason = None, _("This snapshot stored no blocks.")
        elif path != self._loaded:
            try:
                self._blocks = RotationBlocks.load(path)
            except SO8TError as error:
                self._blocks, self._reason = None, f"{error.sentence} {error.mend}"
        self._loaded = path
        self.strip.set_values(self._blocks.commutators_B() if self._blocks is not None else None)
        self.highest.setEnabled(self._blocks is not None)
        if self._blocks is not None:
            self.block.setMaximum(len(self._blocks) - 1)
            self.block_slider.setMaximum(len(self._blocks) - 1)

    def _show_block(self) -> None:
        if self._blocks is None:
            for view in self.maps.values():
                view.set_matrix(None)
            for key in ("block_c", "block_o", "block_d"):
                self.values[key].setText(MISSING_TEXT)
            self.reason.setText(self._reason)
            self.reason.show()
            return
        self.reason.hide()
        read = self._blocks.read(min(self.block.value(), len(self._blocks) - 1))
        for key, matrix in (("safe", read.safe_88), ("cmd", read.cmd_88), ("total", read.total_88)):
            self.maps[key].set_matrix(matrix, limit=1.0)
        self.values["block_c"].setText(f"{read.commutator:.4f}")
        self.values["block_o"].setText(f"{read.orthogonality:.1e}")
        self.values["block_d"].setText(f"{read.determinant:.1e}")
