"""The eight steps in their order."""

from __future__ import annotations

from typing import Any

from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.step import Step
from so8t_engine.pipeline.steps.cleanup import CleanupStep
from so8t_engine.pipeline.steps.collect import CollectStep
from so8t_engine.pipeline.steps.evaluate import EvaluateStep
from so8t_engine.pipeline.steps.integrate import IntegrateStep
from so8t_engine.pipeline.steps.preprocess import PreprocessStep
from so8t_engine.pipeline.steps.soul import SoulStep
from so8t_engine.pipeline.steps.train import TrainStep
from so8t_engine.pipeline.steps.upload import UploadStep

STEPS: tuple[type[Step[Any]], ...] = (
    CollectStep,
    PreprocessStep,
    SoulStep,
    TrainStep,
    IntegrateStep,
    EvaluateStep,
    UploadStep,
    CleanupStep,
)
NAMES: tuple[str, ...] = tuple(step.name for step in STEPS)


def make_steps(config: PipelineConfig) -> list[Step[Any]]:
    """One instance of each step, in order."""
    return [step(config) for step in STEPS]
