"""Memory and the card over a run: against limit and prediction, with what the trainer was doing."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QVBoxLayout, QWidget

from so8t_engine.i18n import N_, _
from so8t_engine.training.events import MemoryEvent
from so8t_gui import theme
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.models.marks import Kind
from so8t_gui.models.run_model import CARD, GIB, RunModel

#: What the trainer does → how strongly its band is tinted, and its name.
SHADES = {"loading": 0.06, "training": 0.0, "evaluation": 0.12, "saving": 0.22}
NAMES = {
    "loading": N_("loading"),
    "training": N_("training"),
    "evaluation": N_("evaluation"),
    "saving": N_("saving"),
}


class MemoryPanel(QWidget):
    """Two charts over the working time, and the newest readings in words."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.memory = LineChart(_("Memory (GiB)"), robust=False)
        self.card = LineChart(_("Graphics card"), robust=False)
        self.card.set_series(card_series())
        self.card.set_empty_text(
            _("The card gives no readings here: there is no NVIDIA card, or its driver hides them (WSL).")
        )
        for chart in (self.memory, self.card):
            chart.set_x("elapsed")
            chart.plot.layer.shades = SHADES
        self.summary, self.bands = QLabel(), QLabel()
        for label in (self.summary, self.bands):
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setWordWrap(True)
        self.bands.setObjectName("muted")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.summary)
        layout.addWidget(self.memory, 3)
        layout.addWidget(self.bands)
        layout.addWidget(self.card, 2)

    def draw(self, model: RunModel) -> None:
        """Draw what the model holds."""
        self.memory.set_series(memory_series(model.has_card, model.other_cards))
        self.card.set_series(card_series(model.other_cards))
        for chart in (self.memory, self.card):
            chart.set_marks(model.activities)
            chart.draw(model.memory)
        self.summary.setText(summary(model))
        self.bands.setText(bands_in_words(model))


def card_series(others: Sequence[str] = ()) -> list[Series]:
    """Temperature, utilisation and power of the first card, and of other processes' cards beside them."""
    s = theme.current().series
    names = (
        ("temperature_c", N_("temperature (°C)")),
        ("utilisation", N_("utilisation (%)")),
        ("power_w", N_("power (W)")),
    )
    found = [Series(name, _(text), s[place]) for place, (name, text) in enumerate(names)]
    for number, rank in enumerate(others):
        found += [
            Series(f"{CARD}{rank}.{name}", _of_card(_(text), rank), s[(3 + 3 * number + place) % len(s)])
            for place, (name, text) in enumerate(names)
        ]
    return found


def _of_card(text: str, rank: str) -> str:
    return _("%(what)s, process %(rank)s") % {"what": text, "rank": rank}


def memory_series(has_card: bool, others: Sequence[str] = ()) -> list[Series]:
    """The lines of a memory chart, on a card or without; ``others`` are further processes with cards."""
    s = theme.current().series
    predicted = Series("memory_predicted", _("predicted peak"), s[3], dashed=True)
    limit = Series("memory_limit", _("limit"), s[7], dashed=True)
    if not has_card:
        return [Series("process_rss", _("trainer's process"), s[0]), predicted]
    return [
        Series("device_used", _("card in use"), s[0]),
        limit,
        predicted,
        Series("reserved", _("reserved by the engine"), s[1]),
        Series("allocated", _("allocated by the engine"), s[2]),
        *(
            Series(f"{CARD}{rank}.{name}", _of_card(_(text), rank), s[(4 + 2 * number + place) % len(s)])
            for number, rank in enumerate(others)
            for place, (name, text) in enumerate(
                (("device_used", N_("card in use")), ("reserved", N_("reserved by the engine")))
            )
        ),
    ]


def summary(model: RunModel) -> str:
    """The newest readings; what the driver does not tell is a dash, not a zero."""
    event = model.last_memory
    if event is None:
        return _("No reading yet.")
    if not model.has_card:
        return _("No NVIDIA card takes part: %(size)s of system memory are used by the trainer.") % {
            "size": _gib(event.process_rss)
        }
    values = {
        "used": _gib(event.device_used),
        "total": _gib(event.device_total),
        "reserved": _gib(event.reserved),
        "peak": _gib(event.peak_reserved),
        "temperature": MISSING_TEXT if event.temperature_c is None else f"{event.temperature_c:.0f} °C",
        "utilisation": MISSING_TEXT if event.utilisation is None else f"{event.utilisation:.0%}",
        "power": MISSING_TEXT if event.power_w is None else f"{event.power_w:.0f} W",
        "clocks": _clocks(event),
    }
    return "\n".join([_card_in_words(values), *_other_cards(event)])


def _card_in_words(values: dict[str, str]) -> str:
    return (
        _(
            "Card %(used)s of %(total)s; engine %(reserved)s, at most %(peak)s; temperature %(temperature)s; "
            "utilisation %(utilisation)s; power %(power)s; clocks: %(clocks)s"
        )
        % values
    )


def _other_cards(event: MemoryEvent) -> list[str]:
    """A line for the card of each further process."""
    cards = event.cards or {}
    found: list[str] = []
    for rank in sorted({name.partition(".")[0] for name in cards}, key=int):

        def value(name: str, rank: str = rank) -> float | None:
            return cards.get(f"{rank}.{name}")

        degrees, busy, watts = value("temperature_c"), value("utilisation"), value("power_w")
        found.append(
            _(
                "Process %(rank)s: card %(used)s of %(total)s; engine %(reserved)s, at most %(peak)s; "
                "temperature %(temperature)s; utilisation %(utilisation)s; power %(power)s"
            )
            % {
                "rank": rank,
                "used": _gib(value("device_used")),
                "total": _gib(value("device_total")),
                "reserved": _gib(value("reserved")),
                "peak": _gib(value("peak_reserved")),
                "temperature": MISSING_TEXT if degrees is None else f"{degrees:.0f} °C",
                "utilisation": MISSING_TEXT if busy is None else f"{busy:.0%}",
                "power": MISSING_TEXT if watts is None else f"{watts:.0f} W",
            }
        )
    return found


def _gib(size: float | None) -> str:
    return MISSING_TEXT if size is None else f"{size / GIB:.2f} GiB"


def _clocks(event: MemoryEvent) -> str:
    if event.throttled is None:
        return MISSING_TEXT
    if not event.throttled:
        return _("not held down")
    return _("slowed down: %(reasons)s") % {"reasons": ", ".join(_(name) for name in event.throttled)}


def bands_in_words(model: RunModel) -> str:
    """What the tinted bands and dotted lines are, with how many there were."""
    seen = {phase.name for phase in model.activities.phases}
    parts = [_("Tinted from faint to strong: %(names)s.") % {
        "names": ", ".join(_(NAMES[name]) for name, shade in SHADES.items() if name in seen and shade)
    }] if any(SHADES.get(name) for name in seen) else []  # fmt: skip
    for text, kind in (
        (N_("Green dotted lines: %(count)d checkpoints."), Kind.CHECKPOINT),
        (N_("Orange dotted lines: memory ran out %(count)d times."), Kind.MEMORY),
    ):
        if count := model.marks.count(kind):
            parts.append(_(text) % {"count": count})
    return " ".join(parts)
