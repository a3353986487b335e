"""The charts that are watched during a run."""

from __future__ import annotations

from PySide6.QtWidgets import QComboBox, QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.gate_panel import make_alpha_chart, update_alpha_chart
from so8t_gui.charts.line_chart import LineChart, Series, link_x
from so8t_gui.models.names import TERMS, shown
from so8t_gui.models.run_model import EVAL, TERM, RunModel


class OverviewBoard(QWidget):
    """Loss and its terms, α, learning rate, gradient norm, speed and memory, on one horizontal axis."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        colours = theme.current()
        s = colours.series
        self.loss = LineChart(_("Loss"))
        self.loss.set_series(
            [
                Series("loss", _("training"), s[0]),
                # The held-out loss is cross-entropy alone, the training loss is the sum of all terms.
                Series(EVAL + "loss", _("held-out") + " (LM)", s[1], points=True),
            ]
        )
        self.terms = LineChart(_("Loss terms (weighted)"))
        self.alpha = make_alpha_chart()
        self.rate = LineChart(_("Learning rate"))
        self.rate.set_series([Series("lr", "LoRA", s[2])])
        self.norm = LineChart(_("Gradient norm"))
        self.norm.set_series([Series("grad_norm", _("before clipping"), s[3])])
        self.speed = LineChart(_("Speed (tokens/s)"))
        self.speed.set_series([Series("tokens_per_s", _("tokens/s"), s[5])])
        self.memory = LineChart(_("Memory (GiB)"))
        self.charts = [
            self.loss,
            self.terms,
            self.alpha,
            self.rate,
            self.norm,
            self.speed,
            self.memory,
        ]
        grid = QGridLayout()
        grid.setSpacing(8)
        for chart, (row, column, width) in zip(
            self.charts,
            [(0, 0, 4), (0, 4, 4), (0, 8, 4), (1, 0, 3), (1, 3, 3), (1, 6, 3), (1, 9, 3)],
            strict=True,
        ):
            grid.addWidget(chart, row, column, 1, width)
        for column in range(12):
            grid.setColumnStretch(column, 1)
        grid.setRowStretch(0, 6)
        grid.setRowStretch(1, 5)
        link_x(self.charts)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(self._header())
        layout.addLayout(grid, 1)

    def _header(self) -> QHBoxLayout:
        self.axis = QComboBox()
        self.axis.addItem(_("Steps"), "step")
        self.axis.addItem(_("Working time"), "elapsed")
        self.axis.setAccessibleName(_("Horizontal axis"))
        self.axis.setToolTip(_("What the charts run over. Pauses are left out of the working time."))
        self.axis.currentIndexChanged.connect(self._change_axis)
        label = QLabel(_("&Horizontal axis"))
        label.setBuddy(self.axis)
        self.reset = QPushButton(_("Show everything"))
        self.reset.setToolTip(_("Undo zooming and moving in every chart; they follow the run again."))
        self.reset.clicked.connect(self.show_everything)
        row = QHBoxLayout()
        row.addWidget(label)
        row.addWidget(self.axis)
        row.addStretch(1)
        row.addWidget(self.reset)
        return row

    def _change_axis(self) -> None:
        for chart in self.charts:
            chart.set_x(self.axis.currentData())
        if self._model is not None:
            self.draw(self._model)

    _model: RunModel | None = None

    def show_everything(self) -> None:
        """Follow the whole run in every chart."""
        for chart in self.charts:
            chart.plot.enableAutoRange()

    def draw(self, model: RunModel) -> None:
        """Draw what the model holds."""
        self._model = model
        s = theme.current().series
        self.loss.draw(model.steps, model.evaluation)
        self.terms.set_series(
            [
                Series(TERM + name, shown(name, TERMS), s[i % len(s)])
                for i, name in enumerate(model.term_names)
            ]
        )
        self.terms.draw(model.steps)
        update_alpha_chart(self.alpha, model)
        self.rate.draw(model.steps)
        self.norm.draw(model.steps)
        self.speed.draw(model.steps)
        self._draw_memory(model)

    def _draw_memory(self, model: RunModel) -> None:
        s = theme.current().series
        if model.has_card:
            series = [
                Series("device_used", _("card in use"), s[0]),
                Series("memory_limit", _("limit"), s[7], dashed=True),
                Series("memory_predicted", _("predicted peak"), s[3], dashed=True),
                Series("reserved", _("reserved by the engine"), s[1]),
                Series("allocated", _("allocated by the engine"), s[2]),
            ]
            self.memory.set_note("")
        else:
            series = [
                Series("process_rss", _("trainer's process"), s[0]),
                Series("memory_predicted", _("predicted peak"), s[3], dashed=True),
            ]
            self.memory.set_note(
                _("No NVIDIA card: engine memory shown instead") if len(model.memory) else ""
            )
        self.memory.set_series(series)
        self.memory.draw(model.memory)
