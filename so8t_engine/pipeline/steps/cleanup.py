"""Step 8: cleanup."""

from __future__ import annotations

from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.step import Step, StepResult, StepSettings


class CleanupSettings(StepSettings):
    """What the step does."""


class CleanupStep(Step[CleanupSettings]):
    """Not part of this version."""

    name = "cleanup"
    title = N_("Cleanup")
    available = False

    def run(self, context: StepContext) -> StepResult:
        raise PipelineError(
            _("The step %(name)s is not part of this version.") % {"name": _(self.title)},
            _("Switch it off in the configuration."),
        )
