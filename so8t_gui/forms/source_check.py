"""Whether the rows that the settings name are there, looked for while a person goes on typing."""

from __future__ import annotations

import threading

from PySide6.QtCore import QObject, QTimer, Signal

from so8t_engine.config import Config, FieldProblem
from so8t_engine.data.reader import check_source
from so8t_engine.errors import DataError

#: After the last change: half a path is not complained about.
WAIT_MS = 400
POLL_MS = 30
#: Training rows, held-out rows, format.
Sources = tuple[str, str | None, str]


def find(train: str, validation: str | None, fmt: str) -> list[FieldProblem]:
    """What is wrong with the sources of rows, by field."""
    found = []
    for field, source, split in (("data.train", train, None), ("data.validation", validation, "validation")):
        if not source:
            continue
        try:
            check_source(source, fmt, split)
        except DataError as error:
            found.append(FieldProblem(field, error.sentence, error.mend))
    return found


class SourceCheck(QObject):
    """Looks in a thread of its own, which may hang on a share that does not answer: nobody waits for it.

    Attributes:
        problems: what was found wrong with the sources that were looked at last.

    Signal ``found`` when it is known.
    """

    found = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.problems: list[FieldProblem] = []
        self._sources: Sources | None = None
        self._answers: list[list[FieldProblem]] = []
        self._wait = QTimer(self, singleShot=True, interval=WAIT_MS)
        self._wait.timeout.connect(self._begin)
        self._poll = QTimer(self, interval=POLL_MS)
        self._poll.timeout.connect(self._take)

    def look(self, config: Config | None, *, seen: bool, again: bool = False) -> None:
        """Look in a moment, when other sources are named, or the same ``again``.

        Args:
            config: names them; None while settings are wrong.
            seen: whether anybody would see what is found.
        """
        sources = None if config is None else (config.data.train, config.data.validation, config.data.format)
        if sources == self._sources and not again:
            return
        if sources != self._sources:
            self._sources, self.problems = sources, []
        self.stop()
        if sources is not None and seen:
            self._wait.start()

    def stop(self) -> None:
        """What is under way is not wanted any more."""
        self._wait.stop()
        self._poll.stop()
        self._answers = []

    def _begin(self) -> None:
        if self._sources is None:
            return
        sources, answers = self._sources, self._answers
        threading.Thread(
            target=lambda: answers.append(find(*sources)), name="so8t-source-check", daemon=True
        ).start()
        self._poll.start()

    def _take(self) -> None:
        if self._answers:
            self.problems = self._answers[0]
            self.stop()
            self.found.emit()
