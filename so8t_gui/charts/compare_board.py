"""Curves of several runs over each other."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtWidgets import QWidget

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.board import ChartBoard
from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.models.buffers import Columns
from so8t_gui.models.run_model import EVAL, RunModel
from so8t_gui.preferences import Preferences

#: Chart, table of the model, column, whether it is sparse.
LINES = {
    "loss": ("steps", "loss", False),
    "heldout": ("evaluation", EVAL + "loss", True),
    "accuracy": ("evaluation", EVAL + "task_accuracy", True),
    "alpha": ("gate", "alpha", False),
    "rate": ("steps", "lr", False),
    "norm": ("steps", "grad_norm", False),
    "speed": ("steps", "tokens_per_s", False),
    "step_time": ("steps", "step_s", False),
}


@dataclass(frozen=True, slots=True)
class OverlaidRun:
    """A run among others, under the name that it is shown by."""

    name: str
    model: RunModel


class CompareBoard(ChartBoard):
    """Each chart shows one quantity of all runs; a run has the same colour everywhere."""

    def __init__(self, preferences: Preferences | None = None, parent: QWidget | None = None) -> None:
        titles = {
            "loss": _("Loss"),
            "heldout": _("Held-out loss"),
            "accuracy": _("Held-out task accuracy"),
            "alpha": _("Gate α"),
            "rate": _("Learning rate"),
            "norm": _("Gradient norm"),
            "speed": _("Speed (tokens/s)"),
            "step_time": _("Step time (s)"),
        }
        charts = {key: LineChart(title, robust=key not in {"alpha", "rate"}) for key, title in titles.items()}
        names = list(charts)
        rows = [{key: charts[key] for key in names[:4]}, {key: charts[key] for key in names[4:]}]
        self.runs: list[OverlaidRun] = []
        super().__init__("comparison", rows, preferences, parent)

    def show_runs(self, runs: list[OverlaidRun]) -> None:
        """Overlay these runs."""
        self.runs = runs
        colours = theme.current().series
        for key, chart in self.named.items():
            _table, column, points = LINES[key]
            chart.set_series(
                [
                    Series(column, run.name, colours[i % len(colours)], points, i >= len(colours), f"run{i}")
                    for i, run in enumerate(runs)
                ]
            )
        self.model = runs[0].model if runs else None
        self.link.follow()
        self.redraw()

    def draw(self, model: RunModel) -> None:
        """Draw every run."""
        tables: list[Columns] = [run.model.steps for run in self.runs]
        tables += [run.model.gate for run in self.runs]
        self.link.fit(tables, self.axis.currentData())
        for key, chart in self.named.items():
            name, _column, _points = LINES[key]
            chart.draw_from({f"run{i}": getattr(run.model, name) for i, run in enumerate(self.runs)})
