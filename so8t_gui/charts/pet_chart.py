"""PET as an instrument: what was measured, λ(t) beside it, and the phase in words."""

from __future__ import annotations

from pathlib import Path

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.training.run_directory import RunDirectory
from so8t_gui import theme
from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.models.pet import PetCourse, phase_at
from so8t_gui.models.run_model import RunModel


class PetChart(LineChart):
    """Both on one logarithmic axis: λ is of the size of 0.01 to 0.1, PET of 0.01 to 10."""

    def __init__(self) -> None:
        super().__init__(_("PET, the inertia of attitude"), log=True, robust=False)
        colours = theme.current().series
        self.set_series(
            [
                Series("pet", _("measured, before weighting"), colours[6]),
                Series("weight", "λ(t)", colours[7], dashed=True),
            ]
        )
        self._folder: Path | None = None
        self._course: PetCourse | None = None

    def show_run(self, model: RunModel, folder: Path | None) -> None:
        """Draw what the model holds; the weights come from the run's own settings."""
        if folder != self._folder or (self._course is None and folder is not None):
            self._folder, self._course = folder, _course(folder)
        if self._course is None:
            self.set_note(_("The run's settings cannot be read, so λ is unknown.") if folder else "")
            return
        self._course.update(model)
        if (step := model.last_step) is not None:
            phase = phase_at(self._course.config, step.step, step.of)
            self.set_note(
                _("phase %(number)d of %(of)d, λ %(weight).3g up to step %(until)d")
                % {"number": phase.number, "of": phase.of, "weight": phase.weight, "until": phase.until}
            )
        self.draw(self._course.columns)


def _course(folder: Path | None) -> PetCourse | None:
    if folder is None:
        return None
    try:
        return PetCourse(RunDirectory(folder).config())
    except (SO8TError, OSError):
        return None
