"""What the settings as they stand will do over a run: α or its target, g, learning rates, PET's λ.

The curves are the trainer's own functions (`so8t_engine.training.schedules`); nothing here computes one.
"""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QWidget

from so8t_engine.config import Config
from so8t_engine.config.training import PHI
from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.schedule import sigmoid
from so8t_engine.training.schedules import PlannedStep, plan, planned_steps
from so8t_gui import theme
from so8t_gui.charts.line_chart import LineChart, Series, format_value
from so8t_gui.forms import colours
from so8t_gui.forms.panels import Card
from so8t_gui.forms.row import plain_label
from so8t_gui.models.buffers import Columns

#: A run of unknown length is drawn as one of this many steps, over percent.
UNKNOWN_LENGTH = 1000
STALE_OPACITY = 0.3


class PreviewChart(LineChart):
    """A chart that is looked at and not moved: the wheel scrolls the page it stands on."""

    fits = False

    def __init__(self, title: str, lines: int) -> None:
        super().__init__(title)
        self.readings.fits = False
        self.setObjectName("preview")  # no frame: it stands in a card already
        self._layout.setContentsMargins(0, 4, 0, 0)
        self._words: dict[str, str] = {}
        self.plot.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.plot.setToolTip("")
        # Lines of text rather than pixels, so that a larger font does not squeeze the curve.
        self.plot.setFixedHeight(self.fontMetrics().lineSpacing() * lines + 24)

    def show_values(self, table: Columns, words: dict[str, str], levels: Sequence[float] = ()) -> None:
        """Draw, with ``words`` per column behind the names, and a range that holds ``levels``."""
        self._words = words
        self.draw(table)
        held = [float(value) for column in words for value in table.view(column)] + list(levels)
        low, high = min(held), max(held)
        # Half a number's height above and below: pyqtgraph leaves out a number that reaches over the end.
        edge = self.fontMetrics().height() / 2 + 1
        inner = self.plot.height() - self.plot.getPlotItem().getAxis("bottom").height()
        room = (high - low) * edge / max(inner - 2 * edge, 1.0) or 1.0
        self.plot.setYRange(low - room, high + room, padding=0)
        # On a low chart pyqtgraph finds one tick or none; the ends say the scale.
        marks = [(value, f"{value:.3g}") for value in sorted({0.0, high})] if low == 0.0 else None
        self.plot.getPlotItem().getAxis("left").setTicks(None if marks is None else [marks])
        for column, item in self._items.items():
            # A run of one step is a point, which a line does not show.
            item.setSymbol("o" if len(table) == 1 else None)
            item.setSymbolSize(6)
            item.setSymbolPen(None)
            item.setSymbolBrush(self._series[column].colour)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """As high as its parts: the readings may take several lines, and the plot stays as high as it is."""
        words = self._legend.heightForWidth(max(self.width(), 1))
        self.readings.setFixedHeight(words)
        margins = self._layout.contentsMargins()
        parts = self.header.sizeHint().height() + words + self.plot.height() + 2 * self._layout.spacing()
        self.setFixedHeight(parts + margins.top() + margins.bottom())

    def set_span(self, first: int, last: int) -> None:
        """The range of the horizontal axis; there are no halves of a step between a few."""
        self.plot.setXRange(first, last, padding=0.02)
        few = [(number, str(number)) for number in range(first, last + 1)] if last - first <= 5 else None
        self.plot.getPlotItem().getAxis("bottom").setTicks(None if few is None else [few])

    def set_faded(self, faded: bool) -> None:
        """Whether the curves are those of other settings than the ones in the form."""
        for item in self._items.values():
            item.setOpacity(STALE_OPACITY if faded else 1.0)

    def _value_text(self, one: Series, value: float | None) -> str:
        return self._words.get(one.column, format_value(value))


def _in_one_line(text: str) -> str:
    """Plain text in which no line breaks."""
    return "\u2060".join(text.replace(" ", "\u00a0"))


class SchedulePreview(Card):
    """A card of small charts over the planned run."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_("Planned course of the run"), parent)
        self.source = plain_label(wrap=True)
        self.source.setAccessibleName(_("What α proves"))
        self.note = plain_label(wrap=True)
        shades = theme.current()
        s = shades.series
        self.alpha = PreviewChart(_("Gate α"), 7)
        self.gate = PreviewChart(_("g = σ(α), the rotation's share"), 5)
        self.rate = PreviewChart(_("Learning rate"), 5)
        self.rate.set_series(
            [Series("lora_rate", "LoRA", s[2]), Series("so8t_rate", _("rotations and heads"), s[1])]
        )
        self.pet = PreviewChart(_("PET λ"), 4)
        self.pet.set_series([Series("pet_weight", "λ", s[3])])
        self.charts = [self.alpha, self.gate, self.rate, self.pet]
        self.alpha.add_level(PHI, "φ", shades["phi"])
        self.alpha.add_level(PHI, "", s[7])
        self.phi, self.target = self.alpha.level_lines
        self.gate.add_level(sigmoid(PHI), "σ(φ)", shades["phi"])
        for widget in (self.source, self.note, *self.charts):
            self.column.addWidget(widget)
        self._shown: tuple[object, ...] | None = None
        self.show_nothing("")
        self._colour()

    def show_config(self, config: Config, rows: int | None) -> None:
        """Draw the plan of ``config``; ``rows`` are its training rows where they are known."""
        limited = config.training.max_steps is not None
        if config.training.packing:
            rows = None  # how many share a pass is known once they have been read
        total = planned_steps(config, rows or 1) if limited or rows is not None else None
        wanted = (config.so8t, config.training, total)
        if wanted != self._shown:
            try:
                planned = plan(config, total or UNKNOWN_LENGTH)
            except SO8TError as error:
                self.show_nothing(str(error))
                return
            self._draw(config, planned, total)
            self._shown = wanted
        self._set_faded(False)
        self.note.setText(
            _("Over %(steps)d optimizer steps.") % {"steps": total}
            if total is not None
            else _("Over percent of the run: its steps are known once the rows have been read.")
        )

    def show_stale(self) -> None:
        """A setting is wrong: keep the last curves, greyed, and say that they are."""
        if self._shown is None:
            self.show_nothing(_("There is no preview while a setting is wrong."))
            return
        self._set_faded(True)
        self.note.setText(_("A setting is wrong: these are the curves of the last right settings."))

    def show_nothing(self, reason: str) -> None:
        """No curves; ``reason`` says why."""
        self._shown = None
        self.source.setText("")
        self.source.hide()
        self.note.setText(reason)
        for chart in self.charts:
            chart.hide()

    def _draw(self, config: Config, planned: Sequence[PlannedStep], total: int | None) -> None:
        table = Columns()
        for one in planned:
            table.append(
                {
                    "step": one.step,
                    "percent": 100.0 * one.step / UNKNOWN_LENGTH,
                    "alpha": one.alpha,
                    "gate": one.gate,
                    "lora_rate": one.lora_rate,
                    "so8t_rate": one.so8t_rate,
                    "pet_weight": one.pet_weight,
                }
            )
        learned = config.so8t.alpha_schedule == "learned"
        self.source.setText(
            _("target α*(t); α itself is learned")
            if learned
            else _("scheduled: assigned, proves nothing about convergence")
        )
        self.source.show()
        self._name_curves(learned)
        for chart in self.charts:
            chart.show()
            if total is None:
                chart.set_x("percent", _("% of the run"))
                chart.set_span(0, 100)
            else:
                chart.set_x("step", _("optimizer step"))
                chart.set_span(0, total)
        aim = config.so8t.alpha_target
        self.target.setPos(aim)
        other = abs(aim - PHI) >= 1e-6
        self.target.setVisible(other)
        # Named above the chart: beside φ, two names in it would lie over each other.
        named = _("┄ target %(value)s") % {"value": format_value(aim)}
        self.alpha.set_note(_in_one_line(named) if other else "")
        first, last = planned[0], planned[-1]
        self.alpha.show_values(
            table, {"alpha": f"{format_value(first.alpha)} → {format_value(last.alpha)}"}, (PHI, aim)
        )
        self.gate.show_values(
            table, {"gate": f"{100 * first.gate:.1f} % → {100 * last.gate:.1f} %"}, (0.0, 1.0)
        )
        rates = {
            name: f"≤ {format_value(max(getattr(one, name) for one in planned))}"
            for name in ("lora_rate", "so8t_rate")
        }
        constant = _("α %(rate)s, constant") % {"rate": format_value(config.so8t.alpha_learning_rate)}
        self.rate.set_note(_in_one_line(constant) if learned else "")
        self.rate.show_values(table, rates, (0.0,))
        steps = [one.pet_weight for one in planned]
        parts = [value for index, value in enumerate(steps) if index == 0 or value != steps[index - 1]]
        self.pet.show_values(
            table, {"pet_weight": " → ".join(format_value(value) for value in parts)}, (0.0,)
        )

    def _name_curves(self, learned: bool) -> None:
        s = theme.current().series
        if learned:
            alpha, gate = _("target α*"), _("target g* = σ(α*)")
        else:
            alpha, gate = "α", "g"
        self.alpha.set_series([Series("alpha", alpha, s[7] if learned else s[0], dashed=learned)])
        self.gate.set_series([Series("gate", gate, s[7] if learned else s[2], dashed=learned)])

    def _set_faded(self, faded: bool) -> None:
        for chart in self.charts:
            chart.set_faded(faded)

    def _colour(self) -> None:
        colours.tint(self.note, colours.muted(self.palette()))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.PaletteChange and hasattr(self, "charts"):
            self._colour()
