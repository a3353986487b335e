"""What a checkpoint holds, which are kept, saving beside the training, a disk that is full, `runs verify`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from so8t_engine.commands.runs import pin_checkpoint
from so8t_engine.commands.verify import verify_run
from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.training import room as room_module
from so8t_engine.training import saver as saver_module
from so8t_engine.training.checkpoint import checkpoints, publish_folder, standing, step_of
from so8t_engine.training.checkpoint_state import Snapshot, load_checkpoint
from so8t_engine.training.control import AbortRequested, RunControl
from so8t_engine.training.events import (
    CheckpointEvent,
    EndEvent,
    ErrorEvent,
    Event,
    StepEvent,
    WarningEvent,
)
from so8t_engine.training.room import RoomWait
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.saver import CheckpointSaver
from so8t_engine.training.states import Command, State

Make = Callable[..., Config]


def _train(config: Config, path: Path, on_event: Callable[[Event], None] | None = None) -> RunDirectory:
    run = RunDirectory.create(config, path)
    assert run_training(run, handle_signals=False, on_event=on_event) == 0
    return run


def _of(run: RunDirectory, kind: type[Event]) -> list[Any]:
    return [event for event in run.read_events() if isinstance(event, kind)]


def test_no_file_of_a_checkpoint_is_a_pickle_and_all_that_learns_is_there(
    tiny_config: Make, tmp_path: Path
) -> None:
    run = _train(tiny_config(training={"optimizer": "adamw_8bit"}), tmp_path / "run")
    (path,) = checkpoints(run.checkpoints)
    names = {file.name for file in path.iterdir()}
    assert {name.rpartition(".")[2] for name in names} <= {"safetensors", "json", "yaml"}
    loaded = load_checkpoint(path)
    weights, moments = set(loaded.weights), {key.rpartition("/")[0] for key in loaded.optimizer}
    assert weights <= moments | {"so8t.alpha"}
    assert any(t.dtype == torch.uint8 for key, t in loaded.optimizer.items() if key.endswith("/state1"))
    assert {"cpu"} <= set(loaded.rng)
    assert loaded.state["event_seq"] <= run.read_events()[-1].seq
    assert {"python", "numpy"} == set(loaded.state["rng"])


def test_newest_best_and_pinned_checkpoints_are_kept(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(
        training={"max_steps": 8, "epochs": 4.0, "evaluate_every": 2},
        checkpoints={"every_steps": 1, "keep": 2},
    )
    pinned: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, CheckpointEvent) and event.step == 1:
            pinned.extend(pin_checkpoint(tmp_path / "run", 1, True)["pinned"])

    run = _train(config, tmp_path / "run", on_event)
    assert pinned == [1]
    best = load_checkpoint(checkpoints(run.checkpoints)[-1]).state["best"]
    kept = {step_of(path) for path in checkpoints(run.checkpoints)}
    assert {1, best[0], 8} <= kept
    assert len(kept) <= 4, "two newest ones, the best and the pinned one"
    with pytest.raises(RunError, match="no checkpoint of step 5") as caught:
        pin_checkpoint(run.path, 5, True)
    assert "1, " in caught.value.mend
    assert pin_checkpoint(run.path, 1, False)["pinned"] == []


def _snapshot(step: int, size: int = 1000) -> Snapshot:
    return Snapshot(step, {"w.safetensors": {"w": torch.full((size,), float(step))}}, {"state.json": "{}"})


def test_training_goes_on_while_a_checkpoint_is_written(tiny_config: Make, tmp_path: Path) -> None:
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    told: list[Event] = []
    saver = CheckpointSaver(run, tiny_config().checkpoints, told.append)
    free = threading.Event()

    class Slow(Snapshot):
        def write(self, folder: Path) -> dict[str, str]:
            assert free.wait(30)
            return super().write(folder)

    first = _snapshot(1)
    saver.start(Slow(first.step, first.tensors, first.texts), "due")
    assert saver.busy
    assert told == [], "what does not stand yet is not told"
    assert checkpoints(run.checkpoints) == []
    free.set()
    saver.wait()
    assert [type(event) for event in told] == [CheckpointEvent]
    assert [step_of(path) for path in checkpoints(run.checkpoints)] == [1]


def test_a_failed_save_is_told_and_tried_again_later_and_later(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    told: list[Event] = []
    saver = CheckpointSaver(run, tiny_config().checkpoints, told.append)
    now = [1000.0]
    monkeypatch.setattr(saver_module.time, "monotonic", lambda: now[0])
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1_000_000))
    waits = []
    for step in range(1, 7):
        assert not saver.save(_snapshot(step), "due")
        began = now[0]
        while not saver.due(step):
            now[0] += 1.0
        waits.append(now[0] - began)
    assert waits == [10, 20, 40, 80, 160, 180]
    assert len(told) == 6
    assert all(isinstance(e, WarningEvent) and "1 MB are free" in e.sentence for e in told)
    assert list(run.checkpoints.iterdir()) == [], "nothing was begun"
    monkeypatch.setattr(shutil, "disk_usage", real)
    assert saver.save(_snapshot(7), "due")


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(handle, bytes(4096)):
            pass
    os.close(handle)
    return filler


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB that is really full when it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("a small file system can be mounted by root on Linux only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_run_on_a_disk_that_fills_up_and_is_freed_again_goes_on(
    tiny_config: Make, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver_module, "FIRST_RETRY_S", 0.01)
    settings: dict[str, Any] = {
        "training": {"max_steps": 10, "epochs": 4.0},
        "checkpoints": {"every_steps": 1},
    }
    whole = _train(tiny_config(**settings), tmp_path / "whole")
    filler = small_disk / "filler"

    def on_event(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            _fill(small_disk)
        elif isinstance(event, StepEvent) and event.step == 8:
            filler.unlink(missing_ok=True)

    run = _train(tiny_config(**settings), small_disk / "run", on_event)
    events = run.read_events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), "no event was lost"
    warnings = [w for w in _of(run, WarningEvent) if w.kind == "checkpoint"]
    assert warnings
    assert all("MB are free" in w.sentence or "No space left" in w.sentence for w in warnings)
    assert [e.loss for e in _of(run, StepEvent)] == [e.loss for e in _of(whole, StepEvent)]
    assert step_of(checkpoints(run.checkpoints)[-1]) == 10
    assert verify_run(run.path)["intact"]


def test_a_run_whose_disk_is_full_at_its_end_waits_for_room(
    tiny_config: Make, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_module, "LOOK_S", 0.01)
    settings: dict[str, Any] = {"training": {"max_steps": 3}, "checkpoints": {"every_steps": 1}}
    tries = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            _fill(small_disk)
        elif isinstance(event, WarningEvent) and event.kind == "disk":
            tries.append(len(checkpoints(small_disk / "run" / "checkpoints")))
            (small_disk / "filler").unlink()

    run = _train(tiny_config(**settings), small_disk / "run", on_event)
    assert tries == [2], "told once, with the last step not saved yet"
    assert step_of(checkpoints(run.checkpoints)[-1]) == 3
    assert (run.path / "final" / "soul.safetensors").exists()
    assert _of(run, EndEvent)[-1].status == "finished"


def test_the_wait_for_room_ends_with_its_time_or_an_abort(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_module, "LOOK_S", 0.01)
    monkeypatch.setattr(room_module, "TRY_S", 0.02)
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    told: list[Event] = []
    control = RunControl(run, told.append)
    try:
        assert not RoomWait(control, run.path, 0.0).again()
        assert told == []
        wait = RoomWait(control, run.path, 0.001)
        assert [wait.again() for _try in range(20)].count(False) >= 10
        assert [event.kind for event in told if isinstance(event, WarningEvent)] == ["disk"]
        control.move(State.LOADING)
        control.move(State.RUNNING)
        control.request(Command.ABORT)
        with pytest.raises(AbortRequested):
            RoomWait(control, run.path, 1.0).again()
    finally:
        control.close()


def test_a_folder_that_stepped_aside_is_found_and_put_back(tmp_path: Path) -> None:
    target = tmp_path / "final"
    publish_folder(target, lambda folder: (folder / "a").write_bytes(b"old") and None)
    target.rename(tmp_path / ".final.old")  # as a crash between two renames leaves it
    assert (standing(target) / "a").read_bytes() == b"old"
    publish_folder(target, lambda folder: (folder / "a").write_bytes(b"new") and None)
    assert (standing(target) / "a").read_bytes() == b"new"


def test_a_changed_configuration_or_other_rows_do_not_continue_a_run(
    tiny_config: Make, tmp_path: Path
) -> None:
    run = _train(tiny_config(), tmp_path / "run")
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("learning_rate: 0.0002", "learning_rate: 0.0003"))
    assert run_training(run, resume=True, handle_signals=False) == 1
    error = _of(run, ErrorEvent)[-1]
    assert "training.learning_rate is 0.0003" in error.sentence
    assert "0.0002" in error.sentence
    run.config_file.write_text(text.replace("keep: 3", "keep: 5"))
    assert run_training(run, resume=True, handle_signals=False) == 0
    assert any("checkpoints.keep is 5 now" in w.sentence for w in _of(run, WarningEvent))
    rows = tmp_path / "rows"
    shutil.copytree(Path(run.config().data.train), rows)
    lines = (rows / "train.jsonl").read_text().splitlines()
    (rows / "train.jsonl").write_text("\n".join(lines[1:] + lines[:1]) + "\n")
    run.config_file.write_text(text)
    other = _train(tiny_config(data={"train": str(rows)}), tmp_path / "other")
    (rows / "train.jsonl").write_text("\n".join(lines) + "\n")
    assert run_training(other, resume=True, handle_signals=False) == 1
    assert "rows are not those" in _of(other, ErrorEvent)[-1].sentence


def test_a_damaged_configuration_comes_back_from_the_checkpoint(tiny_config: Make, tmp_path: Path) -> None:
    run = _train(tiny_config(), tmp_path / "run")
    text = run.config_file.read_text()
    run.config_file.write_text(text[: len(text) // 2] + "\0\0\0")
    assert run_training(run, resume=True, handle_signals=False) == 0
    assert run.config_file.read_text() == text
    assert Path(f"{run.config_file}.damaged").exists()


def test_verify_names_the_file_that_was_changed(tiny_config: Make, tmp_path: Path) -> None:
    run = _train(tiny_config(), tmp_path / "run")
    assert verify_run(run.path)["intact"]
    files = [
        path
        for path in run.path.rglob("*")
        if path.is_file() and path.name not in {"log.txt", "commands.jsonl", "process.json", "run.lock"}
        and path.name != "heartbeat.json"
    ]  # fmt: skip
    assert len(files) > 12
    for file in files:
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 0x10
        file.write_bytes(bytes(damaged))
        verdict = verify_run(run.path)
        name = file.relative_to(run.path).as_posix()
        if file.name not in {"environment.json", "config.yaml"} or verdict["damaged"]:
            assert verdict["damaged"], name
            assert any(name.startswith(part) for part in verdict["damaged"]), (name, verdict["damaged"])
        file.write_bytes(whole)
    lines = run.events.read_bytes().splitlines(keepends=True)
    run.events.write_bytes(b"".join(lines[:4] + lines[5:]))
    assert "follows number 4" in verify_run(run.path)["files"]["events.jsonl"]
    run.events.write_bytes(b"".join(lines) + b'{"seq": ')
    verdict = verify_run(run.path)
    assert verdict["intact"]
    assert "incomplete" in verdict["notes"][0]
    json.dumps(verdict)
