"""The history tells the truth about runs, dead ones included."""

from __future__ import annotations

from pathlib import Path

from pytestqt.qtbot import QtBot
from recorded_runs import START, recorded_run, state, step

from so8t_engine.config import Config
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State
from so8t_gui.main_window import MainWindow
from so8t_gui.models.history import scan, summarise
from so8t_gui.widgets.run_table import state_text


def begun_run(config: Config, path: Path, mark: ProcessMark | None) -> RunDirectory:
    run = RunDirectory.create(config, path)
    writer = EventWriter(run)
    writer.write(state(State.IDLE, State.LOADING, START))
    writer.write(state(State.LOADING, State.RUNNING, START + 1))
    writer.write(step(7, 20, START + 2, loss=1.25))
    writer.close()
    if mark is not None:
        mark.write(run.process)
    return run


def test_a_summary_holds_state_steps_loss_and_start(demo_config: Config, tmp_path: Path) -> None:
    run = recorded_run(demo_config, tmp_path / "run", 30)
    found = summarise(run.path)
    assert (found.state, found.step, found.of) == (State.FINISHED, 30, 30)
    assert found.started == START
    assert found.loss is not None
    assert not found.live
    assert not found.lost


def test_a_dead_run_is_lost_and_not_running(demo_config: Config, tmp_path: Path) -> None:
    dead = begun_run(demo_config, tmp_path / "dead", ProcessMark(2**22 + 1, 1.0))
    found = summarise(dead.path)
    assert found.lost
    assert not found.live
    assert "lost" in state_text(found)
    assert found.loss == 1.25


def test_a_living_run_is_live(demo_config: Config, tmp_path: Path) -> None:
    run = begun_run(demo_config, tmp_path / "alive", ProcessMark.current())
    found = summarise(run.path)
    assert found.live
    assert not found.lost
    assert not found.can_resume


def test_only_run_folders_are_listed_newest_first(demo_config: Config, tmp_path: Path) -> None:
    recorded_run(demo_config, tmp_path / "a", 5)
    RunDirectory.create(demo_config, tmp_path / "never-started")
    (tmp_path / "other").mkdir()
    (tmp_path / "file.txt").write_text("x")
    assert [run.path.name for run in scan(tmp_path)] == ["a", "never-started"]
    assert state_text(scan(tmp_path)[1]) == "never started"
    assert scan(tmp_path / "missing") == []


def test_a_torn_line_does_not_hide_a_run(demo_config: Config, tmp_path: Path) -> None:
    run = recorded_run(demo_config, tmp_path / "run", 30)
    data = run.events.read_bytes()
    run.events.write_bytes(data[:-40])
    found = summarise(run.path)
    assert found.step == 30
    assert found.state is State.FINISHED


def test_the_page_lists_opens_and_goes_back(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    recorded_run(demo_config, tmp_path / "runs" / "one", 12)
    window.show_page("history")
    page = window.history_page
    qtbot.waitUntil(lambda: page.table_model.rowCount() == 1, timeout=5000)
    row = [page.table_model.data(page.table_model.index(0, c)) for c in range(4)]
    assert row[:3] == ["one", "finished", "12 / 12"]
    assert page.open_button.isEnabled()
    page.open_button.click()
    qtbot.waitUntil(lambda: page.opened is not None, timeout=5000)
    assert page.view.model.last_step is not None
    assert page.view.model.last_step.step == 12
    window.change_theme("dark")
    assert window.history_page.opened == tmp_path / "runs" / "one", "switching keeps the opened run"
    window.change_theme("light")


def test_an_unreadable_run_is_a_message(window: MainWindow, qtbot: QtBot, tmp_path: Path) -> None:
    window.open_run(tmp_path / "nothing")
    assert "is not a run folder" in window.run_page.message.sentence.text()
