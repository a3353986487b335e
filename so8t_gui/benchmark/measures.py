"""What is measured, each in a process of its own.

``python -m so8t_gui.benchmark.measures NAME …`` prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PySide6.QtCore import QCoreApplication, QEvent, QEventLoop, QObject, QSettings, QThread, QTimer, Signal
from PySide6.QtWidgets import QApplication

from so8t_engine.config import load_config
from so8t_engine.history.event_blocks import read_whole
from so8t_engine.history.event_indexer import index_folder
from so8t_engine.training.events import Event, parse_event
from so8t_gui import theme
from so8t_gui.app import make_application
from so8t_gui.benchmark.long_run import opening_lines, step_lines, write_run
from so8t_gui.main_window import MainWindow
from so8t_gui.models import event_cache
from so8t_gui.preferences import Preferences

MIB = 2**20
PROBE_MS = 4
Result = dict[str, Any]


def rss_mib() -> float:
    """Resident memory of this process."""
    return round(psutil.Process().memory_info().rss / MIB, 1)


def make_window(folder: Path) -> tuple[QApplication, MainWindow]:
    """The program's window with preferences of its own, every chart panel visible."""
    app = make_application(["so8t-gui"])
    theme.apply(app, "dark")
    store = QSettings(str(folder / "preferences.ini"), QSettings.Format.IniFormat)
    config = load_config("demo")
    config = config.model_copy(update={"run": config.run.model_copy(update={"directory": str(folder)})})
    window = MainWindow(config, Preferences(store), "dark")
    return app, window


def wait_until(ready: Callable[[], bool], seconds: float) -> float:
    """Turn the event loop until ``ready``; seconds it took. Raises `TimeoutError`."""
    start = time.perf_counter()
    while not ready():
        QCoreApplication.processEvents()
        if time.perf_counter() - start > seconds:
            raise TimeoutError
        time.sleep(0.001)
    return time.perf_counter() - start


class _FirstPaint(QObject):
    painted_at = 0.0

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.Paint and not self.painted_at:
            self.painted_at = time.time()
        return False


def startup(started: str) -> Result:
    """From before the interpreter's start until the window's first painting."""
    with tempfile.TemporaryDirectory() as folder:
        app, window = make_window(Path(folder))
        watch = _FirstPaint()
        window.installEventFilter(watch)
        window.show()
        wait_until(lambda: bool(watch.painted_at), 30)
        app.processEvents()
        result = {
            "seconds": round(watch.painted_at - float(started), 3),
            "rss_mib": rss_mib(),
            "torch_loaded": "torch" in sys.modules,
        }
        window.close()
    return result


class _Probe(QThread):
    """Sends its own time to the window's thread again and again."""

    sent = Signal(float)

    def run(self) -> None:
        while not self.isInterruptionRequested():
            self.sent.emit(time.perf_counter())
            self.msleep(PROBE_MS)


class _Receiver(QObject):
    def __init__(self) -> None:
        super().__init__()
        self.waited_ms: list[float] = []

    def take(self, sent: float) -> None:
        self.waited_ms.append((time.perf_counter() - sent) * 1e3)


def latency(steps: str, seconds: str) -> Result:
    """How long an event waits for the window's thread while a run with a long past goes on at 50 events/s."""
    with tempfile.TemporaryDirectory() as folder:
        count = int(steps)
        run = write_run(Path(folder) / "run", count, finished=False, of=count * 2)
        writer = [sys.executable, "-m", "so8t_gui.benchmark.writer", str(run.path), str(count)]
        process = subprocess.Popen([*writer, str(count * 2), "50", "3600"])
        app, window = make_window(Path(folder))
        try:
            window.show()
            wait_until(run.process.exists, 20)
            start = time.perf_counter()
            window.attach(run.path)
            wait_until(lambda: len(window.controller.model.steps) >= count, 300)
            attached = time.perf_counter() - start
            turn(app, 2.0)
            before, redraws = len(window.controller.model.steps), window.run_page.view.redraws
            receiver, probe = _Receiver(), _Probe()
            probe.sent.connect(receiver.take)
            probe.start()
            turn(app, float(seconds))
            probe.requestInterruption()
            probe.wait()
            waited = np.array(receiver.waited_ms)
            result = {
                "platform": app.platformName(),
                "steps": len(window.controller.model.steps),
                "attach_seconds": round(attached, 2),
                "events_per_s": round(3 * (len(window.controller.model.steps) - before) / float(seconds), 1),
                "redraws_per_s": round((window.run_page.view.redraws - redraws) / float(seconds), 1),
                "samples": len(waited),
                "p50_ms": round(float(np.quantile(waited, 0.5)), 2),
                "p99_ms": round(float(np.quantile(waited, 0.99)), 2),
                "max_ms": round(float(waited.max()), 2),
                "rss_mib": rss_mib(),
            }
        finally:
            process.kill()
            process.wait()
            window.controller.detach()
            window.close()
    return result


def turn(app: QApplication, seconds: float) -> None:
    """Let the event loop run as it does in the program."""
    # Not app.quit(), which closes the windows first.
    loop = QEventLoop(app)
    QTimer.singleShot(int(seconds * 1e3), loop.quit)
    loop.exec()


def memory(hours: str) -> Result:
    """The window's memory before and after so many hours of events at 50 a second, as fast as they go."""
    total = int(float(hours) * 3600 * 50 / 3)
    with tempfile.TemporaryDirectory() as folder:
        app, window = make_window(Path(folder))
        window.show()
        turn(app, 1.0)
        view, model = window.run_page.view, window.controller.model
        start = time.time() - total * 0.06
        model.digest(_events(b"".join(opening_lines(start))))
        gc.collect()
        before, marks = rss_mib(), []
        for n in range(1, total + 1):
            model.digest(_events(step_lines(n, total, start)))
            if n % 200 == 0:
                view.poke()
                app.processEvents()
            if n % max(1, total // 8) == 0:
                marks.append(rss_mib())
        turn(app, 1.0)
        result = {"events": 3 * total, "before_mib": before, "each_eighth_mib": marks, "after_mib": rss_mib()}
        window.close()
    return result


def _events(lines: bytes) -> list[Event]:
    return [event for line in lines.splitlines() if (event := parse_event(line)) is not None]


def opening(steps: str) -> Result:
    """From the click on Open until a run of so many steps is drawn.

    ``first``: with the index that its trainer wrote. ``without_index``: with nothing but the event file, as
    runs of older versions are. ``again``: with this computer's cache of that.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", int(steps))
        size = run.events.stat().st_size
        app, window = make_window(Path(folder))
        window.show()
        turn(app, 0.5)
        times = {}
        for name in ("first", "without_index", "again"):
            if name != "again":
                event_cache.cache_file(run.events).unlink(missing_ok=True)
            if name == "without_index":
                shutil.rmtree(index_folder(run.events))
            start = time.perf_counter()
            window.open_run(run.path)
            wait_until(lambda: window.history_page.opened is not None, 300)
            view = window.history_page.view
            wait_until(lambda view=view: view.overview.loss.extent() is not None, 60)  # type: ignore[misc]
            app.processEvents()
            times[f"{name}_seconds"] = round(time.perf_counter() - start, 2)
            window.history_page.stack.setCurrentIndex(0)
            view.bind(type(view.model)(), None)
            view.overview.draw(view.model)
            turn(app, 0.2)
        result = {"event_file_mib": round(size / MIB), **times, "rss_mib": rss_mib()}
        event_cache.cache_file(run.events).unlink(missing_ok=True)
        window.close()
    return result


def overlay(steps: str, count: str) -> Result:
    """From the click on Compare until so many long runs are drawn over each other."""
    with tempfile.TemporaryDirectory() as folder:
        first = write_run(Path(folder) / "run0", int(steps))
        runs = [first.path]
        for index in range(1, int(count)):
            path = Path(folder) / f"run{index}"
            path.mkdir()
            (path / "events.jsonl").hardlink_to(first.events)
            (path / "config.yaml").write_bytes(first.config_file.read_bytes())
            runs.append(path)
        start = time.perf_counter()
        blocks = read_whole(first.events)
        indexing = time.perf_counter() - start
        for path in runs:
            event_cache.save(path / "events.jsonl", blocks)
        del blocks
        app, window = make_window(Path(folder))
        window.show()
        window.show_page("history")
        turn(app, 0.5)
        start = time.perf_counter()
        page = window.history_page
        page.compare_runs(runs)
        wait_until(
            lambda: page.stack.currentIndex() == 2 and len(page.comparison.board.runs) == len(runs), 300
        )
        app.processEvents()
        result = {
            "runs": len(runs),
            "seconds": round(time.perf_counter() - start, 2),
            "indexing_one_seconds": round(indexing, 1),
            "rss_mib": rss_mib(),
        }
        for path in runs:
            event_cache.cache_file(path / "events.jsonl").unlink(missing_ok=True)
        window.close()
    return result


MEASURES: dict[str, Callable[..., Result]] = {
    "startup": startup,
    "latency": latency,
    "memory": memory,
    "opening": opening,
    "overlay": overlay,
}


def main(arguments: list[str]) -> None:
    """Print one JSON object."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stdout.write(json.dumps(MEASURES[arguments[0]](*arguments[1:])) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
