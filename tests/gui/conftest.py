"""Every GUI test: no display needed, own preferences, and nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
import pytest
from person import Person
from PySide6.QtCore import QCoreApplication, QEvent, QSettings, QThread, QTimer
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot
from safetensors.numpy import save_file

from so8t_engine.config import Config, load_config
from so8t_engine.i18n import set_language
from so8t_engine.paths import resources_dir
from so8t_gui import app as gui_app
from so8t_gui import garbage, theme
from so8t_gui.main_window import MainWindow
from so8t_gui.page_stack import PageStack
from so8t_gui.preferences import Preferences


@pytest.fixture(scope="session")
def qapp_cls() -> type[QApplication]:
    return QApplication


@pytest.fixture(scope="session", autouse=True)
def prepared_app(qapp: QApplication) -> QApplication:
    gui_app.make_application(["so8t-gui"])
    theme.apply(qapp, "light")
    # What other tests loaded (torch: a million objects) stays out of every later look at gc's lists.
    gc.collect()
    gc.freeze()
    return qapp


def _settle() -> None:
    gc.collect()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QCoreApplication.processEvents()


def _living(app: QApplication) -> tuple[set[int], list[QTimer], set[int]]:
    timers = [o for o in gc.get_objects() if isinstance(o, QTimer) and _alive(o) and o.isActive()]
    threads = {t.ident for t in threading.enumerate() if t.ident is not None}
    return {id(w) for w in app.topLevelWidgets() if w.isVisible()}, timers, threads


def _alive(thing: object) -> bool:
    import shiboken6

    return bool(shiboken6.isValid(thing))


@pytest.fixture(autouse=True)
def nothing_left_behind(qapp: QApplication) -> Iterator[None]:
    """Fail a test that leaves visible windows, active timers, Qt threads or Python threads."""
    _settle()
    widgets_before, timers_before, threads_before = _living(qapp)
    yield
    deadline = time.monotonic() + 3
    while True:
        _settle()
        widgets, timers, threads = _living(qapp)
        running = [o for o in gc.get_objects() if isinstance(o, QThread) and _alive(o) and o.isRunning()]
        new_timers = [t for t in timers if all(t is not old for old in timers_before)]
        leaks = {
            "visible windows": widgets - widgets_before,
            "active timers": new_timers,
            "Qt threads": running,
            "Python threads": threads - threads_before,
        }
        if not any(leaks.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not any(leaks.values()), {name: what for name, what in leaks.items() if what}
    # What outlives a test stays (torch alone is a million objects): the next collection passes over it.
    gc.freeze()


@pytest.fixture
def program_collects() -> None:
    """For a test about the window's own handling of garbage, which every other one does without."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def tests_collect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window takes back at its end all that was set aside: a second for each later look at everything."""
    if "program_collects" not in request.fixturenames:
        monkeypatch.setattr(garbage, "set_aside", lambda *, rebuilt: gc.enable())
        monkeypatch.setattr(garbage, "take_back", gc.enable)


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SO8T_LANG", "en")
    set_language("en")
    yield
    set_language("en")


@pytest.fixture
def preferences(tmp_path: Path) -> Preferences:
    return Preferences(QSettings(str(tmp_path / "preferences.ini"), QSettings.Format.IniFormat))


@pytest.fixture(scope="session")
def shipped_demo() -> Config:
    """Read once; configurations are never changed, only copied."""
    return load_config("demo")


@pytest.fixture
def demo_config(shipped_demo: Config, tmp_path: Path) -> Config:
    config = shipped_demo
    return config.model_copy(
        update={"run": config.run.model_copy(update={"directory": str(tmp_path / "runs")})}
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Phi-3 with random weights, written without torch: this process stays free of it, as the
    window's does, and another one would take ten seconds to import it."""
    source, folder = resources_dir() / "base_model", tmp_path_factory.mktemp("tiny-phi3")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder / name)
    hidden, inner, layers = 32, 64, 2
    config = json.loads((source / "config.json").read_text("utf-8")) | {
        "dtype": "float32", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "original_max_position_embeddings": 512,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    shapes = {
        "self_attn.qkv_proj": (3 * hidden, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_up_proj": (2 * inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(0.0, config["initializer_range"], shape).astype(np.float32)

    outer = ("model.embed_tokens", "lm_head")
    weights = {f"{name}.weight": drawn(config["vocab_size"], hidden) for name in outer}
    norms = ["model.norm"]
    for layer in (f"model.layers.{number}" for number in range(layers)):
        weights |= {f"{layer}.{name}.weight": drawn(*shape) for name, shape in shapes.items()}
        norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
    weights |= {f"{name}.weight": np.ones(hidden, np.float32) for name in norms}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def window(
    qapp: QApplication,
    demo_config: Config,
    preferences: Preferences,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[MainWindow]:
    """A shown main window with the demonstration's settings.

    Its pages are built when a test wants them; for a ``person`` all of them, as the program does when idle.
    """
    if "person" not in request.fixturenames:
        monkeypatch.setattr(PageStack, "build_when_idle", lambda _stack, _first=(): None)
    window = MainWindow(demo_config, preferences, "light")
    window.show()
    yield window
    session = window.controller.session
    if session is not None and session.attached:
        # Nobody trains it but the test itself, which failed before it wrote the run's end.
        window.controller.detach()
    window.controller.shut_down()
    window.close()
    window.deleteLater()


@pytest.fixture
def person(window: MainWindow, qtbot: QtBot, request: pytest.FixtureRequest) -> Iterator[Person]:
    """Somebody at the window; the steps of a task that was done are printed."""
    window.activateWindow()
    person = Person(window, qtbot)
    yield person
    if person.counted is not None:
        sys.stdout.write(f"\n{request.node.name}: {person.counted} steps\n")
