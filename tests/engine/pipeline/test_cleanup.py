"""Cleanup deletes what this pipeline made and may go, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.pipeline.cleanup.run import listing
from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.pipeline.steps.cleanup import CleanupSettings, CleanupStep
from so8t_engine.pipeline.steps.collect import CollectStep
from so8t_engine.pipeline.steps.preprocess import PreprocessStep
from so8t_engine.pipeline.steps.train import TrainSettings
from so8t_engine.pipeline.train.run import _content
from so8t_engine.pipeline.train.soul import rows_with_soul


def make(tmp_path: Path, **cleanup: Any) -> Pipeline:  # noqa: ANN401
    data = tmp_path / "rows.jsonl"
    if not data.exists():
        lines = [
            json.dumps({"prompt": f"Describe subject {i} in words.", "response": "ok" * i})
            for i in range(1, 30)
        ]
        data.write_text("\n".join(lines))
    config = PipelineConfig.model_validate({
        "name": "t", "directory": str(tmp_path / "p"), "workers": 1,
        "collect": {"sources": [{"name": "a", "location": str(data), "licence": "own"}]},
        "cleanup": {"trash": False} | cleanup,
    })  # fmt: skip
    return Pipeline(config, [CollectStep(config), PreprocessStep(config), CleanupStep(config)])


def run_folder(
    work: Path, name: str, *, uploaded: bool = True, over: bool = True, pinned: bool = False
) -> Path:
    """A run that looks like one to the cleanup: its checkpoints are real folders."""
    path = work / "runs" / name
    checkpoint = path / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights.safetensors").write_bytes(b"x" * 1000)
    (path / "final").mkdir()
    if over:
        (path / "final" / "results.json").write_text("{}")
    if uploaded:
        (path / "uploaded.json").write_text("{}")
    if pinned:
        (path / "pinned").touch()
    return path


def test_scratch_goes_and_everything_stays_up_to_date(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    assert pipeline.run() == 0
    assert not pipeline.store("preprocess").scratch.exists()
    deleted = json.loads((pipeline.store("cleanup").output / "deleted.json").read_text())
    assert {one["kind"] for one in deleted} == {"scratch"}
    assert [one.action for one in pipeline.plan()] == ["skip"] * 3


def test_a_dry_run_lists_and_deletes_nothing(tmp_path: Path) -> None:
    pipeline = make(tmp_path, enabled=False)
    pipeline.run()
    pipeline = make(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    doomed = pipeline.would_delete(pipeline.plan())
    assert {(one["kind"], one["step"]) for one in doomed} >= {("scratch", "preprocess")}
    assert all(int(one["bytes"]) > 0 for one in doomed)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_cleaned_output_is_made_again_when_it_is_needed(tmp_path: Path) -> None:
    pipeline = make(tmp_path, outputs=["collect"])
    pipeline.run()
    assert not list((pipeline.store("collect").output / "rows").rglob("*.parquet"))
    assert [one.action for one in pipeline.plan()] == ["skip"] * 3
    content = pipeline.store("preprocess").manifest()["content"]  # type: ignore[index]
    assert pipeline.run(from_="preprocess") == 0  # reads what is gone
    assert pipeline.store("preprocess").manifest()["content"] == content  # type: ignore[index]


def test_files_that_no_manifest_names_stay(tmp_path: Path) -> None:
    pipeline = make(tmp_path, enabled=False)
    pipeline.run()
    mine = pipeline.store("collect").output / "my notes.txt"
    mine.write_text("mine")
    other = pipeline.work / "elsewhere.txt"
    other.write_text("mine")
    assert make(tmp_path, outputs=["collect"]).run() == 0
    assert mine.exists()
    assert other.exists()
    assert (tmp_path / "rows.jsonl").exists()


def test_checkpoints_only_of_runs_that_are_over_uploaded_and_not_pinned(tmp_path: Path) -> None:
    gone = run_folder(tmp_path, "gone")
    for name, how in {"a": {"uploaded": False}, "b": {"over": False}, "c": {"pinned": True}}.items():
        run_folder(tmp_path, name, **how)
    found = listing(CleanupSettings(), tmp_path)
    assert [one.path for one in found] == [gone / "checkpoints" / "step-00000010"]
    assert found[0].bytes == 1000
    assert listing(CleanupSettings(checkpoints=False), tmp_path) == []


def test_only_outputs_of_steps_can_be_named(tmp_path: Path) -> None:
    for name in ("upload", "../..", "soup"):
        with pytest.raises(PipelineError, match="cannot be cleaned away"):
            listing(CleanupSettings(outputs=[name]), tmp_path)


def test_soul_texts_keep_to_their_share(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pipeline = make(tmp_path)
    pipeline.run()
    rows = pipeline.store("preprocess").output
    soul = tmp_path / "soul"
    soul.mkdir()
    (soul / "train.jsonl").write_text("\n".join(json.dumps({"text": f"soul {i}"}) for i in range(100)))
    before = pq.read_table(rows / "train.parquet").num_rows
    folder = rows_with_soul(rows, soul, tmp_path / "data", 0.2, 1)
    table = pq.read_table(folder / "train.parquet").to_pylist()
    added = [row for row in table if row["source"] == "soul"]
    assert 0 < len(added) <= 0.2 * len(table)
    assert len(table) == before + len(added)
    kept = [path.name for path in rows.glob("*.parquet") if path.stem in {"validation", "test"}]
    assert all((folder / name).read_bytes() == (rows / name).read_bytes() for name in kept)
    assert TrainSettings().soul_text_share <= 0.2


def test_the_digest_of_weights_ignores_their_metadata(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    digests = set()
    for name, value, told in (("a", 1.0, "x"), ("b", 1.0, "y"), ("c", 2.0, "x")):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": np.full(4, value, np.float32)}, folder / "soul.safetensors", metadata={"when": told})
        digests.add(_content(folder))
    assert len(digests) == 2
