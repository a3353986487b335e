"""Memory and the card over a run: against limit and prediction, with what the trainer was doing."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QVBoxLayout, QWidget

from so8t_engine.i18n import N_, _
from so8t_engine.training.events import MemoryEvent
from so8t_gui import theme
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.models.marks import Kind
from so8t_gui.models.run_model import GIB, RunModel

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
        s = theme.current().series
        self.card.set_series(
            [
                Series("temperature_c", _("temperature (°C)"), s[0]),
                Series("utilisation", _("utilisation (%)"), s[1]),
                Series("power_w", _("power (W)"), s[2]),
            ]
        )
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
        self.memory.set_series(memory_series(model.has_card))
        for chart in (self.memory, self.card):
            chart.set_marks(model.activities)
            chart.draw(model.memory)
        self.summary.setText(summary(model))
        self.bands.setText(bands_in_words(model))


def memory_series(has_card: bool) -> list[Series]:
    """The lines of a memory chart, on a card or without."""
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
    return (
        _(
            "Card %(used)s of %(total)s; engine %(reserved)s, at most %(peak)s; temperature %(temperature)s; "
            "utilisation %(utilisation)s; power %(power)s; clocks: %(clocks)s"
        )
        % values
    )


def _gib(size: int | None) -> str:
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
        (N_("Green dots: %(count)d checkpoints."), Kind.CHECKPOINT),
        (N_("Orange dots: memory ran out %(count)d times."), Kind.MEMORY),
    ):
        if count := model.marks.count(kind):
            parts.append(_(text) % {"count": count})
    return " ".join(parts)
