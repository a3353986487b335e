"""The one typed configuration of a run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import yaml
from pydantic import Field

from so8t_engine.config.fields import Section, setting
from so8t_engine.config.sections import (
    CheckpointConfig,
    DataConfig,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    RunConfig,
)
from so8t_engine.config.serving import SampleConfig, ServingConfig
from so8t_engine.config.training import SO8TConfig, TrainingConfig
from so8t_engine.i18n import N_

SCHEMA_VERSION = 1


class Config(Section):
    """Everything a training run depends on."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    name: str = setting(
        "run",
        N_("Name"),
        N_("Part of the run folder's name."),
        min_length=1,
        max_length=64,
        pattern=r"^[\w][\w .\-]*$",
    )
    model: ModelConfig = Field(default_factory=ModelConfig, title=N_("Base model"))
    data: DataConfig = Field(default_factory=DataConfig, title=N_("Data"))
    lora: LoraConfig = Field(default_factory=LoraConfig, title="LoRA")
    so8t: SO8TConfig = Field(default_factory=SO8TConfig, title="SO8T")
    training: TrainingConfig = Field(default_factory=TrainingConfig, title=N_("Training"))
    memory: MemoryConfig = Field(default_factory=MemoryConfig, title=N_("Memory"))
    checkpoints: CheckpointConfig = Field(default_factory=CheckpointConfig, title=N_("Checkpoints"))
    samples: SampleConfig = Field(default_factory=SampleConfig, title=N_("Samples"))
    serving: ServingConfig = Field(default_factory=ServingConfig, title=N_("Serving"))
    run: RunConfig = Field(default_factory=RunConfig, title=N_("Run"))

    def to_yaml(self) -> str:
        """The configuration as YAML, every key written, in declaration order."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text

    def digest(self) -> str:
        """SHA-256 over what determines the result: everything but the name, the run section,
        and what only looks at the model: samples and serving.
        """
        content: dict[str, Any] = self.model_dump(mode="json", exclude={"run", "name", "samples", "serving"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
