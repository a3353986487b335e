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
    outputs = ("run.json", "final/*", "soul_telemetry.json")
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
        """Memory as ``so8t estimate`` says; time by tokens and parameters; disk for checkpoints."""
        from so8t_engine.errors import SO8TError
        from so8t_engine.memory.budget import estimate
        from so8t_engine.pipeline import expected

        known = expected.configured(self.settings)
        if known is None:
            return Estimate()
        config, shapes = known
        try:
            memory = int(estimate(config).peak_reserved_bytes)
        except (SO8TError, AttributeError):
            memory = None
        targets = shapes.lora_targets(config.lora.targets)
        adapter = shapes.layers * config.lora.r * sum(one.inputs + one.outputs for one in targets)
        # Weights in float32 and two moments of a byte each, of every checkpoint that is kept.
        disk = (config.checkpoints.keep + 2) * 6 * adapter
        rows = expected.tokens_of(inputs["preprocess"] / "train.parquet") if "preprocess" in inputs else None
        if rows is None or not rows[0]:
            return Estimate(None, memory, disk)
        training = config.training
        tokens = rows[1] * training.epochs
        if training.max_steps is not None:
            seen = training.max_steps * training.batch_size * training.accumulation
            tokens = min(tokens, seen * rows[1] / rows[0] * (3 if training.packing else 1))
        # Forward, and backward through a frozen base; once more forward where layers are computed again.
        passes = 8 if training.gradient_checkpointing else 6
        return Estimate(expected.seconds(passes * shapes.parameters * tokens), memory, disk)

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
