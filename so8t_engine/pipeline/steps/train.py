"""Step 4: training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from so8t_engine.config.fields import setting
from so8t_engine.i18n import N_
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.step import Estimate, Step, StepResult, StepSettings
from so8t_engine.training.run_directory import RunDirectory


class TrainSettings(StepSettings):
    """Which run, on what."""

    config: str = setting(
        "demo",
        N_("Run configuration"),
        N_("YAML file or preset of the run; its rows are replaced by those of the preprocessing."),
        path="file",
        min_length=1,
    )
    changes: list[str] = setting(
        [], N_("Changes"), N_("Settings of the run as a.b=value, on top of its configuration.")
    )
    soul: Literal["none", "telemetry", "text"] = setting(
        "telemetry",
        N_("Soul records"),
        N_(
            "telemetry compares the gate of the run with the records, phase by phase. text also trains on "
            "their sentences."
        ),
    )
    soul_text_share: float = setting(
        0.02,
        N_("Share of soul texts"),
        N_("At most this part of the training rows are sentences of soul records."),
        gt=0.0,
        le=0.2,
    )


class TrainStep(Step[TrainSettings]):
    """The run of the engine on the rows of step 2 and the records of step 3."""

    name = "train"
    title = N_("Training")
    needs = ("preprocess", "soul")
    code = (
        "so8t_engine.pipeline.train", "so8t_engine.training", "so8t_engine.so8t", "so8t_engine.model",
        "so8t_engine.data", "so8t_engine.evaluation",
    )  # fmt: skip

    def external_inputs(self) -> Mapping[str, str]:
        from so8t_engine.config import load_config

        # The rows are this pipeline's; where they lie on this machine changes nothing.
        config = load_config(self.settings.config, self.settings.changes)
        return {"run configuration": config.digest()}

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        """Memory as ``so8t estimate`` says; time is not known before the first run here."""
        from so8t_engine.config import load_config
        from so8t_engine.errors import SO8TError
        from so8t_engine.memory.budget import estimate

        try:
            peak = estimate(load_config(self.settings.config, self.settings.changes)).peak_reserved_bytes
        except (SO8TError, AttributeError):
            return Estimate()
        return Estimate(memory_bytes=int(peak))

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.pipeline.train.run import train

        return train(self.settings, context)


def run_of(output: Path) -> RunDirectory:
    """The run that a published training step made.

    Raises:
        RunError: it was deleted.
    """
    record: dict[str, Any] = json.loads((output / "run.json").read_text(encoding="utf-8"))
    return RunDirectory.open(record["run"])
