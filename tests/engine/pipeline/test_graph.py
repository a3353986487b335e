"""The graph: skipping, going on after a kill, retrying, stopping, damage. Steps here write real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError, TransientError
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.pipeline.step import Step, StepResult, StepSettings
from so8t_engine.training.events import Event, PipelineStepEvent
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import Command


class Count(Step[StepSettings]):
    """Writes ten files, one after the other, and goes on where it was."""

    name = "collect"
    title = "count"
    calls: ClassVar[list[str]] = []
    hook: ClassVar[Callable[[StepContext, int], None] | None] = None
    source: ClassVar[str] = "a"

    def external_inputs(self) -> dict[str, str]:
        return {"source": self.source}

    def run(self, context: StepContext) -> StepResult:
        self.calls.append(self.name)
        written = 0
        for i in range(10):
            path = context.output / f"{i}.txt"
            if not path.exists():
                path.write_text(f"{self.source} {i}")
                written += 1
            if Count.hook is not None:
                Count.hook(context, i)
            context.progress("counting", i + 1, 10)
        (context.output / "clock.txt").write_text(str(time.time()))
        return StepResult({"written": written}, volatile=("clock.txt",))


class Add(Count):
    """Depends on the first."""

    name = "preprocess"
    title = "add"
    needs = ("collect",)

    def external_inputs(self) -> dict[str, str]:
        return {}

    def run(self, context: StepContext) -> StepResult:
        self.calls.append(self.name)
        texts = [(context.inputs["collect"] / f"{i}.txt").read_text() for i in range(10)]
        (context.output / "sum.txt").write_text("\n".join(texts))
        return StepResult({"from": dict(context.facts["collect"])})


@pytest.fixture(autouse=True)
def fresh() -> None:
    Count.calls.clear()
    Count.hook = None
    Count.source = "a"


def make(tmp_path: Path) -> Pipeline:
    config = PipelineConfig(name="t", directory=str(tmp_path))
    pipeline = Pipeline(config, [Count(config), Add(config)])
    pipeline.back_off_s = 0.01
    return pipeline


def statuses(pipeline: Pipeline, **how: str) -> tuple[int, list[tuple[str, str]]]:
    seen: list[Event] = []
    status = pipeline.run(on_event=seen.append, **how)
    return status, [(e.name, e.status) for e in seen if isinstance(e, PipelineStepEvent)]


DONE = [("collect", "running"), ("collect", "done"), ("preprocess", "running"), ("preprocess", "done")]
SKIPPED = [("collect", "skipped"), ("preprocess", "skipped")]


def test_a_second_call_skips_everything(tmp_path: Path) -> None:
    assert statuses(make(tmp_path)) == (0, DONE)
    assert statuses(make(tmp_path)) == (0, SKIPPED)
    assert Count.calls == ["collect", "preprocess"]


def test_an_unchanged_output_spares_what_follows(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    pipeline.run()
    clock = (pipeline.store("collect").output / "clock.txt").read_text()
    assert statuses(pipeline, only="collect") == (0, [*DONE[:2], ("preprocess", "skipped")])
    assert (pipeline.store("collect").output / "clock.txt").read_text() != clock
    assert statuses(pipeline) == (0, SKIPPED)
    assert statuses(pipeline, from_="preprocess") == (0, [("collect", "skipped"), *DONE[2:]])


def test_a_changed_source_runs_again_and_says_why(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    pipeline.run()
    Count.source = "b"
    plan = pipeline.plan()
    assert [(p.action, p.reason) for p in plan] == [
        ("run", "source changed"),
        ("run", "after count"),
    ]
    assert all(p.stale for p in plan), "what is there is no longer what this call would give"
    assert statuses(pipeline) == (0, DONE)
    assert "b 9" in (pipeline.store("preprocess").output / "sum.txt").read_text()


def test_what_is_missing_later_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_step: Add) -> dict[str, str]:
        raise PipelineError("Nothing is there.", "Put it there.")

    monkeypatch.setattr(Add, "external_inputs", missing)
    pipeline = make(tmp_path)
    with pytest.raises(PipelineError, match="Nothing is there"):
        pipeline.plan()
    assert statuses(pipeline) == (1, [])
    assert Count.calls == []
    assert Pipeline(pipeline.config, pipeline.steps[:1]).run() == 0


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    make(tmp_path).plan()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_may_pass_is_tried_again_and_goes_on_from_there(tmp_path: Path) -> None:
    failed: list[int] = []

    def fail(_context: StepContext, i: int) -> None:
        if i == 4 and len(failed) < 2:
            failed.append(i)
            raise TransientError("busy")

    Count.hook = fail
    pipeline = make(tmp_path)
    retried = [("collect", "running"), ("collect", "retrying")] * 2
    assert statuses(pipeline) == (0, [*retried, *DONE])
    assert pipeline.store("collect").manifest()["facts"] == {"written": 5}  # type: ignore[index]


def test_a_failure_that_stays_ends_the_pipeline_with_a_sentence(tmp_path: Path) -> None:
    def fail(_context: StepContext, _i: int) -> None:
        raise ValueError("no")

    Count.hook = fail
    assert statuses(make(tmp_path)) == (1, [("collect", "running"), ("collect", "failed")])


def test_a_stop_by_command_is_obeyed_and_the_next_call_goes_on(tmp_path: Path) -> None:
    pipeline = make(tmp_path)

    def stop(_context: StepContext, i: int) -> None:
        if i == 3:
            RunDirectory(pipeline.work).send(Command.STOP)
            time.sleep(0.25)

    Count.hook = stop
    assert statuses(pipeline) == (1, [("collect", "running"), ("collect", "stopped")])
    Count.hook = None
    assert pipeline.plan()[0].action == "resume"
    assert statuses(pipeline) == (0, DONE)
    assert pipeline.store("collect").manifest()["facts"] == {"written": 6}  # type: ignore[index]


def test_a_damaged_input_is_made_again(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    pipeline.run()
    target = pipeline.store("collect").output / "3.txt"
    target.write_text("x 3")  # the same size: only the SHA-256 tells
    assert statuses(pipeline, from_="preprocess") == (0, [("collect", "skipped"), *DONE])
    assert target.read_text() == "a 3"
    target.unlink()
    assert pipeline.plan()[0].reason == "its output is damaged: 3.txt"


def test_a_publication_cut_in_two_is_finished(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    pipeline.run()
    store = pipeline.store("collect")
    store.output.rename(store.partial)  # what a kill between the two renames leaves
    assert statuses(pipeline) == (0, SKIPPED)


def test_two_calls_at_once_are_refused(tmp_path: Path) -> None:
    pipeline = make(tmp_path)
    pipeline.work.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        from so8t_engine.training.process import ProcessMark

        ProcessMark.of(other.pid).write(RunDirectory(pipeline.work).process)
        with pytest.raises(PipelineError, match="is running this pipeline"):
            pipeline.run()
        other.communicate(b"\n")
    assert pipeline.run() == 0


def test_unknown_steps_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="There is no step soup"):
        make(tmp_path).plan(from_="soup")


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_graph as t
def slow(context, i):
    if i == int(sys.argv[3]):
        print("here", flush=True)
        t.time.sleep(60)
t.Count.hook = slow
t.make(Path(sys.argv[1])).run()
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("at", [0, 5, 9])
def test_sigkill_then_the_same_digests(tmp_path: Path, at: int) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "a"), str(Path(__file__).parent), str(at)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        child.send_signal(signal.SIGKILL)
    pipeline = make(tmp_path / "a")
    assert statuses(pipeline) == (0, DONE)
    facts = json.loads((pipeline.store("collect").output / "manifest.json").read_text())["facts"]
    assert facts == {"written": 9 - at}
    untouched = make(tmp_path / "b")
    untouched.run()
    for name in pipeline.names:
        assert pipeline.store(name).manifest()["content"] == untouched.store(name).manifest()["content"]  # type: ignore[index]
