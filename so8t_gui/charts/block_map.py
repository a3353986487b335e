"""All blocks of a rotation at once: a row for each block, its 64 entries side by side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QFrame, QStackedLayout, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.axis import NumberAxis
from so8t_gui.charts.matrix_view import NEGATIVE, POSITIVE, mix
from so8t_gui.widgets.heads_view import plain


class BlockMap(QFrame):
    """A heatmap whose colours go from −limit through 0 to limit."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.title = plain(title, "title")
        self.reading = plain("", "muted")
        axes = {side: NumberAxis(side) for side in ("left", "bottom")}
        self.plot = pg.PlotWidget(axisItems=axes, background=theme.current()["surface"])
        self.plot.setFrameShape(QFrame.Shape.NoFrame)
        self.plot.setAccessibleName(title)
        axes["left"].setLabel(_("block"), color=theme.current()["muted"])
        axes["bottom"].setLabel(_("entry (row × 8 + column)"), color=theme.current()["muted"])
        self.plot.getViewBox().invertY(True)
        self.plot.setMenuEnabled(False)
        self.image = pg.ImageItem(axisOrder="row-major")
        self.image.setLookupTable(self._colours())
        self.plot.addItem(self.image)
        self.plot.scene().sigMouseMoved.connect(self._on_move)
        self._shown: npt.NDArray[np.float64] | None = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 7, 8, 4)
        layout.addWidget(self.title)
        # Axes without a picture would say something that is not so.
        self._empty = plain(_("Open a run folder or a soul file: its rotations stand here."), "notice")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._empty.setWordWrap(True)
        self._stack = QStackedLayout()
        layout.addLayout(self._stack, 1)
        self._stack.addWidget(self._empty)
        self._stack.addWidget(self.plot)
        layout.addWidget(self.reading)

    @staticmethod
    def _colours() -> npt.NDArray[np.uint8]:
        look = theme.current()
        middle = look.colour("surface")
        low, high = QColor(NEGATIVE[look.base]), QColor(POSITIVE[look.base])
        rows = [mix(middle, low, 1 - i / 128) for i in range(128)] + [
            mix(middle, high, i / 127) for i in range(128)
        ]
        return np.array([[c.red(), c.green(), c.blue()] for c in rows], dtype=np.uint8)

    def set_blocks(self, blocks_B88: npt.NDArray[np.float64] | None, limit: float) -> None:
        """Show all blocks (B, 8, 8), or nothing."""
        self.reading.setText("")
        self._stack.setCurrentWidget(self._empty if blocks_B88 is None else self.plot)
        if blocks_B88 is None:
            self._shown = None
            self.image.clear()
            return
        whole = self._shown is None or len(self._shown) != len(blocks_B88)
        self._shown = blocks_B88.reshape(len(blocks_B88), 64)
        self.image.setImage(self._shown, levels=(-limit, limit), autoLevels=False)
        if whole:
            self.plot.setRange(xRange=(0, 64), yRange=(0, len(self._shown)), padding=0)
        self.reading.setText(_("colours from −%(limit).3g to %(limit).3g") % {"limit": limit})

    def _on_move(self, place: object) -> None:
        if self._shown is None or not self.plot.sceneBoundingRect().contains(place):
            return
        point = self.plot.getViewBox().mapSceneToView(place)
        entry, block = int(point.x()), int(point.y())
        if 0 <= entry < 64 and 0 <= block < len(self._shown):
            self.reading.setText(
                _("block %(block)d, row %(row)d, column %(column)d: %(value).4f")
                % {"block": block, "row": entry // 8, "column": entry % 8, "value": self._shown[block, entry]}
            )

    def dispose(self) -> None:
        """Take the plot apart before Qt deletes the widgets."""
        self.plot.close()
