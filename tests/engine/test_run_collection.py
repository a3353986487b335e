"""Notes, index, comparison and removal of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from so8t_engine.cli import app
from so8t_engine.config import Config, load_config
from so8t_engine.errors import RunError
from so8t_engine.history import bin as recycle_bin
from so8t_engine.history.compare import compare, differences
from so8t_engine.history.index import RunIndex
from so8t_engine.history.notes import RunNotes, parse_tags
from so8t_engine.training.events import StateEvent, StepEvent
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State
from tests.engine.command_line import so8t_here


def make_run(
    folder: Path, name: str, config: Config, loss: float, end: State = State.FINISHED
) -> RunDirectory:
    run = RunDirectory.create(config, folder / name)
    writer = EventWriter(run)
    writer.write(StateEvent(from_=State.IDLE, to=State.LOADING))
    writer.write(
        StepEvent(
            step=3, of=3, epoch=1, loss=loss, terms={}, raw={}, lr=0.1, grad_norm=None, tokens=1,
            tokens_per_s=1, step_s=1,
        )
    )  # fmt: skip
    writer.write(StateEvent(from_=State.RUNNING, to=end))
    writer.close()
    run.final.mkdir()
    (run.final / "results.json").write_text(json.dumps({"alpha": loss, "deep": {"accuracy": 0.5}}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    demo = load_config("demo")
    make_run(tmp_path / "runs", "one", demo, 1.0)
    other = load_config("demo", ["lora.r=8", "training.seed=7"])
    make_run(tmp_path / "runs", "two", other, 2.0, State.FAILED)
    return tmp_path / "runs"


def test_the_index_is_what_the_folders_say_and_can_be_thrown_away(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    first = RunIndex(file).runs(runs)
    assert {run.summary.path.name: run.summary.loss for run in first} == {"one": 1.0, "two": 2.0}
    assert RunIndex(file).runs(runs) == first, "from the index"
    file.unlink()
    assert RunIndex(file).runs(runs) == first
    file.write_bytes(b"this is no database, and long enough to be seen as one" * 100)
    assert RunIndex(file).runs(runs) == first
    recycle_bin.delete(runs / "one")
    assert [run.summary.path.name for run in RunIndex(file).runs(runs)] == ["two"]


def test_search_pins_and_archive(runs: Path, tmp_path: Path) -> None:
    RunNotes(("Best", "β"), "try again with more rows", pinned=True).write(runs / "one")
    index = RunIndex(tmp_path / "index.sqlite")
    found = index.runs(runs)
    assert [run.summary.path.name for run in found] == ["one", "two"], "pinned comes first"
    assert found[0].notes == RunNotes.read(runs / "one")
    for search, names in (
        ("again rows", ["one"]),
        ("tag:best", ["one"]),
        ("tag:bes", []),
        ("state:fail", ["two"]),
        ("training.seed=7", ["two"]),
        ("", ["one", "two"]),
    ):
        assert [run.summary.path.name for run in found if run.matches(search)] == names, search
    RunNotes(archived=True).write(runs / "one")
    again = {run.summary.path.name: run.notes.archived for run in index.runs(runs)}
    assert again == {"one": True, "two": False}


def test_notes_that_are_none_of_ours_are_empty(tmp_path: Path) -> None:
    for text in ("[1]", "nonsense", '{"tags": 3, "note": 4, "pinned": "yes"}'):
        (tmp_path / "notes.json").write_text(text)
        assert RunNotes.read(tmp_path).tags == ()
        assert not RunNotes.read(tmp_path).pinned
    assert parse_tags(" a, b、a ,,") == ("a", "b")


def test_comparison_names_what_differs_and_nothing_else(runs: Path) -> None:
    result = compare([runs / "one", runs / "two"])
    assert result["settings"] == {"lora.r": [32, 8], "training.seed": [load_config("demo").training.seed, 7]}
    assert result["results"]["one"]["deep"]["accuracy"] == 0.5
    assert differences([Config(), Config()]) == []


def test_deleting_is_undone_and_a_living_run_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = recycle_bin.delete(runs / "one")
    assert not (runs / "one").exists()
    assert recycle_bin.restore(moved) == runs / "one"
    assert (runs / "one" / "events.jsonl").exists()
    moved = recycle_bin.delete(runs / "one")
    (runs / "one").mkdir()
    with pytest.raises(RunError, match="exists already"):
        recycle_bin.restore(moved)
    assert recycle_bin.empty(runs) > 0
    assert recycle_bin.deleted_runs(runs) == []
    from so8t_engine.training.process import ProcessMark

    run = RunDirectory(runs / "two")
    run.process.write_text(ProcessMark.current().to_json())
    writer = EventWriter(run)
    writer.write(StateEvent(from_=State.FAILED, to=State.LOADING))
    writer.close()
    with pytest.raises(RunError, match="trained now"):
        recycle_bin.delete(runs / "two")


def test_the_commands_print_one_object(runs: Path) -> None:
    listed = CliRunner().invoke(app, ["runs", "list", str(runs), "--search", "state:failed", "--json"])
    assert [run["id"] for run in json.loads(listed.stdout)["runs"]] == ["two"]
    shown = CliRunner().invoke(app, ["runs", "show", str(runs / "two"), "--json"])
    assert json.loads(shown.stdout)["settings"]["training.seed"] == 7
    compared = CliRunner().invoke(
        app, ["runs", "compare", str(runs / "one"), str(runs / "two"), "--defaults", "--json"]
    )
    assert json.loads(compared.stdout)["settings"]["lora.r"] == [Config().lora.r, 32, 8]
    text = CliRunner().invoke(app, ["runs", "compare", str(runs / "one"), str(runs / "two")]).stdout
    assert "lora.r | 32 | 8" in text


def test_what_is_no_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for command in ("list", "continue"):
        for given in (tmp_path / "none", tmp_path / "file", tmp_path / ("x" * 300)):
            done = so8t_here("runs", command, given, "--json", cwd=tmp_path)
            assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (1, "run")
            assert f"{given} is not a folder. Name the folder" in done.stderr
    done = so8t_here("runs", "list", "empty", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No run lies in empty.\n")
