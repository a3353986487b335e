"""What stands in an empty list, table or tree instead of nothing at all."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtWidgets import QAbstractItemView, QLabel


class EmptyNote(QLabel):
    """A sentence in the middle of an item view, for as long as the view has no rows.

    Args:
        view: its model is set already and stays.
        text: translated.
    """

    def __init__(self, view: QAbstractItemView, text: str) -> None:
        super().__init__(text, view.viewport())
        self.setObjectName("notice")
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setWordWrap(True)
        self.setContentsMargins(12, 0, 12, 0)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._viewport, self._model = view.viewport(), view.model()
        for signal in (self._model.rowsInserted, self._model.rowsRemoved, self._model.modelReset):
            signal.connect(self._fit)
        self._viewport.installEventFilter(self)
        self._fit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keeps to the size of the viewport."""
        if event.type() in {QEvent.Type.Resize, QEvent.Type.Show}:
            self._fit()
        return False

    def _fit(self) -> None:
        self.setGeometry(self._viewport.rect())
        self.setVisible(self._model.rowCount() == 0)
