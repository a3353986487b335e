"""Questions that a person keeps for later."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QGridLayout, QPushButton, QWidget

from so8t_engine.i18n import _
from so8t_gui.preferences import Preferences

MOST = 100


class KeptQuestions(QWidget):
    """The list, and its two buttons.

    Args:
        present: the question that stands in the field now.

    Signals: ``chosen`` with the text of a kept question.
    """

    chosen = Signal(str)

    def __init__(
        self, preferences: Preferences, present: Callable[[], str], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._preferences, self._present = preferences, present
        self.saved = QComboBox()
        self.saved.setAccessibleName(_("Saved questions"))
        self.saved.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.saved.setMinimumContentsLength(14)
        self.saved.activated.connect(self._take)
        keep, forget = QPushButton(_("Keep question")), QPushButton(_("Forget"))
        keep.setToolTip(_("Keep this question for later."))
        forget.setToolTip(_("Remove the chosen question from the list."))
        keep.clicked.connect(self._keep)
        forget.clicked.connect(self._forget)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.saved, 0, 0, 1, 2)
        grid.addWidget(keep, 1, 0)
        grid.addWidget(forget, 1, 1)
        self._fill()

    def _fill(self) -> None:
        self.saved.clear()
        self.saved.addItem(_("Saved questions"))
        for text in self._preferences.questions:
            self.saved.addItem(text.replace("\n", " ")[:60], text)

    def _take(self) -> None:
        text = self.saved.currentData()
        if text:
            self.chosen.emit(text)

    def _keep(self) -> None:
        text, kept = self._present(), self._preferences.questions
        if text and text not in kept:
            self._preferences.questions = [*kept, text][-MOST:]
            self._fill()
            self.saved.setCurrentIndex(self.saved.findData(text))

    def _forget(self) -> None:
        text = self.saved.currentData()
        if text:
            self._preferences.questions = [one for one in self._preferences.questions if one != text]
            self._fill()
