"""The pages of the window, each built when it is first wanted or when the window has nothing else to do.

A window that builds everything before it shows itself lets a person wait for pages that nobody looks at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QStackedWidget, QVBoxLayout, QWidget

IDLE_MS = 30
#: Between small pieces that complete what is in view.
FIRST_MS = 4
#: A person has just asked for something: the rest waits for so long.
BUSY_MS = 1500


@dataclass(frozen=True, slots=True)
class PageSpec:
    """A page: its name for the program (also its icon's), its translated title, and how it is made."""

    name: str
    title: str
    make: Callable[[], QWidget]


class PageStack(QStackedWidget):
    """Pages in the order of the navigation.

    Signals: ``complete``: `build_when_idle` has built the last one.
    """

    complete = Signal()

    def __init__(self, specs: list[PageSpec], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.specs = specs
        #: Whether a person waits for something: then nothing is built that nobody has asked for.
        self.busy: Callable[[], bool] = lambda: False
        self._built: dict[str, QWidget] = {}
        self._holders: list[QVBoxLayout] = []
        for _spec in specs:
            holder = QWidget()
            layout = QVBoxLayout(holder)
            layout.setContentsMargins(0, 0, 0, 0)
            self._holders.append(layout)
            self.addWidget(holder)
        self._first: deque[Callable[[], object]] = deque()
        self._idle = QTimer(self, interval=IDLE_MS)
        self._idle.timeout.connect(self._build_next)
        self.currentChanged.connect(self._build_current)

    def is_built(self, name: str) -> bool:
        """Whether the page exists already."""
        return name in self._built

    def page(self, name: str) -> QWidget:
        """The page, built now if it was not yet."""
        if name not in self._built:
            index = [spec.name for spec in self.specs].index(name)
            page = self.specs[index].make()
            self._built[name] = page
            self._holders[index].addWidget(page)
        return self._built[name]

    def current_page(self) -> QWidget:
        """The page that is shown."""
        return self.page(self.specs[self.currentIndex()].name)

    def _build_current(self, index: int) -> None:
        if index >= 0:
            self.give_way()
            self.page(self.specs[index].name)

    def give_way(self) -> None:
        """Let what a person has asked for go before what only may be asked for."""
        if self._idle.isActive():
            self._idle.start(BUSY_MS)

    def build_when_idle(self, first: Iterable[Callable[[], object]] = ()) -> None:
        """Do what comes ``first``, then build the rest one by one, with the event loop's turns between."""
        self._first.extend(first)
        self._idle.start(FIRST_MS if self._first else IDLE_MS)

    def _build_next(self) -> None:
        if self.busy():
            self.give_way()
            return
        if self._first:
            self._first.popleft()()
            self._idle.setInterval(FIRST_MS if self._first else IDLE_MS)
            return
        self._idle.setInterval(IDLE_MS)
        missing = [spec.name for spec in self.specs if spec.name not in self._built]
        if missing:
            self.page(missing[0])
        if len(missing) <= 1:
            self._idle.stop()
            self.complete.emit()

    def stop(self) -> None:
        """Build nothing more: the window is being taken down."""
        self._first.clear()
        self._idle.stop()
