"""What a step of the pipeline is, declares and returns.

A step reads the published outputs of earlier steps, writes into a folder of its own that the graph
publishes in one rename, and can be killed at any moment: called again with the same digest it finds what it
had written and goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from so8t_engine.config.fields import Section, setting
from so8t_engine.i18n import N_

if TYPE_CHECKING:
    from so8t_engine.pipeline.config import PipelineConfig
    from so8t_engine.pipeline.context import StepContext


class StepSettings(Section):
    """What every step's section of the configuration has."""

    enabled: bool = setting(True, N_("Do this step"), N_("When off, the step is left out and says so."))


Settings = TypeVar("Settings", bound=StepSettings)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a step is expected to take; None where nothing is known.

    Args:
        seconds, memory_bytes, disk_bytes: of the step alone, on this machine.
        basis: where the figures come from: ``measured`` (an earlier run here) or ``estimated``.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    basis: str = "estimated"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step tells when it is done; its files lie in the context's ``output``.

    Args:
        facts: plain JSON: counts and figures for the window, the report and ``--json``.
        volatile: paths (or globs) below ``output``, left out of the content digest: files that hold clocks.
        content: replaces the content digest, where whole files cannot be compared byte by byte.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    volatile: tuple[str, ...] = ()
    content: str | None = None


class Step(ABC, Generic[Settings]):
    """One step. Making an instance must be cheap: no torch, no datasets, no files read.

    Attributes:
        name: of the step, its section in the configuration and its folder.
        title: what a person reads; marked with ``N_``.
        needs: earlier steps whose output this one reads. A disabled one is absent from the context.
        outputs: globs of the files it publishes.
        code: modules or packages besides the step's own whose source is its code version. A change of any
            of them makes the step run again.
        keeps_scratch: whether scratch stays when settings change (a cache of downloads); it goes otherwise.
        reads_inputs: whether it reads the files of its inputs, which are then checked against their SHA-256.
        available: False for a step that this version of the program does not have.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[tuple[str, ...]] = ()
    keeps_scratch: ClassVar[bool] = False
    reads_inputs: ClassVar[bool] = True
    available: ClassVar[bool] = True

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config

    @property
    def settings(self) -> Settings:
        """The step's own section."""
        section: Settings = getattr(self.config, self.name)
        return section

    def digest_settings(self) -> Mapping[str, Any]:
        """The settings that determine the result; plain JSON. Override to leave out what does not."""
        return self.settings.model_dump(mode="json", exclude={"enabled"})

    def external_inputs(self) -> Mapping[str, str]:
        """Name → digest of whatever outside the pipeline the result depends on, such as local files.

        Raises:
            SO8TError: an input is missing.
        """
        return {}

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        """What the step will take, from its settings and the published outputs that exist already."""
        return Estimate()

    def retryable(self, error: Exception) -> bool:
        """Whether trying again may help: by default for broken and refused connections and timeouts."""
        from so8t_engine.pipeline.errors import TransientError

        return isinstance(error, TransientError | ConnectionError | TimeoutError)

    @abstractmethod
    def run(self, context: StepContext) -> StepResult:
        """Do the step; see `StepContext` for what it may use.

        Raises:
            SO8TError: it failed, with its mend. Anything else is a defect and is reported as one.
            PipelineStopped: from ``context.check()``, which is to be called at least every second.
        """
