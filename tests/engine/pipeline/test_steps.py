"""What each of the eight steps declares before it runs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from so8t_engine.errors import SO8TError
from so8t_engine.evaluation import lm_eval_files
from so8t_engine.pipeline.config import PipelineConfig, load_pipeline_config
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.pipeline.plan import size_text
from so8t_engine.pipeline.step import Step
from so8t_engine.pipeline.steps.evaluate import EvaluateStep


def _steps(*changes: str) -> dict[str, Step]:  # type: ignore[type-arg]
    pipeline = Pipeline(load_pipeline_config("pipeline_demo", list(changes)))
    return {step.name: step for step in pipeline.steps}


def _rows(file: Path, count: int) -> None:
    pq.write_table(pa.table({"prompt": ["what it says " * 5] * count, "response": ["ok"] * count}), file)


def test_every_step_says_what_it_publishes_and_may_take(tmp_path: Path) -> None:
    _rows(tmp_path / "train.parquet", 2000)
    _rows(tmp_path / "test.parquet", 300)
    (tmp_path / "manifest.json").write_text('{"files": {}, "facts": {"rows": 2300}}')
    inputs = dict.fromkeys(("collect", "preprocess"), tmp_path)
    for name, step in _steps().items():
        assert step.outputs, name
        estimate = step.estimate(inputs)
        assert estimate.seconds is not None, name
        assert estimate.seconds > 0, name
        assert estimate.memory_bytes, name
        assert estimate.disk_bytes is not None, name


def test_more_work_is_expected_to_take_longer(tmp_path: Path) -> None:
    _rows(tmp_path / "train.parquet", 2000)
    inputs = {"preprocess": tmp_path}

    def seconds(*changes: str) -> float:
        estimate = _steps(*changes)["train"].estimate(inputs)
        assert estimate.seconds is not None
        return estimate.seconds

    one, two = seconds(), seconds('train.changes=["training.epochs=2"]')
    assert one < two
    assert seconds('train.changes=["training.epochs=2","training.max_steps=10"]') < one
    assert _steps("train.config=nowhere.yaml")["train"].estimate(inputs).seconds is None


def test_harness_tasks_are_inputs_of_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_files, "find_spec", lambda _name: object())
    task = tmp_path / "task.yaml"
    config = PipelineConfig.model_validate({"evaluate": {"lm_eval": [str(task)]}})
    with pytest.raises(PipelineError, match="does not exist"):
        EvaluateStep(config).external_inputs()
    task.write_text("task: one\n")
    before = EvaluateStep(config).external_inputs()
    task.write_text("task: two\n")
    assert before.keys() == EvaluateStep(config).external_inputs().keys() == {str(task)}
    assert before != EvaluateStep(config).external_inputs()
    # Told when the pipeline is planned, not after the training.
    task.write_text("task: one\ninclude: other.yaml\n")
    with pytest.raises(SO8TError, match="'include'"):
        EvaluateStep(config).external_inputs()
    task.write_text("task: one\n")
    monkeypatch.setattr(lm_eval_files, "find_spec", lambda _name: None)
    with pytest.raises(SO8TError, match="not installed"):
        EvaluateStep(config).external_inputs()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (12_000_000, "12 MB"), (7.5e9, "7.5 GB")],
)
def test_sizes_have_units(size: float, text: str) -> None:
    assert size_text(int(size)) == text
