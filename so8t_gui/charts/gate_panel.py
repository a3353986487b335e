"""The α gate: where it is, where it should be, φ, and g = σ(α); and PET beside it."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from so8t_engine.config.training import PHI
from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.chart_link import ChartLink
from so8t_gui.charts.chart_menu import ChartMenu
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.charts.pet_chart import PetChart
from so8t_gui.models.arrival import predicted_arrival
from so8t_gui.models.names import PHASES, shown
from so8t_gui.models.run_model import RunModel


def make_alpha_chart() -> LineChart:
    """α with its target and φ."""
    colours = theme.current()
    chart = LineChart(_("Gate α"), robust=False)
    chart.set_series(
        [
            Series("alpha", "α", colours.series[0]),
            Series("target", _("target α*"), colours.series[7], dashed=True),
        ]
    )
    chart.add_level(PHI, "φ", colours["phi"], in_view=True)
    return chart


def update_alpha_chart(chart: LineChart, model: RunModel) -> None:
    """Draw the gate's history."""
    gate = model.last_gate
    chart.set_note("" if gate is None else _("learned") if gate.source == "learned" else _("scheduled"))
    chart.draw(model.gate)


def gate_sentence(model: RunModel) -> str:
    """What may be said about α: convergence is claimed for a learned one only."""
    gate = model.last_gate
    if gate is None:
        return _("No reading of the gate yet.")
    if gate.source == "scheduled":
        return _("scheduled: assigned, proves nothing about convergence")
    if model.converged_at is not None:
        return model.convergence_sentence()
    return _("learned: |α − final target| = %(distance).4f, not converged") % {
        "distance": abs(gate.alpha - gate.final_target)
    }


def arrival_note(model: RunModel) -> str:
    """When a learned α arrives if it goes on like this; empty where nothing can be said."""
    gate = model.last_gate
    if gate is None or gate.source != "learned" or model.converged_at is not None:
        return ""
    step = predicted_arrival(model.gate.view("step"), model.gate.view("distance"))
    return "" if step is None else _("extrapolated: 0.01 at about step %(step)d") % {"step": step}


class GatePanel(QWidget):
    """α and g over the run, with the present readings in words."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.alpha = make_alpha_chart()
        self.g = LineChart("g = σ(α)")
        self.g.set_series([Series("g", "g", theme.current().series[2])])
        self.distance = LineChart(_("Distance |α − target|"), log=True, robust=False)
        self.distance.set_series([Series("distance", _("distance"), theme.current().series[0])])
        self.pet = PetChart()
        self.charts: list[LineChart] = [self.alpha, self.distance, self.g, self.pet]
        for chart in self.charts:
            ChartMenu(chart)
        self.link = ChartLink(self.charts, self)
        self.sentence = QLabel()
        self.sentence.setTextFormat(Qt.TextFormat.PlainText)
        self.sentence.setWordWrap(True)
        self.sentence.setAccessibleName(_("What α proves"))
        self.phase = QLabel()
        self.phase.setTextFormat(Qt.TextFormat.PlainText)
        self.phase.setObjectName("muted")
        words = QHBoxLayout()
        words.addWidget(self.sentence, 1)
        words.addWidget(self.phase)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(words)
        # Four below each other leave no room for their axes in a small window.
        beside = QHBoxLayout()
        beside.setSpacing(8)
        beside.addWidget(self.distance, 1)
        beside.addWidget(self.g, 1)
        layout.addWidget(self.alpha, 3)
        layout.addLayout(beside, 2)
        layout.addWidget(self.pet, 2)

    def draw(self, model: RunModel, folder: Path | None = None) -> None:
        """Draw what the model holds; ``folder`` is the run's."""
        update_alpha_chart(self.alpha, model)
        for chart in self.charts:
            chart.set_marks(model.marks)
        self.g.draw(model.gate)
        self.pet.show_run(model, folder)
        self.distance.set_note(arrival_note(model))
        self.distance.draw(model.gate)
        name = "good" if model.converged_at is not None else ""
        if self.sentence.objectName() != name:
            self.sentence.setObjectName(name)
            self.sentence.style().polish(self.sentence)
        self.sentence.setText(gate_sentence(model))
        phase = model.last_gate.phase if model.last_gate else ""
        self.phase.setText(_("Phase: %(phase)s") % {"phase": shown(phase, PHASES) or MISSING_TEXT})
