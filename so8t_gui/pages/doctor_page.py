"""What ``so8t doctor`` says, in the window."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Qt, QThread, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.doctor import Finding, examine
from so8t_engine.i18n import _
from so8t_gui.forms.row import plain_label
from so8t_gui.widgets.scroll_area import scroll_area

SIGNS = {"good": "✓", "note": "!", "bad": "✗"}
NAMES = {"good": "good", "note": "warn", "bad": "bad"}


class _Examination(QThread):
    """Looks in the background: the driver may take its time. Signal ``done`` with the findings."""

    done = Signal(object)

    def __init__(self, folder: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folder = folder

    def run(self) -> None:
        """The thread's work."""
        self.done.emit(examine(self._folder))


class DoctorPage(QWidget):
    """Each finding with its mend; looked for again whenever the page is shown."""

    def __init__(self, folder: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = folder
        self._thread: _Examination | None = None
        title = QLabel(_("Doctor"))
        title.setObjectName("pageTitle")
        self.summary = plain_label(wrap=True)
        self.again = QPushButton(_("Look &again"))
        self.again.setToolTip(_("Examines this computer once more."))
        self.again.clicked.connect(self.examine)
        self.card = QFrame()
        self.card.setObjectName("card")
        self._grid = QGridLayout(self.card)
        self._grid.setContentsMargins(14, 12, 14, 12)
        self._grid.setHorizontalSpacing(14)
        self._grid.setColumnStretch(2, 1)
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 8, 0)
        column.addWidget(self.card)
        column.addStretch(1)
        head = QHBoxLayout()
        head.addWidget(title)
        head.addStretch(1)
        head.addWidget(self.again)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.addLayout(head)
        layout.addWidget(self.summary)
        layout.addWidget(scroll_area(inside, _("Findings")), 1)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.examine()

    def examine(self) -> None:
        """Look again."""
        if self._thread is not None:
            return
        self.again.setEnabled(False)
        self._thread = _Examination(self._folder, self)
        self._thread.done.connect(self.show_findings)
        self._thread.finished.connect(self._ended)
        self._thread.start()

    def _ended(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.wait()
            thread.deleteLater()
        self.again.setEnabled(True)

    def shut_down(self) -> None:
        """Wait for the examination; the page is going."""
        if self._thread is not None:
            self._thread.wait()

    def show_findings(self, findings: list[Finding]) -> None:
        """Fill the card."""
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.deleteLater()
        for row, one in enumerate(findings):
            sign = plain_label(SIGNS[one.verdict])
            sign.setObjectName(NAMES[one.verdict])
            name = plain_label(one.title)
            name.setObjectName("title")
            text = f"{one.value}\n{one.mend}" if one.mend else one.value
            value = plain_label(text, wrap=True)
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            for column, widget in enumerate((sign, name, value)):
                self._grid.addWidget(
                    widget, row, column, Qt.AlignmentFlag.AlignTop if column < 2 else Qt.AlignmentFlag(0)
                )
        bad = sum(one.verdict == "bad" for one in findings)
        self.summary.setText(
            _("%(count)d things have to be mended before training works.") % {"count": bad}
            if bad
            else _("This computer is ready.")
        )
