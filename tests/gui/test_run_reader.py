"""Reading a long run at once gives what digesting its events one by one gives."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from recorded_runs import START, events_of_a_run, recorded_run, state, step

from so8t_engine.config import Config
from so8t_engine.history import column_file, event_blocks, event_index
from so8t_engine.history.event_blocks import EventBlocks
from so8t_engine.history.event_indexer import index_folder
from so8t_engine.training.events import Event, MemoryEvent, WarningEvent, parse_event
from so8t_engine.training.run_directory import EventWriter
from so8t_engine.training.states import State
from so8t_gui.models import event_cache, run_reader
from so8t_gui.models.buffers import Columns
from so8t_gui.models.marks import Kind
from so8t_gui.models.run_model import RunModel
from so8t_gui.models.run_reader import read_run


def a_hard_life(folder: Path) -> list[Event]:
    """Stopped at step 80 and walked again from 61, with NaN, a pause, memory that ran out, a torn clock."""
    (folder / "rotations").mkdir(parents=True, exist_ok=True)
    first = events_of_a_run(folder, 80)[:-2]
    now = START + 200
    second: list[Event] = [
        state(State.RUNNING, State.STOPPED, START + 100),
        state(State.STOPPED, State.LOADING, now),
        state(State.LOADING, State.RUNNING, now + 1),
    ]
    for n in range(61, 100):
        loss = float("nan") if 70 <= n < 73 else float("inf") if n == 75 else 1.0 / n
        second.append(step(n, 120, now + n, loss=loss))
        if n == 65:
            second.append(state(State.RUNNING, State.PAUSED, now + n))
            second.append(state(State.PAUSED, State.RUNNING, now + n + 30))
        if n == 68:
            second.append(WarningEvent(kind="oom", sentence="Memory ran out.", time=now + n))
        second.append(MemoryEvent(step=None, process_rss=2**30 + n, time=now + n))
    return first + second


def write(path: Path, events: list[Event]) -> None:
    lines = [
        event.model_copy(update={"seq": n}).model_dump_json(by_alias=True) for n, event in enumerate(events)
    ]
    path.write_text("\n".join(lines) + "\n" + '{"seq": 999, "type": "st', encoding="utf-8")


def same_table(found: Columns, expected: Columns) -> None:
    assert sorted(found.names) == sorted(expected.names)
    for name in expected.names:
        np.testing.assert_allclose(found.view(name), expected.view(name), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("block_bytes", [300, 4_000, 10**7])
def test_reading_in_blocks_equals_digesting_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, indexed: bool
) -> None:
    events = a_hard_life(tmp_path)
    file = tmp_path / "events.jsonl"
    write(file, events)
    expected = RunModel()
    expected.digest([e for line in file.read_bytes().split(b"\n") if (e := parse_event(line)) is not None])
    monkeypatch.setattr("so8t_engine.history.event_blocks.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(event_cache, "WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(event_cache, "cache_folder", lambda: tmp_path / "cache")
    if indexed:
        monkeypatch.setattr("so8t_engine.history.event_index.SEGMENT_BYTES", block_bytes)
        event_index.write_whole(file)
        held = event_index.load(file)
        assert held is None if block_bytes > file.stat().st_size else held is not None
    for _again in range(2):
        model, offset = read_run(file)
        assert offset == file.stat().st_size - len('{"seq": 999, "type": "st')
        for name in ("steps", "gate", "rotation", "memory", "evaluation"):
            same_table(getattr(model, name), getattr(expected, name))
        assert model.term_names == expected.term_names
        assert list(model.log.lines) == list(expected.log.lines)
        assert model.last_step is not None
        assert model.last_step.model_dump_json() == expected.last_step.model_dump_json()  # type: ignore[union-attr]
        assert model.last_gate == expected.last_gate
        assert (model.state, model.converged_at) == (expected.state, expected.converged_at)
        assert [e.step for e in model.checkpoints] == [e.step for e in expected.checkpoints]
        assert [s.step for s in model.snapshots] == [s.step for s in expected.snapshots]
        assert model.marks.phases == expected.marks.phases
        for kind in Kind:
            np.testing.assert_allclose(model.marks.rows[kind].step, expected.marks.rows[kind].step)
            np.testing.assert_allclose(model.marks.rows[kind].elapsed, expected.marks.rows[kind].elapsed)
        assert model.clock.elapsed(START + 900) == pytest.approx(expected.clock.elapsed(START + 900))
        assert model.clock.remaining(9) == expected.clock.remaining(9)
        assert model.first_time == expected.first_time


def test_a_cache_counts_only_for_the_file_it_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_cache, "WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(event_cache, "cache_folder", lambda: tmp_path / "cache")
    file = tmp_path / "events.jsonl"
    write(file, a_hard_life(tmp_path))
    read_run(file)
    held = event_cache.load(file)
    assert isinstance(held, EventBlocks)
    with file.open("ab") as opened:
        opened.write(b'ep"}\n' + step(100, 120, START + 400).model_dump_json().encode() + b"\n")
    model, _offset = read_run(file)
    assert model.last_step is not None
    assert model.last_step.step == 100, "what was appended is read beyond the cache"
    write(file, a_hard_life(tmp_path)[:50])
    assert event_cache.load(file) is None, "another run stands there now"
    event_cache.cache_file(file).write_bytes(b"PK nonsense")
    assert run_reader.read_run(file)[0].last_step is not None


def test_the_trainer_indexes_as_it_writes_and_a_damaged_stretch_is_read_from_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_config: Config
) -> None:
    for place in ("event_indexer", "event_index"):
        monkeypatch.setattr(f"so8t_engine.history.{place}.SEGMENT_BYTES", 4_000)
    monkeypatch.setattr(event_cache, "WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(event_cache, "cache_folder", lambda: tmp_path / "cache")
    run = recorded_run(demo_config, tmp_path / "run", 200)
    # A stretch follows a stretch only when its thread is free, so more events come.
    writer = EventWriter(run)
    for n in range(201, 260):
        writer.write(step(n, 260, START + n))
        time.sleep(0.002)
    writer.close()
    event_index.write_whole(run.events)
    stretches = sorted(index_folder(run.events).glob("*.columns"))
    assert len(stretches) > 3
    assert all(path.stem.partition("-")[0] == "0" * 14 for path in stretches[:1])

    def steps() -> list[float]:
        return list(read_run(run.events)[0].steps.view("step"))

    whole = [float(n) for n in range(1, 260)]
    assert steps() == whole
    held = event_index.load(run.events)
    assert held is not None
    stretches[2].write_bytes(stretches[2].read_bytes()[:-400] + bytes(400))
    shorter = event_index.load(run.events)
    assert shorter is not None
    assert shorter.offset < held.offset, "what follows a damaged stretch is not taken on trust"
    assert steps() == whole
    text = run.events.read_bytes()
    run.events.write_bytes(text[:1500].replace(b'"loss":', b'"lost":') + text[1500:])
    assert event_index.load(run.events) is None, "the events have another text than the index was made from"


def test_reading_events_imports_no_pandas(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    (tmp_path / "rotations").mkdir()
    write(file, events_of_a_run(tmp_path, 80))
    code = (
        "import sys; from pathlib import Path; from so8t_engine.history.event_blocks import read_whole\n"
        "blocks = read_whole(Path(sys.argv[1]))\n"
        "print(len(blocks.joined('step')['loss']), 'pyarrow' in sys.modules, 'pandas' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["80", "True", "False"]), done.stderr


def test_pyarrows_columns_become_numbers_and_words() -> None:
    words = ["step", None, "", "gate", "Gate", "états", "step", None] + [f"w{n}" for n in range(90)]
    whole = pa.array(words, pa.string())
    column = pa.chunked_array([whole, whole.slice(1, 5), whole.slice(3), whole.slice(0, 0)])
    assert event_blocks._words(column).tolist() == column.to_pylist()
    assert event_blocks._words(pa.chunked_array([], pa.string())).tolist() == []
    assert event_blocks._words(pa.chunked_array([pa.array([None], pa.string())])).tolist() == [None]
    whole = pa.array([1.5, None, -2.0, None, float("inf")] * 5, pa.float64())
    column = pa.chunked_array([whole, whole.slice(3, 9), whole.slice(2, 1)])
    expected = [np.nan if value is None else value for value in column.to_pylist()]
    np.testing.assert_array_equal(event_blocks._numbers(column), expected)
    nothing = pa.chunked_array([pa.array([None] * 9, pa.float64())])
    assert np.isnan(event_blocks._numbers(nothing)).all()


@pytest.mark.parametrize("at_once", [0, 10**9])
def test_a_column_file_reads_the_same_in_one_go_and_by_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(column_file, "AT_ONCE_BYTES", at_once)
    columns = {
        "a": np.arange(5, dtype=np.int64),
        "b": np.linspace(0, 1, 33, dtype=np.float32),
        "empty": np.empty(0),
        "c": np.frombuffer(b"some text", np.uint8),
    }
    file = tmp_path / "x.columns"
    with file.open("wb") as out:
        column_file.write(out, {"version": 1}, columns)
    head, found = column_file.read(file)
    assert head["version"] == 1
    assert list(found) == list(columns)
    for name, column in columns.items():
        assert found[name].dtype == column.dtype
        np.testing.assert_array_equal(found[name], column)
        found[name][:1] = 0  # the reader's own
    whole = file.read_bytes()
    for cut in (10, len(whole) - 100, len(whole) - 64):
        file.write_bytes(whole[:cut])
        with pytest.raises((ValueError, KeyError, TypeError)):
            column_file.read(file)
    file.write_bytes(whole[:-60] + b"?" + whole[-59:])
    with pytest.raises(ValueError, match="columns"):
        column_file.read(file)
