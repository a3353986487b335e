"""The window's latency while it chats and a run trains in the same session. By hand, in a real window:

    xvfb-run -a python tests/benchmarks/bench_chat_while_training.py RUN [--seconds 40] [--preset demo]

RUN is a finished run to chat with. The training is a real one, started in the window, in its own process;
the model that answers is in another. Half of the time the chat page is shown, half of it the run's page.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PySide6.QtWidgets import QApplication

from so8t_engine.config import Config, load_config
from so8t_engine.data.reader import read_rows
from so8t_engine.training.states import Command, State
from so8t_gui.benchmark.measures import _Probe, _Receiver, make_window, turn, wait_until
from so8t_gui.main_window import MainWindow

QUESTION = "I would like you, for good reasons, to summarise the public minutes of the book sale."
TARGETS = {"p50_ms": 8.0, "p99_ms": 20.0, "max_ms": 100.0}


def _measure(app: QApplication, window: MainWindow, seconds: float, *, ask: bool) -> dict[str, float]:
    """Questions one after the other for so long, and how long the window's thread let events wait."""
    page, answers, tokens = window.chat_page, 0, 0
    steps, cpu = len(window.controller.model.steps), time.process_time()
    receiver, probe = _Receiver(), _Probe()
    probe.sent.connect(receiver.take)
    probe.start()
    for _turn in range(round(seconds / 0.25)):
        if ask and not window.chat.busy:
            tokens += len(page.tuned.tokens) + len(page.base.tokens)
            answers += bool(page.tuned.tokens)
            page.prompt.setPlainText(QUESTION)
            page.ask()
        turn(app, 0.25)
    probe.requestInterruption()
    probe.wait()
    waited = np.array(receiver.waited_ms)
    return {
        "samples": len(waited),
        "p50_ms": round(float(np.quantile(waited, 0.5)), 2),
        "p99_ms": round(float(np.quantile(waited, 0.99)), 2),
        "max_ms": round(float(waited.max()), 2),
        "over_100_ms": int((waited > 100).sum()),
        "answers": answers,
        "tokens": tokens,
        "window_cpu": round((time.process_time() - cpu) / seconds, 3),
        "training_steps": len(window.controller.model.steps) - steps,
    }


def _few_rows(config: Config, folder: Path) -> Path:
    """Training rows of the preset in a file of their own: the evaluation before the first step is short."""
    rows = read_rows(config.data.train, fmt="auto", split="train")[:240]
    path = folder / "rows.jsonl"
    names = {0: "ALLOW", 1: "ESCALATION", 2: "DENY", 3: "REFUSE"}
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            told: dict[str, object] = {"prompt": row.prompt, "response": row.response}
            if row.task is not None and row.safety is not None:
                told |= {"task": names[int(row.task)], "safety": ("safe", "dangerous")[int(row.safety)]}
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
    return path


def main() -> int:
    """Print one JSON object; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--preset", default="demo")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        app, window = make_window(Path(folder))
        window.show()
        turn(app, 3.0)
        # What the rest of the machine does to a window that does nothing.
        idle = _measure(app, window, options.seconds / 4, ask=False)
        config = load_config(options.preset)
        run = config.run.model_copy(update={"directory": folder, "cpu_threads": 1})
        data = config.data.model_copy(update={"train": str(_few_rows(config, Path(folder)))})
        training = config.training.model_copy(update={"max_steps": 100_000, "evaluate_every": None})
        window.controller.start(config.model_copy(update={"run": run, "training": training, "data": data}))
        wait_until(lambda: len(window.controller.model.steps) >= 3 or not window.controller.live, 240)
        assert window.controller.live, window.controller.model.last_error
        window.show_page("chat")
        window.chat_page.choose_run(options.run)
        window.chat.load(options.run)
        wait_until(lambda: window.chat.loaded is not None, 240)
        window.chat_page.options.length.setValue(48)
        turn(app, 2.0)
        result: dict[str, object] = {"platform": app.platformName(), "cores": os.cpu_count(), "idle": idle}
        parts = {}
        for name in ("chat", "run"):
            window.show_page(name)
            turn(app, 1.5)
            parts[name] = _measure(app, window, options.seconds / 2, ask=True)
        assert window.controller.model.state is State.RUNNING
        window.controller.send(Command.ABORT)
        wait_until(lambda: not window.controller.live, 60)
        window.close()
    missed = [
        f"{page}: {key}"
        for page, part in parts.items()
        for key, limit in TARGETS.items()
        if part[key] > limit
    ]
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    sys.stdout.write(json.dumps({**result, "pages": parts, "missed": missed, "load_average": load}) + "\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
