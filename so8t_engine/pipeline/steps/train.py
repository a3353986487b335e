"""Step 4: training."""

from __future__ import annotations

from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.step import Step, StepResult, StepSettings


class TrainSettings(StepSettings):
    """What the step does."""


class TrainStep(Step[TrainSettings]):
    """Not part of this version."""

    name = "train"
    title = N_("Training")
    available = False

    def run(self, context: StepContext) -> StepResult:
        raise PipelineError(
            _("The step %(name)s is not part of this version.") % {"name": _(self.title)},
            _("Switch it off in the configuration."),
        )
