"""The inspect page on real snapshots, and the chat page with a real model in its child process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from safetensors.numpy import save_file

from so8t_engine.so8t.inspection import commutators, load_rotations, rotations_of
from so8t_gui import theme
from so8t_gui.main_window import MainWindow
from tests.engine.conftest import few_rows, tiny_model  # noqa: F401  (fixtures)


def store(run: Path, steps: int = 4, blocks: int = 6) -> Path:
    (run / "rotations").mkdir(parents=True)
    rng = np.random.default_rng(0)
    safe, cmd = rng.normal(size=(2, blocks, 28)) * 0.02
    for step in range(steps):
        pair = {"r_safe": rotations_of(safe * (1 + step)), "r_cmd": rotations_of(cmd * (1 + step))}
        tensors = {name: value.astype(np.float32) for name, value in pair.items()}
        save_file(tensors, run / "rotations" / f"step-{step * 10:08d}.safetensors")
    return run


def test_the_inspect_page_scrubs_and_compares(window: MainWindow, qtbot: QtBot, tmp_path: Path) -> None:
    run = store(tmp_path / "run")
    window.show_page("inspect")
    page = window.inspect_page
    assert page.open(run)
    assert page.first is not None
    # What is not read yet is told, until all of it is there.
    assert "0 of 4" in page.travel.accessibleDescription()
    qtbot.waitUntil(lambda: page.first is not None and len(page.first.travel) == 4, timeout=5000)
    assert "of 4" not in page.travel.accessibleDescription()
    travelled = page.first.travel.view("drift_mean")
    assert travelled[0] == 0
    assert (np.diff(travelled) > 0).all()
    page.scrubber.setValue(2)
    assert "20" in page.step.text()
    wanted = commutators(load_rotations(run / "rotations" / "step-00000020.safetensors"))
    assert np.allclose(commutators(page.first.at(2)), wanted)
    assert page.open(store(tmp_path / "other"), second=True)
    page.minus.setCurrentIndex(page.minus.findData("other"))
    page.drop_comparison()
    assert not page.open(store(tmp_path / "narrow", blocks=3), second=True)
    assert page.message.isVisible()
    assert not page.open(tmp_path / "nothing")


@pytest.mark.slow
def test_chat_with_a_run_in_a_process_of_its_own(
    window: MainWindow,
    qtbot: QtBot,
    tmp_path: Path,
    few_rows: Path,  # noqa: F811
    tiny_model: Path,  # noqa: F811
) -> None:
    from so8t_engine.config import Config
    from so8t_engine.training.run import run_training
    from so8t_engine.training.run_directory import RunDirectory

    config = Config.model_validate(
        {
            "model": {"path": str(tiny_model), "device": "cpu"},
            "data": {"train": str(few_rows), "max_length": 96},
            "so8t": {"alpha_start": 0.5},
            "training": {"max_steps": 1, "optimizer": "adamw", "gradient_checkpointing": False},
            "run": {"cpu_threads": 1},
        }
    )
    run = RunDirectory.create(config, tmp_path / "runs" / "spoken")
    assert run_training(run, handle_signals=False) == 0
    window.show_page("chat")
    page = window.chat_page
    page.choose_run(run.path)
    assert page.load_button.isEnabled()
    page.load_button.click()
    qtbot.waitUntil(lambda: window.chat.loaded is not None, timeout=90_000)
    pid = window.chat.pid
    page.options.length.setValue(8)
    page.options.own_g.setChecked(True)
    page.options.g.setValue(100)
    page.prompt.setPlainText("<b>May I come in?</b>")
    page.ask()
    qtbot.waitUntil(lambda: not window.chat.busy, timeout=30_000)
    assert not page.message.isVisible()
    assert page.base.tokens
    assert page.tuned.toPlainText() == "".join(token["text"] for token in page.tuned.tokens)
    assert all(token["shift"] > 0 for token in page.tuned.tokens if token["shift"] is not None)
    assert all(not token["shift"] for token in page.base.tokens)  # g = 0: the base's own hidden states
    assert page.heads.gate.text() == "g = 1.000"
    page.export(tmp_path / "answer.json")
    told = json.loads((tmp_path / "answer.json").read_text("utf-8"))
    assert told["tuned_text"] == page.tuned.toPlainText()
    window.show_as("ja", "dark")  # the model stays
    assert window.chat.pid == pid
    window.show_as("en", "light")
    window.chat.unload()
    assert not window.chat.alive
    if sys.platform == "linux":
        assert not Path(f"/proc/{pid}").exists()


def test_the_inspect_page_begins_with_the_run_that_is_open(
    window: MainWindow, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = store(tmp_path / "run"), store(tmp_path / "other")
    page = window.inspect_page
    monkeypatch.setattr(page, "_looked_at", lambda: run)
    window.show_page("inspect")
    assert page.first is not None
    assert page.first.path == run
    window.show_page("run")
    page.open(other)  # a person's choice stays
    window.show_page("inspect")
    assert page.first.path == other


@pytest.mark.parametrize("look", [name for name in theme.THEMES if name != "system"])
def test_a_token_is_tinted_in_every_theme(window: MainWindow, look: str) -> None:
    window.show_as("en", look)
    view = window.chat_page.tuned
    view.begin()
    view.add({"text": "yes", "shift": 0.2, "kl": 0.3, "other": ""})
    assert view.toPlainText() == "yes"
    assert view.textCursor().document().firstBlock().begin().fragment().charFormat().background().color() != (
        theme.current().colour("surface")
    )
    window.show_as("en", "light")
