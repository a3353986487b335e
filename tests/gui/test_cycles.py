"""Runs that are started and stopped in a window, again and again: nothing of them is left behind.

``SO8T_CYCLES=200 pytest -s tests/gui/test_cycles.py`` goes through that many and prints what it counted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from processes import own_children
from PySide6.QtCore import QCoreApplication, QEvent, Qt, QThread
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot
from test_real_run import STEP_MS, _some_rows

from so8t_engine.config.loading import parse_config
from so8t_engine.training.states import Command, State
from so8t_gui.main_window import MainWindow
from so8t_gui.preferences import Preferences

CYCLES = int(os.environ.get("SO8T_CYCLES", "3"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400 if CYCLES > 3 else 600)]
#: Cycles before the first count: caches of fonts, icons and styles are filled by them.
WARM_UP = 2 if CYCLES < 50 else 20
#: Each one takes as many steps; the others are stopped while the trainer is loading.
TRAINS_EACH = 20
MIB = 2**20


@dataclass(frozen=True)
class Count:
    """What this process holds."""

    threads: int
    processes: int
    files: int
    windows: int
    memory_mib: float


def _count(app: QApplication) -> Count:
    for _ in range(3):
        gc.collect()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QCoreApplication.processEvents()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but is kept for later is no leak
    me = psutil.Process()
    qt_threads = [o for o in gc.get_objects() if isinstance(o, QThread) and o.isRunning()]
    return Count(
        threads=threading.active_count() + len(qt_threads),
        processes=len(own_children()),
        files=me.num_fds() if hasattr(me, "num_fds") else me.num_handles(),  # type: ignore[attr-defined]
        windows=len(app.topLevelWidgets()),
        memory_mib=me.memory_info().rss / MIB,
    )


def _cycle(window: MainWindow, qtbot: QtBot, *, train: bool) -> None:
    """Start and Stop by clicking; the run is stopped while it loads, or after a step."""
    controls = window.run_page.controls
    qtbot.waitUntil(controls.start.isEnabled, timeout=STEP_MS)
    qtbot.mouseClick(controls.start, Qt.MouseButton.LeftButton)
    model = window.controller.model
    if train:
        qtbot.waitUntil(lambda: model.last_step is not None, timeout=STEP_MS)
    stop = controls.buttons[Command.STOP]
    qtbot.waitUntil(stop.isEnabled, timeout=STEP_MS)
    qtbot.mouseClick(stop, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=STEP_MS)
    assert model.state is State.STOPPED, model.last_error


@pytest.mark.usefixtures("warm_starts")
def test_starting_and_stopping_leaves_nothing_behind(
    qapp: QApplication,
    qtbot: QtBot,
    preferences: Preferences,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    rows = _some_rows("train", 16, tmp_path / "train.jsonl")
    held_out = _some_rows("validation", 4, tmp_path / "validation.jsonl")
    config = parse_config(
        json.dumps(
            {
                "name": "cycle",
                "model": {"path": str(tiny_model)},
                "data": {"train": rows, "validation": held_out, "max_length": 64},
                "training": {"batch_size": 1, "accumulation": 1, "epochs": 400},
                "run": {"directory": str(tmp_path / "runs"), "cpu_threads": 1},
            }
        )
    )
    window = MainWindow(config, preferences, "light")
    window.show()
    counts: list[Count] = []
    trained = 0
    for number in range(1, CYCLES + 1):
        train = number % TRAINS_EACH == 0 or number == 1
        trained += train
        _cycle(window, qtbot, train=train)
        if number in {WARM_UP, CYCLES} or number % 10 == 0:
            counts.append(_count(qapp))
            print(f"\n{number}: {counts[-1]}", end="", flush=True)  # noqa: T201
    window.close()
    window.deleteLater()
    first, last = counts[0], counts[-1]
    print(f"\n{CYCLES} cycles, {trained} of them with training steps: {first} -> {last}")  # noqa: T201
    assert last.threads <= first.threads
    assert last.processes == 0
    assert last.files <= first.files
    assert last.windows <= first.windows
    assert last.memory_mib - first.memory_mib <= 5.0
