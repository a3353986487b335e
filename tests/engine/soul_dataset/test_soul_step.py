"""The pipeline's soul step: same digest again after a kill that left half a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.steps.soul import SoulStep


def _context(folder: Path) -> StepContext:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return StepContext(
        output=folder / "output", scratch=folder / "scratch", inputs={}, facts={}, work=folder,
        seed=7, workers=1, emit=lambda event: None, stopping=lambda: False,
    )  # fmt: skip


def test_the_step_writes_the_dataset_and_its_texts_again_and_again(tmp_path: Path) -> None:
    step = SoulStep(PipelineConfig.model_validate({"soul": {"records": 200}}))
    result = step.run(_context(tmp_path))
    output = tmp_path / "output"
    first = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in output.iterdir()}
    assert result.facts["splits"] == {"train": 160, "validation": 20, "test": 20}
    texts = [json.loads(line) for line in (output / "validation.jsonl").read_text("utf-8").splitlines()]
    assert len(texts) == 20
    assert all("synthetic" in text["text"] for text in texts)
    (output / "index.jsonl").write_bytes((output / "index.jsonl").read_bytes()[:1000])
    (output / "train-00000.safetensors").unlink()
    step.run(_context(tmp_path))
    assert {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in output.iterdir()} == first
