"""Step 1: collection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so8t_engine.i18n import N_
from so8t_engine.pipeline.collect.settings import CollectSettings
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.step import Estimate, Step, StepResult

__all__ = ["CollectSettings", "CollectStep"]


class CollectStep(Step[CollectSettings]):
    """Rows and pictures from local files, Hub data sets and web pages."""

    name = "collect"
    title = N_("Collection")
    outputs = ("rows/*.parquet", "sources.json")
    code = ("so8t_engine.pipeline.collect", "so8t_engine.pipeline.demo", "so8t_engine.data")

    def external_inputs(self) -> Mapping[str, str]:
        from so8t_engine.pipeline.collect.local import file_marks
        from so8t_engine.pipeline.store import sha256_json

        return {
            source.location: sha256_json(file_marks(source.location))
            for source in self.settings.sources
            if source.kind == "local"
        }

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        """Time for the delays between web requests; disk for a copy of local files."""
        web = [source for source in self.settings.sources if source.kind == "web"]
        seconds = sum(source.max_pages * max(self.settings.delay_s, 0.05) for source in web)
        return Estimate(
            seconds=5.0 + seconds, memory_bytes=400 * 2**20, disk_bytes=self._local_bytes() or None
        )

    def _local_bytes(self) -> int:
        from so8t_engine.pipeline.collect.local import files_of

        local: list[Any] = [source for source in self.settings.sources if source.kind == "local"]
        return sum(path.stat().st_size for source in local for path in files_of(source.location))

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.pipeline.collect.run import collect

        return collect(self.settings, context)
