"""Step 2: preprocessing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from so8t_engine.i18n import N_
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.preprocess.settings import PreprocessSettings
from so8t_engine.pipeline.step import Estimate, Step, StepResult

__all__ = ["PreprocessSettings", "PreprocessStep"]

#: Measured on one core of a small server; see tests/benchmarks/RESULTS.md.
ROWS_PER_S = 3_000
#: With Presidio: two English texts a row, 18 ms each.
PRESIDIO_ROWS_PER_S = 30


class PreprocessStep(Step[PreprocessSettings]):
    """Cleans, labels, removes duplicates and splits."""

    name = "preprocess"
    title = N_("Preprocessing")
    needs = ("collect",)
    outputs = (
        "train.parquet",
        "validation.parquet",
        "test.parquet",
        "images.parquet",
        "review.parquet",
        "report.json",
    )
    code = ("so8t_engine.pipeline.preprocess", "so8t_engine.pipeline.collect.records", "so8t_engine.data")

    def external_inputs(self) -> Mapping[str, str]:
        from so8t_engine.pipeline.preprocess.review import read_reviews

        reviews = read_reviews(self.config.work)
        digest = hashlib.sha256(json.dumps(reviews, sort_keys=True).encode()).hexdigest()
        found = {"reviews": digest} if reviews else {}
        if self._asks_presidio():
            from so8t_engine.pipeline.preprocess.presidio import require

            found["presidio"] = require(self.settings.presidio_model)
        return found

    def _asks_presidio(self) -> bool:
        return self.settings.presidio and self.settings.personal_data != "keep"

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        """By the rows that were collected, once they are."""
        if "collect" not in inputs:
            return Estimate(memory_bytes=800 * 2**20)
        manifest = json.loads((inputs["collect"] / "manifest.json").read_text(encoding="utf-8"))
        size = sum(entry["bytes"] for entry in manifest["files"].values())
        rows = int(manifest["facts"].get("rows", 0))
        workers = self.config.workers or 2
        pace = PRESIDIO_ROWS_PER_S if self._asks_presidio() else ROWS_PER_S
        return Estimate(3.0 + rows / pace / workers, 800 * 2**20, 4 * size)

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.pipeline.preprocess.run import preprocess

        return preprocess(self.settings, context)
