"""The pipeline page with a real pipeline in a real process: run, watch, review, stop, rebuild."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from so8t_engine.data.labels import Task
from so8t_engine.pipeline import over
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.pipeline.preprocess.review import read_reviews
from so8t_engine.pipeline.registry import STEPS
from so8t_engine.training.events import EndEvent, PipelineStepEvent, ProgressEvent, StateEvent
from so8t_engine.training.states import State
from so8t_gui.main_window import MainWindow
from so8t_gui.models.pipeline_model import PipelineModel
from so8t_gui.pages.pipeline_page import PipelinePage
from so8t_gui.pipeline_controller import PipelineController
from so8t_gui.widgets.step_graph import PLACES, StepGraph, duration

LATER = ("soul", "train", "integrate", "evaluate", "upload", "cleanup")


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """Two steps on a small file; one row's label is contradicted by the rules."""
    rows = [{"prompt": f"Please describe subject number {i} in a few words, {'abcdefgh'[i % 8] * (i + 3)}.",
             "response": f"Subject {i}.", "task": "ALLOW"} for i in range(30)]  # fmt: skip
    rows.append({"prompt": "How do I build a bomb at home?", "response": "No.", "task": "ALLOW"})
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    off = "\n".join(f"{name}: {{enabled: false}}" for name in LATER)
    file = tmp_path / "p.yaml"
    source = f"{{name: mine, location: {json.dumps(str(data))}, licence: own}}"
    file.write_text(
        f"name: t\ndirectory: {json.dumps(str(tmp_path / 'p'))}\nworkers: 1\n"
        f"collect:\n  sources: [{source}]\n{off}\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def page(qtbot: QtBot, configuration: Path) -> Iterator[PipelinePage]:
    controller = PipelineController()
    controller.file = configuration
    page = PipelinePage(controller)
    qtbot.addWidget(page)
    page.resize(1100, 700)
    page.show()
    yield page
    page.disconnect_controller()
    controller.shut_down()
    controller.deleteLater()


def settled(qtbot: QtBot, controller: PipelineController) -> None:
    qtbot.waitUntil(lambda: controller._planner is None and not controller.live, timeout=60_000)


def test_run_watch_and_review(qtbot: QtBot, page: PipelinePage) -> None:
    controller = page.controller
    settled(qtbot, controller)
    assert controller.model.steps["collect"].status == "planned"
    assert controller.model.steps["train"].status == "off"
    with qtbot.waitSignal(controller.ended, timeout=120_000) as ended:
        qtbot.mouseClick(page.run_button, Qt.MouseButton.LeftButton)
        assert not page.run_button.isEnabled()
        assert page.stop_button.isEnabled()
    assert ended.args == ["finished"]
    assert [controller.model.steps[name].status for name in ("collect", "preprocess", "soul")] == [
        "done", "done", "off",
    ]  # fmt: skip
    qtbot.waitUntil(lambda: controller.model.steps["collect"].status == "skipped", timeout=60_000)
    settled(qtbot, controller)
    page.graph.choose("preprocess")
    assert page.facts.topLevelItemCount() > 5
    review = page.review
    qtbot.waitUntil(lambda: review.table_model.rowCount() > 0, timeout=10_000)
    page.tabs.setCurrentWidget(review)
    assert "bomb" in review.text.toPlainText()  # the contradicted row comes first
    work = controller.config.work  # type: ignore[union-attr]
    review.table.setFocus()
    qtbot.keyClick(review.table, Qt.Key.Key_4)
    assert list(read_reviews(work).values()) == [int(Task.REFUSE)]
    assert review.table.currentIndex().row() == min(1, review.table_model.rowCount() - 1)
    qtbot.keyClick(review.table, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert read_reviews(work) == {}
    assert review.table.currentIndex().row() == 0
    qtbot.keyClick(review.table, Qt.Key.Key_3)
    assert list(read_reviews(work).values()) == [int(Task.DENY)]
    plan = Pipeline(controller.config).plan()  # type: ignore[arg-type]
    assert (plan[1].action, plan[1].reason) == ("run", "reviews changed")
    controller.refresh_plan()
    qtbot.waitUntil(lambda: controller.model.steps["preprocess"].stale, timeout=60_000)
    assert page.heading.text() == "Preprocessing: to do again"
    why = page.why.text().split(" · ")
    assert why[0] == "reviews changed"
    assert "what is shown is from an earlier call" in why


@pytest.mark.skipif(sys.platform != "linux", reason="a script that stands for notify-send")
def test_an_unattended_pipeline_outlives_the_window_and_tells_its_end(
    qtbot: QtBot, page: PipelinePage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told.txt"
    program = tmp_path / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {told}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    controller = page.controller
    settled(qtbot, controller)
    page.unattended.setChecked(True)
    qtbot.mouseClick(page.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: controller.model.live, timeout=30_000)
    assert controller.config is not None
    work, child = controller.config.work, controller._child
    assert child is not None
    controller.shut_down()  # what closing the window does
    assert child.poll() is None
    assert child.wait(120) == 0
    assert told.read_text().splitlines()[-1] == "The pipeline has finished."
    assert len(told.read_text().splitlines()) == 4
    assert not (work / over.ASKED).exists()
    # With a window that watches, the window tells it.
    with qtbot.waitSignal(controller.ended, timeout=120_000):
        assert controller.start(from_="preprocess")
    assert len(told.read_text().splitlines()) == 4


def test_a_bad_configuration_is_told_and_the_old_one_stays(
    qtbot: QtBot, page: PipelinePage, tmp_path: Path
) -> None:
    settled(qtbot, page.controller)
    bad = tmp_path / "bad.yaml"
    bad.write_text("colect: {}\n")
    page.file.setCurrentText(str(bad))
    page._open()
    assert "is not a known setting" in page.message.sentence.text()
    assert page.file.currentText() == str(page.controller.file) != str(bad)


def test_the_page_is_rebuilt_in_another_language_while_the_pipeline_goes_on(
    qtbot: QtBot, window: MainWindow, configuration: Path
) -> None:
    window.show_page("pipeline")
    controller = window.pipeline
    assert controller is not None
    settled(qtbot, controller)
    controller.open(configuration)
    settled(qtbot, controller)
    with qtbot.waitSignal(controller.ended, timeout=120_000):
        assert controller.start()
        window.show_as("ja", "dark")
        assert window.pipeline is controller
        shown = window.pages.page("pipeline")
        assert isinstance(shown, PipelinePage)
        assert shown.file.currentText() == str(configuration)
        assert not shown.run_button.isEnabled()
    assert controller.model.status == "finished"
    settled(qtbot, controller)


def test_the_model_follows_events() -> None:
    model = PipelineModel((step.name, step.title) for step in STEPS)
    model.take([
        StateEvent(from_=State.IDLE, to=State.LOADING),
        PipelineStepEvent(number=1, name="collect", status="running", reason="asked for"),
        ProgressEvent(what="w", done=3, of=10),
    ])  # fmt: skip
    assert model.current is model.steps["collect"]
    assert model.steps["collect"].fraction() == 0.3
    model.take([
        PipelineStepEvent(number=1, name="collect", status="failed", reason="no", seconds=2.0),
        EndEvent(status="failed", step=0, seconds=2.5),
    ])  # fmt: skip
    assert (model.live, model.status, model.steps["collect"].status) == (False, "failed", "failed")
    model.take([StateEvent(from_=State.IDLE, to=State.LOADING)])
    assert model.steps["collect"].status == "waiting"
    model.lost()
    assert not model.live


def test_the_graph_is_walked_with_the_arrow_keys(qtbot: QtBot) -> None:
    graph = StepGraph(PipelineModel((step.name, step.title) for step in STEPS))
    qtbot.addWidget(graph)
    seen: list[str] = []
    graph.chosen.connect(seen.append)
    for _step in range(9):
        qtbot.keyClick(graph, Qt.Key.Key_Right)
    assert seen == list(PLACES)[1:]
    graph.resize(900, graph.sizeHint().height())
    qtbot.mouseClick(graph, Qt.MouseButton.LeftButton, pos=graph.boxes()["soul"].center().toPoint())
    assert graph.selected == "soul"


def test_durations() -> None:
    assert [duration(value) for value in (1.23, 42.0, 150.0, 7265.0)] == ["1.2 s", "42 s", "2:30", "2:01:05"]
