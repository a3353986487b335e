"""Step 8: cleanup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from so8t_engine.config.fields import setting
from so8t_engine.i18n import N_
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.step import Estimate, Step, StepResult, StepSettings


class CleanupSettings(StepSettings):
    """What may go."""

    scratch: bool = setting(
        True, N_("Scratch"), N_("Deletes downloads, indexes and other files that are no result.")
    )
    outputs: list[str] = setting(
        [],
        N_("Outputs of steps"),
        N_("Names of steps whose outputs are deleted too; they are made again when another step needs them."),
    )
    checkpoints: bool = setting(
        True,
        N_("Checkpoints of uploaded runs"),
        N_("Deletes checkpoints that nobody pinned, of this pipeline's runs that are finished and uploaded."),
    )
    startup_task: bool = setting(
        False, N_("Start-up task"), N_("Removes the task that continues interrupted runs when you log on.")
    )
    trash: bool = setting(
        True,
        N_("Into the trash"),
        N_("Moves outputs and checkpoints into the system's trash where there is one."),
    )


class CleanupStep(Step[CleanupSettings]):
    """Deletes what this pipeline made and nobody needs."""

    name = "cleanup"
    title = N_("Cleanup")
    needs = ("collect", "preprocess", "soul", "train", "integrate", "evaluate", "upload")
    outputs = ("deleted.json",)
    code = ("so8t_engine.pipeline.cleanup",)
    reads_inputs = False

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        return Estimate(2.0, 150 * 2**20, 10_000)

    def listing(self, work: Path) -> list[dict[str, object]]:
        """What it would delete now, with sizes; for ``--dry-run`` and the window."""
        from so8t_engine.pipeline.cleanup.run import listing

        return [one.record() for one in listing(self.settings, work)]

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.pipeline.cleanup.run import clean_up

        return clean_up(self.settings, context)
