"""Short versions of `pipeline_kills`: the demonstration's data steps, and all eight on a tiny model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from so8t_engine.paths import resources_dir
from tests.faults.harness import tiny_run_config, write_sources
from tests.faults.pipeline_kills import measure

OFF = [f"{name}.enabled=false" for name in ("soul", "train", "integrate", "evaluate", "upload")]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_in_each_step_it_ends_the_same(tmp_path: Path) -> None:
    sources = (
        "collect.sources=[{name: site, kind: web, location: demo-site, max_pages: 20},"
        " {name: hub, kind: hub, location: demo-hub}]"
    )
    found = measure(Path("pipeline_demo"), [*OFF, sources, "workers=1"], 1, tmp_path)
    assert found["killed"] == {"collect": 1, "preprocess": 1, "cleanup": 1} or set(found["killed"]) >= {
        "collect", "preprocess",
    }  # fmt: skip
    assert all(found["identical"].values()), found
    assert found["undeclared"] == []
    assert set(found["call_after"].values()) == {"skipped", "off"}


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.skipif(
    "SO8T_PIPELINE_KILLS" not in os.environ, reason="a minute or two: SO8T_PIPELINE_KILLS=1 runs it"
)
def test_all_eight_steps_killed_on_a_tiny_model_end_the_same(tmp_path: Path) -> None:
    """A killed pipeline's trainer saves and stops: what it leaves is no result, but goes on to its end."""
    model, rows = write_sources(tmp_path / "sources")
    training = {"max_steps": 80, "epochs": 100.0, "evaluate_every": 1000}
    config = tiny_run_config(
        model, rows, tmp_path / "runs", training=training, checkpoints={"every_steps": 30}
    )
    run = tmp_path / "tiny.yaml"
    run.write_text(config.to_yaml(), encoding="utf-8")
    lines = (resources_dir() / "data" / "four_class" / "train.jsonl").read_text("utf-8").splitlines()
    (rows / "some.jsonl").write_text("\n".join(lines[:200]) + "\n", "utf-8")
    changes = [
        f"collect.sources=[{{name: some, kind: local, location: {rows / 'some.jsonl'}, licence: own}},"
        " {name: site, kind: web, location: demo-site, max_pages: 20}]",
        f"train.config={run}", "train.changes=[]", "soul.records=200", "integrate.steps=12",
        "evaluate.max_rows=20", "workers=1",
    ]  # fmt: skip
    found = measure(Path("pipeline_demo"), changes, 1, tmp_path, progress=(1,))
    print(found)  # noqa: T201
    assert {"train", "integrate", "evaluate"} <= set(found["killed"])
    assert all(found["identical"].values()), found
    assert found["undeclared"] == []
    assert set(found["call_after"].values()) == {"skipped"}
