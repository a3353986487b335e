"""Step 3: the soul dataset along the schedule that the training step will follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so8t_engine.config import load_config
from so8t_engine.config.fields import setting
from so8t_engine.i18n import N_, _, language
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.step import Estimate, Step, StepResult, StepSettings
from so8t_engine.soul_dataset.settings import SoulDatasetSettings, SoulRecordSettings


class SoulSettings(StepSettings, SoulRecordSettings):
    """What the step does."""

    config: str = setting(
        "demo",
        N_("Run configuration"),
        N_("YAML file or preset whose α schedule and PET weights the records follow."),
        path="file",
        min_length=1,
    )


class SoulStep(Step[SoulSettings]):
    """Records of source ``schedule``; ``so8t soul-dataset`` also makes those of a finished run."""

    name = "soul"
    title = N_("Soul dataset")
    outputs = ("*.safetensors", "index.jsonl", "index.parquet", "*.jsonl", "dataset_stats.json", "*.svg")
    code = ("so8t_engine.soul_dataset", "so8t_engine.so8t.schedule", "so8t_engine.plotting")

    def digest_settings(self) -> Mapping[str, Any]:
        # The records' sentences are in the language that is set.
        return {**super().digest_settings(), "language": language()}

    def external_inputs(self) -> Mapping[str, str]:
        return {"so8t": load_config(self.settings.config).so8t.model_dump_json()}

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        count = self.settings.records
        # Measured at 5,000 records: 2.4 s of one core, 205 MB, 6.6 MB of files.
        return Estimate(2.0 + count / 10_000, 150 * 1024**2 + 12_000 * count, 1500 * count)

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.soul_dataset.generate import INDEX, write_dataset
        from so8t_engine.soul_dataset.statistics import SPLITS
        from so8t_engine.soul_dataset.text import render

        context.progress(_("drawing rotations"), 0)
        values = self.settings.model_dump(exclude={"enabled", "config"})
        settings = SoulDatasetSettings(**values, seed=context.seed)
        stats = write_dataset(context.output, load_config(self.settings.config), settings)
        context.check()
        lines: dict[str, list[str]] = {split: [] for split in SPLITS}
        for line in (context.output / INDEX).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            text = {"text": render(record), "sample_id": record["sample_id"], "source": "soul/schedule"}
            lines[record["split"]].append(json.dumps(text, ensure_ascii=False))
        for split, found in lines.items():
            (context.output / f"{split}.jsonl").write_text("\n".join([*found, ""]), encoding="utf-8")
        told = ("source", "records", "splits", "phases", "commutator", "orthogonality_max", "heads_source")
        return StepResult(facts={name: stats[name] for name in told})
