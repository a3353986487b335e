"""The first-run tour: a card above the pages that leads through the demonstration's training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from so8t_engine.config import load_config
from so8t_engine.i18n import LANGUAGES, N_, _, language, with_more
from so8t_engine.training.states import State
from so8t_gui import theme

if TYPE_CHECKING:
    from so8t_gui.main_window import MainWindow


@dataclass(frozen=True, slots=True)
class Stop:
    """Where the tour is. ``tab``: of the run page; ``trains``: offers to start the demonstration."""

    page: str
    title: str
    text: str
    tab: int | None = None
    trains: bool = False


STOPS = (
    Stop(
        "run",
        N_("Welcome"),
        N_(
            "In some minutes this tour trains a small embedded model on your processor: no card, no "
            "network, nothing to install. You can leave it at any time."
        ),
    ),
    Stop(
        "settings",
        N_("Every run is a list of settings"),
        N_(
            "The demonstration's are chosen. The bar on the right says before the start how much memory the "
            "run will need; while it cannot fit, Start stays blocked."
        ),
    ),
    Stop(
        "run",
        N_("Train the demonstration"),
        N_(
            "Press the button. The trainer is a process of its own: pausing, saving and stopping work at any "
            "time, and a run that was stopped and saved goes on later where it was."
        ),
        tab=0,
        trains=True,
    ),
    Stop(
        "run",
        N_("Charts of the whole run"),
        N_(
            "The wheel zooms, dragging moves, a double click shows everything. The menu of a chart has "
            "smoothing, a logarithmic axis, full screen and export."
        ),
        tab=0,
    ),
    Stop(
        "run",
        N_("Gate and rotations"),
        N_(
            "α travels from −5 to φ. It is learned here, so where it arrives is a measurement. Each block "
            "has two rotations, R_safe and R_cmd; how far their order matters is drawn beside it."
        ),
        tab=1,
    ),
    Stop(
        "run",
        N_("What was learned"),
        N_(
            "The heads are judged on rows that no training row resembles, beside two plain classifiers. The "
            "figures come at the beginning and at the end of the run."
        ),
        tab=2,
    ),
    Stop(
        "history",
        N_("Nothing is lost"),
        N_(
            "Every run stays here: open it, compare several, continue one, put the next into the queue. "
            "Ctrl+Shift+P finds any command or setting, F1 lists the keys."
        ),
    ),
)


class Tour(QObject):
    """Where the tour is, through changes of language and theme. Signal ``changed``."""

    changed = Signal()

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self.place: int | None = None

    def offer(self) -> bool:
        """Begin where this person has never seen it; False where they have."""
        if self._window.preferences.tour_seen:
            return False
        self.begin()
        return True

    def begin(self) -> None:
        """From the first stop on."""
        # Seen from the moment it is shown: it never comes back by itself.
        self._window.preferences.tour_seen = True
        self.go(0)

    def go(self, place: int) -> None:
        """To a stop; beyond the last one the tour is over."""
        self.place = place if 0 <= place < len(STOPS) else None
        if self.place is not None:
            stop = STOPS[self.place]
            self._window.show_page(stop.page)
            if stop.tab is not None:
                self._window.run_page.view.tabs.setCurrentIndex(stop.tab)
        self.changed.emit()

    def leave(self) -> None:
        """End it here."""
        self.go(-1)

    @property
    def training(self) -> bool:
        """Whether a run goes on or has gone on since the tour began."""
        return self._window.controller.live or self._window.controller.model.state is not State.IDLE

    def train(self) -> None:
        """Start the demonstration, with its settings and in the runs folder of the form."""
        window = self._window
        page = window.settings_page
        demo = load_config("demo")
        if (held := page.config()) is not None:
            demo = demo.model_copy(update={"run": held.run})
        if window.controller.live or not window.controller.start(demo):
            return
        assert self.place is not None
        self.go(self.place + 1)


class TourCard(QFrame):
    """The card itself; made anew with the pages. Signal ``shown``: whether there is a stop to show."""

    shown = Signal(bool)

    def __init__(self, tour: Tour, change_language: Callable[[str], object]) -> None:
        super().__init__()
        self.setObjectName("card")
        self._tour = tour
        self.title, self.text = QLabel(), QLabel()
        self.title.setObjectName("title")
        self.text.setWordWrap(True)
        for label in (self.title, self.text):
            label.setTextFormat(Qt.TextFormat.PlainText)
        self.back = self._button(_("Back"), lambda: tour.go((tour.place or 0) - 1))
        self.next = self._button("", lambda: tour.go((tour.place or 0) + 1))
        self.train = self._button(_("Train the demonstration"), tour.train)
        self.train.setProperty("role", "primary")
        self.skip = self._button(_("Skip the tour"), tour.leave)
        # In its own language, whatever the present one is.
        other = next(code for code in LANGUAGES if code != language())
        self.language = self._button(LANGUAGES[other], lambda: change_language(other))
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(self.title)
        words.addWidget(self.text)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(14, 8, 10, 8)
        layout.addLayout(words, 1)
        for button in (self.language, self.skip, self.back, self.train, self.next):
            layout.addWidget(button)
        tour.changed.connect(self.refresh)

    @staticmethod
    def _button(text: str, slot: Callable[[], object]) -> QPushButton:
        button = QPushButton(text)
        button.clicked.connect(lambda _on=False: slot())
        return button

    def disconnect_tour(self) -> None:
        """Hear nothing more: this card is being replaced."""
        self._tour.changed.disconnect(self.refresh)

    def refresh(self) -> None:
        """Show the stop, or nothing."""
        place = self._tour.place
        self.setVisible(place is not None)
        self.shown.emit(place is not None)
        if place is None:
            return
        stop, last = STOPS[place], place == len(STOPS) - 1
        self.title.setText(with_more(_(stop.title), f"{place + 1}/{len(STOPS)}"))
        self.text.setText(_(stop.text))
        self.setAccessibleName(f"{_(stop.title)}. {_(stop.text)}")
        self.back.setVisible(place > 0)
        self.language.setVisible(place == 0)
        self.skip.setVisible(not last)
        self.train.setVisible(stop.trains and not self._tour.training)
        self.next.setText(_("Finish") if last else _("Next"))
        # The way on is the one that stands out.
        self.next.setProperty("role", "" if stop.trains and not self._tour.training else "primary")
        theme.restyle(self.next)


def tour_holder(card: TourCard, pages: QWidget) -> QWidget:
    """Card and pages, one above the other."""
    holder = QWidget()
    layout = QVBoxLayout(holder)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(0)
    above = QHBoxLayout()
    above.addWidget(card)
    # As far from the edges as what the pages hold; a layout keeps its margins around nothing, too.
    card.shown.connect(lambda on: above.setContentsMargins(*((12, 10, 12, 0) if on else (0, 0, 0, 0))))
    layout.addLayout(above)
    layout.addWidget(pages, 1)
    card.refresh()  # only now: shown without a parent it would be a window
    return holder
