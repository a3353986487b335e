"""A trainer that computes on the processors comes after the window it is looked at in."""

from __future__ import annotations

import subprocess
import sys

import pytest

from so8t_engine.config import Config
from so8t_engine.memory.fit import with_changes
from so8t_engine.memory.nvml import NvmlMissing
from so8t_engine.training import child
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.session import EngineSession


class _Started(Exception):  # noqa: N818  (no error: how far the test goes)
    pass


@pytest.mark.parametrize("beside_a_window", [True, False])
def test_the_trainer_is_told_whether_a_window_is_looked_at(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, beside_a_window: bool
) -> None:
    run = RunDirectory.create(Config(), tmp_path_factory.mktemp("runs") / "run")
    session = EngineSession(run)
    session.gives_way = beside_a_window
    told: list[str] = []

    def start(command: list[str], **_options: object) -> None:
        told.extend(command)
        raise _Started

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(_Started):
        session._spawn()
    assert ("--give-way" in told) == beside_a_window


def test_only_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def says(device: str, card: bool) -> bool:
        monkeypatch.setattr(child, "read_memory", lambda: object() if card else NvmlMissing("none"))
        return child._without_card(with_changes(Config(), {"model.device": device}))

    assert says("cpu", True)
    assert says("auto", False)
    assert not says("auto", True)
    assert not says("cuda", False)


@pytest.mark.skipif(sys.platform == "win32", reason="a class there, not a number")
def test_priority_is_lowered() -> None:
    program = "import os; from so8t_engine.threads import give_way; give_way(7); print(os.nice(0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before = subprocess.run(
        [sys.executable, "-c", "import os; print(os.nice(0))"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == max(int(before.stdout), 7)
