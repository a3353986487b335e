"""Runs that wait: order, hostile files, two processes, and real runs one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.commands.queue import change_queue, list_queue, run_queue
from so8t_engine.config import Config, load_config
from so8t_engine.errors import RunError
from so8t_engine.history.queue import OnFailure, RunQueue, next_may_start
from so8t_engine.history.summary import scan
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.states import State
from tests.engine.command_line import so8t_forked, so8t_here


def named(name: str, folder: Path | None = None, **training: object) -> Config:
    config = load_config("demo")
    run = config.run.model_copy(update={"directory": str(folder)} if folder else {})
    new = config.training.model_copy(update=training)
    return config.model_copy(update={"name": name, "run": run, "training": new})


def names(queue: RunQueue) -> list[str]:
    return [entry.name for entry in queue.entries()]


@settings(max_examples=3, deadline=None)
@given(moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=6))
def test_moving_is_what_it_is_in_a_list(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int]]
) -> None:
    queue = RunQueue(tmp_path_factory.mktemp("runs"))
    expected = ["a", "b", "c", "d"]
    for name in expected:
        queue.add(named(name))
    for from_, to in moves:
        queue.move(queue.entries()[from_].id, to)
        expected.insert(to, expected.pop(from_))
        assert names(RunQueue(queue.runs)) == expected, "another window sees the same"


def test_a_queued_run_finds_its_rows_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, elsewhere = tmp_path / "start", tmp_path / "elsewhere"
    for folder in (start, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(start)
    config = named("here")
    data = config.data.model_copy(update={"train": "rows.jsonl", "validation": "hub:owner/name"})
    RunQueue(tmp_path / "runs").add(config.model_copy(update={"data": data}))
    monkeypatch.chdir(elsewhere)
    taken = RunQueue(tmp_path / "runs").take()
    assert taken is not None
    assert (taken.data.train, taken.data.validation) == (str(start / "rows.jsonl"), "hub:owner/name")
    assert taken.model.path == config.model.path


def test_the_queue_outlives_damage_and_says_what_cannot_be_used(tmp_path: Path) -> None:
    queue = RunQueue(tmp_path)
    first, second, third = (queue.add(named(name)) for name in "abc")
    queue.move(third.id, 0)
    queue.set_on_failure(OnFailure.GO_ON)
    assert RunQueue(tmp_path).on_failure is OnFailure.GO_ON
    (queue.folder / "order.json").write_text('{"order": [1, {', encoding="utf-8")
    assert sorted(names(queue)) == ["a", "b", "c"], "only the order is lost"
    first.file.write_text("training: {epoch: 3}\n", encoding="utf-8")
    bad = next(entry for entry in queue.entries() if entry.id == first.id)
    assert "epoch" in bad.problem
    queue.remove(second.id)
    taken = queue.take()
    assert taken is not None
    assert taken.name == "c"
    assert queue.take() is None, "what cannot be read is never started"
    assert [entry.id for entry in queue.entries()] == [first.id], "and never lost"
    with pytest.raises(RunError, match="No run nothing waits"):
        queue.move("nothing", 0)


#: In processes that import the queue alone: this module brings torch along.
TAKE_ALL = """
import sys
from pathlib import Path
from so8t_engine.history.queue import RunQueue
queue = RunQueue(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()  # until both are
while (config := queue.take()) is not None:
    print(config.name)
"""


def test_two_processes_never_take_the_same_run(tmp_path: Path) -> None:
    queue = RunQueue(tmp_path)
    for n in range(6):
        queue.add(named(f"run{n}"))
    command = [sys.executable, "-c", TAKE_ALL, str(tmp_path)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.close()
    taken: list[str] = []
    for process in both:
        assert process.stdout is not None
        taken += process.stdout.read().split()
        process.stdout.close()
        assert process.wait(60) == 0
    assert sorted(taken) == sorted(f"run{n}" for n in range(6))


def test_one_process_at_a_time_works_through_a_queue(tmp_path: Path) -> None:
    queue = RunQueue(tmp_path)
    assert queue.become_runner()
    assert queue.become_runner(), "it is this process already"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (queue.folder / "runner.json").write_text(ProcessMark.of(child.pid).to_json(), encoding="utf-8")
        assert not queue.become_runner()
        queue.resign()
        assert queue.other_runner() is not None, "nobody resigns for another"
    finally:
        child.kill()
        child.wait()
    assert queue.become_runner(), "a dead process holds nothing"


@pytest.mark.parametrize(
    ("state", "lost", "choice", "expected"),
    [
        (State.FINISHED, False, OnFailure.HOLD, True),
        (State.FAILED, False, OnFailure.HOLD, False),
        (State.FAILED, False, OnFailure.GO_ON, True),
        (State.RUNNING, True, OnFailure.GO_ON, True),
        (State.RUNNING, True, OnFailure.HOLD, False),
        (State.STOPPED, False, OnFailure.GO_ON, False),
        (State.ABORTED, False, OnFailure.GO_ON, False),
    ],
)
def test_what_follows_a_run(state: State, lost: bool, choice: OnFailure, expected: bool) -> None:
    assert next_may_start(state, lost, choice) is expected


def so8t(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = str(Path(__file__).parents[2])
    return so8t_forked("queue", *arguments, cwd=folder, timeout=400, PYTHONPATH=path)


def test_a_folder_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for work in (
        lambda: list_queue(gone),
        lambda: change_queue(gone, "x", 1),
        lambda: run_queue(gone, None, None, lambda _line: None),
    ):
        with pytest.raises(RunError, match="is not a folder"):
            work()
    assert not gone.exists()


@pytest.mark.usefixtures("warm_starts")
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_runs_follow_each_other_and_a_failure_holds_the_rest(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_config(training={"max_steps": 2}).to_yaml(), encoding="utf-8")
    done = so8t_here("queue", "add", "tiny.yaml", "--set", "name=good", "--runs", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    queue = RunQueue(tmp_path / "runs")
    for name in ("bad", "last"):
        queue.add(named(name))
    assert names(queue) == ["good", "bad", "last"]
    # The rows of the second run vanish while it waits.
    bad = queue.entries()[1]
    rows = tmp_path / "gone.jsonl"
    text = bad.file.read_text(encoding="utf-8").replace("embedded:four_class", str(rows))
    bad.file.write_text(text, encoding="utf-8")
    done = so8t("run", "--json", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert [run["state"] for run in result["runs"]] == ["finished", "failed"], done.stderr
    assert result["held"]
    assert result["waiting"] == 1
    assert len(scan(tmp_path / "runs")) == 2
    assert names(queue) == ["last"]
