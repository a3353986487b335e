"""The pipeline's configuration: the eight steps' sections, each declared beside its step."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field, field_validator

from so8t_engine.config.fields import Section, setting
from so8t_engine.config.loading import load_section
from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.steps.cleanup import CleanupSettings
from so8t_engine.pipeline.steps.collect import CollectSettings
from so8t_engine.pipeline.steps.evaluate import EvaluateSettings
from so8t_engine.pipeline.steps.integrate import IntegrateSettings
from so8t_engine.pipeline.steps.preprocess import PreprocessSettings
from so8t_engine.pipeline.steps.soul import SoulSettings
from so8t_engine.pipeline.steps.train import TrainSettings
from so8t_engine.pipeline.steps.upload import UploadSettings
from so8t_engine.safe_paths import is_windows_name


class PipelineConfig(Section):
    """Everything a pipeline depends on."""

    schema_version: int = Field(default=1, ge=1, le=1)
    name: str = setting(
        "pipeline",
        N_("Name"),
        N_("The pipeline's folder below the folder of pipelines."),
        min_length=1,
        max_length=64,
        pattern=r"^[\w][\w .\-]*$",
    )
    directory: str = setting(
        "pipelines",
        N_("Folder of pipelines"),
        N_("Each pipeline keeps its steps' outputs below its name in here."),
        path="folder",
        min_length=1,
    )
    seed: int = setting(
        42, N_("Seed"), N_("Same sources, settings and seed: same outputs."), ge=0, le=2**31 - 1
    )
    workers: int | None = setting(
        None, N_("Processes"), N_("For steps that use several. Empty takes every core."), ge=1, le=1024
    )
    dask: str = setting(
        "",
        N_("Dask"),
        N_(
            "For more rows than one machine is to clean: the address of a Dask scheduler that you trust, or "
            "local for workers on this machine. Empty uses the processes above. The result is the same."
        ),
        max_length=256,
        advanced=True,
    )
    attempts: int = setting(
        3,
        N_("Attempts"),
        N_("How often a step is tried whose failure may pass, such as a broken connection."),
        ge=1,
        le=20,
    )
    collect: CollectSettings = Field(default_factory=CollectSettings, title=N_("Collection"))
    preprocess: PreprocessSettings = Field(default_factory=PreprocessSettings, title=N_("Preprocessing"))
    soul: SoulSettings = Field(default_factory=SoulSettings, title=N_("Soul dataset"))
    train: TrainSettings = Field(default_factory=TrainSettings, title=N_("Training"))
    integrate: IntegrateSettings = Field(default_factory=IntegrateSettings, title=N_("Integration"))
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings, title=N_("Evaluation"))
    upload: UploadSettings = Field(default_factory=UploadSettings, title=N_("Upload"))
    cleanup: CleanupSettings = Field(default_factory=CleanupSettings, title=N_("Cleanup"))

    @field_validator("name")
    @classmethod
    def _may_be_a_folder(cls, name: str) -> str:
        if sys.platform == "win32" and not is_windows_name(name):
            raise ValueError(_("Windows makes no folder of that name"))
        return name

    @property
    def work(self) -> Path:
        """The pipeline's own folder."""
        return Path(self.directory).expanduser().absolute() / self.name


def load_pipeline_config(path: str | Path, overrides: list[str] | None = None) -> PipelineConfig:
    """A `PipelineConfig` from a YAML file or the name of a shipped one, such as ``pipeline_demo``.

    Raises:
        ConfigError: the file is missing, unreadable or wrong; names file, line and field.
    """
    return load_section(PipelineConfig, path, overrides or [])
