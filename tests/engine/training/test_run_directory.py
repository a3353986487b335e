"""Events on disk: order, torn lines, unknown types, non-finite numbers, several readers."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from so8t_engine.commands.verify import verify_run
from so8t_engine.config import Config, load_config
from so8t_engine.config.sections import ModelConfig
from so8t_engine.data.reader import has_split, read_rows
from so8t_engine.errors import RunError, SO8TError
from so8t_engine.memory.geometry import model_geometry
from so8t_engine.model.source import model_source
from so8t_engine.training import final
from so8t_engine.training.checkpoint import (
    MANIFEST,
    checkpoint_path,
    checkpoints,
    newest_usable,
    prune,
    publish_folder,
    verify_folder,
)
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import (
    Event,
    ProgressEvent,
    StateEvent,
    StepEvent,
    WarningEvent,
    parse_event,
)
from so8t_engine.training.lock import RunLock
from so8t_engine.training.run_directory import EventReader, EventWriter, RunDirectory
from so8t_engine.training.states import Command, State


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(Config(), tmp_path / "run")


def _step(step: int, loss: float) -> StepEvent:
    return StepEvent(
        step=step,
        of=9,
        epoch=0.1,
        loss=loss,
        terms={"lm": loss},
        raw={"lm": loss},
        lr=1e-4,
        grad_norm=None,
        tokens=5,
        tokens_per_s=1.0,
        step_s=5.0,
    )


def test_events_are_numbered_without_gaps_also_by_a_second_writer(run: RunDirectory) -> None:
    for _writer in range(2):
        writer = EventWriter(run)
        for done in range(3):
            writer.write(ProgressEvent(what="x", done=done, of=3))
        writer.close()
    events = run.read_events()
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert {event.run for event in events} == {run.id}


def test_a_torn_last_line_is_cut_off_by_the_next_writer(run: RunDirectory) -> None:
    writer = EventWriter(run)
    writer.write(_step(1, 2.0))
    writer.close()
    with run.events.open("ab") as file:
        file.write(b'{"seq": 2, "type": "st')
    assert len(run.read_events()) == 1
    writer = EventWriter(run)
    writer.write(_step(2, 1.0))
    writer.close()
    assert [event.seq for event in run.read_events()] == [1, 2]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_survive_and_the_file_stays_json(run: RunDirectory, loss: float) -> None:
    writer = EventWriter(run)
    writer.write(_step(1, loss))
    writer.close()
    json.loads(run.events.read_text(), parse_constant=lambda name: pytest.fail(name))
    (event,) = run.read_events()
    assert isinstance(event, StepEvent)
    assert repr(event.loss) == repr(loss)


@given(st.binary(max_size=80))
def test_any_bytes_are_an_event_or_nothing(data: bytes) -> None:
    found = parse_event(data)
    assert found is None or isinstance(found, Event)


def test_unknown_types_and_unknown_fields_are_left_alone(run: RunDirectory) -> None:
    run.events.write_text(
        '{"seq": 1, "time": 1, "run": "r", "type": "from_the_future", "a": 1}\n'
        '{"seq": 2, "time": 1, "run": "r", "type": "warning", "kind": "k", "sentence": "s", "new": 1}\n'
    )
    (event,) = run.read_events()
    assert isinstance(event, WarningEvent)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_a_reader_sees_each_event_once_however_the_bytes_arrive(tmp_path: Path, cuts: list[int]) -> None:
    lines = [
        StateEvent(seq=i + 1, from_=State.IDLE, to=State.LOADING).model_dump_json(by_alias=True)
        for i in range(4)
    ]
    data = ("\n".join(lines) + "\n").encode()
    file = tmp_path / "growing.jsonl"
    file.write_bytes(b"")
    reader = EventReader(file)
    seen, at = [], 0
    for cut in [*cuts, len(data)]:
        with file.open("ab") as out:
            out.write(data[at : at + cut])
        at = min(len(data), at + cut)
        seen += [event.seq for event in reader.read()]
    assert seen == [1, 2, 3, 4]


def test_a_folder_that_holds_a_run_is_not_taken_again(run: RunDirectory) -> None:
    before = run.events.read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        RunDirectory.create(Config(), run.path)
    assert run.events.read_bytes() == before


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(RunError, match="cannot be written"):
        RunDirectory.create(Config(), blocked / "run")


def test_publishing_is_all_or_nothing(tmp_path: Path) -> None:
    target = checkpoint_path(tmp_path, 7)

    def good(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"abc")

    def bad(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"new")
        raise OSError(28, "No space left on device")

    publish_folder(target, good)
    verify_folder(target)
    with pytest.raises(RunError, match="No space left"):
        publish_folder(target, bad)
    assert (target / "a.bin").read_bytes() == b"abc"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("damage", ["flip", "truncate", "zero", "remove", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        publish_folder(
            checkpoint_path(tmp_path, step), lambda f: (f / "w.bin").write_bytes(b"x" * 64) and None
        )
    newest = checkpoint_path(tmp_path, 2)
    file = newest / "w.bin"
    if damage == "flip":
        file.write_bytes(b"y" + b"x" * 63)
    elif damage == "truncate":
        file.write_bytes(b"x" * 63)
    elif damage == "zero":
        file.write_bytes(b"x" * 32 + b"\0" * 32)
    elif damage == "remove":
        file.unlink()
    else:
        (newest / MANIFEST).write_text("{")
    usable, damaged = newest_usable(tmp_path)
    assert usable == checkpoint_path(tmp_path, 1)
    assert len(damaged) == 1
    assert newest.name in damaged[0]


def test_pruning_keeps_the_newest_and_touches_nothing_else(tmp_path: Path) -> None:
    for step in range(1, 6):
        publish_folder(checkpoint_path(tmp_path, step), lambda folder: (folder / "w").touch())
    (tmp_path / "step-notes").mkdir()
    prune(tmp_path, 2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000004", "step-00000005"]
    assert (tmp_path / "step-notes").is_dir()


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_checksum_that_was_hit_is_told_wherever_it_stands(run: RunDirectory, line: int) -> None:
    writer = EventWriter(run)
    for done in range(3):
        writer.write(ProgressEvent(what="rows", done=done, of=3))
    writer.close()
    assert verify_run(run.path)["files"]["events.jsonl"] == "intact"
    lines = run.events.read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b'"crc"', b'"brc"')  # one bit: as if it had none
    run.events.write_bytes(b"\n".join(lines))
    assert f":{line + 1} is damaged" in verify_run(run.path)["files"]["events.jsonl"]


def test_a_folder_that_vanishes_is_made_again_with_what_it_held(tmp_path: Path) -> None:
    """Deleted or moved away while the run goes on: events went into a file without a name."""
    run = RunDirectory.create(Config(), tmp_path / "run")
    config = run.config_file.read_text()
    control = RunControl(run)
    try:
        control.move(State.LOADING)
        control.move(State.RUNNING)
        run.path.rename(tmp_path / "elsewhere")
        deadline = time.monotonic() + 10
        while not control.take_checkpoint_request():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(RunError, match="has been training"):
            RunLock(run.lock)
        run.send(Command.STOP)
        while not control.is_(State.STOPPING):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        events = run.read_events()
        assert [event.seq for event in events] == [1, 2, 3, 4]
        assert isinstance(events[2], WarningEvent)
        assert "deleted or moved away" in events[2].sentence
        assert run.config_file.read_text() == config
        assert RunDirectory.open(run.path).checkpoints.is_dir()
    finally:
        control.close()


def test_nothing_is_made_where_the_disk_itself_is_gone(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    run = RunDirectory.create(Config(), tmp_path / "disk" / "run")
    told: list[Event] = []
    control = RunControl(run, told.append)
    try:
        (tmp_path / "disk").rename(tmp_path / "unplugged")
        deadline = time.monotonic() + 10
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert isinstance(told[0], WarningEvent)
        assert "cannot be reached" in told[0].sentence
        assert not (tmp_path / "disk").exists()
    finally:
        control.close()


@pytest.mark.parametrize(
    ("saved_step", "mend"), [(None, "start the run anew"), (3, "step 3 stands"), (5, "no step is repeated")]
)
def test_a_final_that_cannot_be_written_says_what_stands(
    saved_step: int | None, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: object, **_named: object) -> None:
        raise RunError("final cannot be saved: No space left on device.")

    monkeypatch.setattr(final, "publish_folder", full)
    with pytest.raises(RunError) as caught:
        final.save_final(RunDirectory(tmp_path), None, 5, {}, None, saved_step)  # type: ignore[arg-type]
    assert mend in caught.value.mend


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_the_events_is_no_run(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    run = RunDirectory.create(Config(), tmp_path / "run")
    run.events.unlink()
    os.mkfifo(run.events)
    with pytest.raises(RunError, match="is not a run folder"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize(
    "ask",
    [
        load_config,
        read_rows,
        lambda name: read_rows(f"{name}.jsonl"),
        lambda name: read_rows(f"{name}.parquet"),
        lambda name: has_split(f"./{name}", "train") or read_rows(name),
        lambda name: model_geometry(f"./{name}"),
        lambda name: model_source(ModelConfig(path=f"./{name}")),
        lambda name: RunDirectory.create(Config(), Path(name)),
        lambda name: RunDirectory.open(name),
    ],
)
def test_a_name_that_is_too_long_is_a_sentence(
    ask: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pathlib's questions raise there, and a person saw a traceback."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SO8TError):
        ask("n" * 300)
