"""The charts that are watched during a run, as panels that can be moved, hidden and made to float."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PySide6.QtWidgets import QWidget

from so8t_engine.i18n import _, with_more
from so8t_gui import theme
from so8t_gui.charts.board import ChartBoard
from so8t_gui.charts.gate_panel import make_alpha_chart, update_alpha_chart
from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.charts.memory_panel import memory_series
from so8t_gui.models.marks import Kind
from so8t_gui.models.names import TERMS, shown
from so8t_gui.models.run_model import EVAL, TERM, RunModel
from so8t_gui.preferences import Preferences


class OverviewBoard(ChartBoard):
    """Loss and its terms, α, learning rate, gradient norm, speed and memory, on one horizontal axis."""

    def __init__(self, preferences: Preferences | None = None, parent: QWidget | None = None) -> None:
        s = theme.current().series
        self.loss = LineChart(_("Loss"))
        self.loss.set_series(
            [
                Series("loss", _("training"), s[0]),
                # The held-out loss is cross-entropy alone, the training loss is the sum of all terms.
                Series(EVAL + "loss", with_more(_("held-out"), "LM"), s[1], points=True),
            ]
        )
        self.terms = LineChart(_("Loss terms (weighted)"))
        self.alpha = make_alpha_chart()
        self.step_time = LineChart(_("Step time (s)"))
        self.step_time.set_series([Series("step_s", _("seconds a step"), s[4])])
        self.rate = LineChart(_("Learning rate"), robust=False)
        self.rate.set_series([Series("lr", "LoRA", s[2])])
        self.norm = LineChart(_("Gradient norm"))
        self.norm.set_series([Series("grad_norm", _("before clipping"), s[3])])
        self.speed = LineChart(_("Speed (tokens/s)"))
        self.speed.set_series([Series("tokens_per_s", _("tokens/s"), s[5])])
        self.memory = LineChart(_("Memory (GiB)"), robust=False)
        rows: list[dict[str, LineChart]] = [
            {"loss": self.loss, "terms": self.terms, "alpha": self.alpha, "step_time": self.step_time},
            {"rate": self.rate, "norm": self.norm, "speed": self.speed, "memory": self.memory},
        ]
        super().__init__("training", rows, preferences, parent)

    def parts(self, model: RunModel) -> Iterator[Callable[[], None]]:
        """What has to be drawn, piece by piece: the window stays awake between them."""
        self.model = model
        yield self._fit
        for chart in self.charts:
            dock = self.docks[chart]
            if dock.isHidden():
                continue
            chart.set_marks(model.marks)
            yield lambda chart=chart: self._draw_chart(chart, model)  # type: ignore[misc]

    def draw(self, model: RunModel) -> None:
        """Draw what the model holds, at once."""
        for part in self.parts(model):
            part()

    def _fit(self) -> None:
        if self.model is not None:
            model = self.model
            self.link.aim((model.steps, model.gate, model.memory, model.evaluation), self.axis.currentData())

    def _draw_chart(self, chart: LineChart, model: RunModel) -> None:
        self.link.place(chart)
        if chart is self.loss:
            bad = model.marks.count(Kind.NAN)
            chart.set_note(_("no finite loss in %(count)d steps") % {"count": bad} if bad else "")
            chart.draw(model.steps, model.evaluation)
        elif chart is self.terms:
            s = theme.current().series
            chart.set_series(
                [
                    Series(TERM + name, shown(name, TERMS), s[i % len(s)])
                    for i, name in enumerate(model.term_names)
                ]
            )
            chart.draw(model.steps)
        elif chart is self.alpha:
            update_alpha_chart(chart, model)
        elif chart is self.memory:
            self._draw_memory(model)
        else:
            chart.draw(model.steps)

    def _draw_memory(self, model: RunModel) -> None:
        note = (
            ""
            if model.has_card or not len(model.memory)
            else _("No NVIDIA card: engine memory shown instead")
        )
        self.memory.set_note(note)
        self.memory.set_series(memory_series(model.has_card, model.other_cards))
        self.memory.draw(model.memory)
