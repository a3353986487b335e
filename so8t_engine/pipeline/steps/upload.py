"""Step 7: upload."""

from __future__ import annotations

from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.step import Step, StepResult, StepSettings


class UploadSettings(StepSettings):
    """What the step does."""


class UploadStep(Step[UploadSettings]):
    """Not part of this version."""

    name = "upload"
    title = N_("Upload")
    available = False

    def run(self, context: StepContext) -> StepResult:
        raise PipelineError(
            _("The step %(name)s is not part of this version.") % {"name": _(self.title)},
            _("Switch it off in the configuration."),
        )
