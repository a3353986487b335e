"""Short versions of `pipeline_kills`: the demonstration's data steps, and training on a tiny model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
    assert set(found["call_after"].values()) == {"skipped", "off"}


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.skipif(
    "SO8T_PIPELINE_KILLS" not in os.environ, reason="half a minute: SO8T_PIPELINE_KILLS=1 runs it"
)
def test_killed_while_it_trains_it_ends_the_same(tmp_path: Path) -> None:
    """The trainer outlives the kill, saves and stops: what it leaves is no result but goes on to its end."""
    model, rows = write_sources(tmp_path / "sources")
    training = {"max_steps": 80, "epochs": 100.0, "evaluate_every": 1000}
    config = tiny_run_config(
        model, rows, tmp_path / "runs", training=training, checkpoints={"every_steps": 30}
    )
    run = tmp_path / "tiny.yaml"
    run.write_text(config.to_yaml(), encoding="utf-8")
    off = [f"{name}.enabled=false" for name in ("soul", "integrate", "evaluate", "upload", "cleanup")]
    source = f"collect.sources=[{{name: few, kind: local, location: {rows / 'train.jsonl'}, licence: own}}]"
    changes = [*off, source, f"train.config={run}", "train.soul=none", "workers=1"]
    found = measure(Path("pipeline_demo"), changes, 1, tmp_path, progress=(2,), only="train")
    assert found["killed"].get("train") == 1
    assert all(found["identical"].values()), found
    assert found["last_call"]["train"] in {"done", "skipped"}
