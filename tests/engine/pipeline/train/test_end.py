"""When the training step may publish what its run left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from so8t_engine.pipeline.train.run import _finished
from so8t_engine.training.events import StateEvent
from so8t_engine.training.final import _sort_lists
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State


@pytest.mark.parametrize(
    ("end", "done"), [(State.STOPPED, False), (State.FAILED, False), (State.FINISHED, True)]
)
def test_only_a_run_that_reached_its_end_is_a_result(tmp_path: Path, end: State, done: bool) -> None:
    """One that saved and stopped, as when the pipeline is killed, leaves a final folder as well."""
    run = RunDirectory(tmp_path)
    (run.path / "final").mkdir()
    (run.path / "final" / "results.json").write_text("{}")
    assert not _finished(run)
    writer = EventWriter(run)
    writer.write(StateEvent(from_=State.RUNNING, to=end, reason=""))
    writer.close()
    assert _finished(run) is done


def test_lists_that_peft_writes_from_sets_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"target_modules": ["b", "a"], "r": 8, "modules_to_save": None}))
    _sort_lists(path)
    assert json.loads(path.read_text()) == {"modules_to_save": None, "r": 8, "target_modules": ["a", "b"]}
