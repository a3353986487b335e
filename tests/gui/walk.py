"""Every page of a window in every state that it has: empty, with a run, compared, with rows to review."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QTabWidget, QWidget
from pytestqt.qtbot import QtBot
from recorded_runs import recorded_run

from so8t_engine.config import Config
from so8t_gui.main_window import MainWindow
from so8t_gui.pages.pipeline_page import PipelinePage


def settle() -> None:
    """Let layouts, what they post and the threads that fill a page come to their end."""
    QTest.qWait(60)
    QApplication.sendPostedEvents()
    QApplication.processEvents()


def tabs_of(tabs: QTabWidget, name: str, page: QWidget) -> Iterator[tuple[str, QWidget]]:
    """Each tab that can be seen."""
    for index in range(tabs.count()):
        if tabs.isTabVisible(index):
            tabs.setCurrentIndex(index)
            settle()
            yield f"{name} [{tabs.tabText(index)}]", page


def empty_pages(window: MainWindow, qtbot: QtBot) -> Iterator[tuple[str, QWidget]]:
    """Every page as the first start shows it."""
    for spec in window.pages.specs:
        window.show_page(spec.name)
        page = window.pages.current_page()
        qtbot.waitUntil(page.isVisible)
        settle()
        if spec.name == "run":
            yield from tabs_of(window.run_page.view.tabs, spec.name, page)
        elif isinstance(page, PipelinePage):
            for step in ("collect", "preprocess"):
                page.graph.choose(step)
                yield from tabs_of(page.tabs, f"{spec.name} {step}", page)
        else:
            yield spec.name, page
    window.settings_page.toolbar.yaml.setChecked(True)
    window.show_page("settings")
    settle()
    yield "settings as text", window.settings_page
    window.settings_page.toolbar.yaml.setChecked(False)


def full_pages(window: MainWindow, qtbot: QtBot, config: Config) -> Iterator[tuple[str, QWidget]]:
    """The pages that show runs, with two that were recorded."""
    folder = Path(config.run.directory)
    runs = [recorded_run(config, folder / name, steps).path for name, steps in (("one", 60), ("two", 120))]
    _evaluate(runs[1])
    history = window.history_page
    window.show_page("history")
    history.refresh()
    qtbot.waitUntil(lambda: history.table_model.rowCount() == 2)
    settle()
    yield "history list", history
    assert window.open_run(runs[1])
    qtbot.waitUntil(lambda: history.view.isVisible() and history.view.redraws > 0)
    yield from tabs_of(history.view.tabs, "history", history)
    history.list.table.selectAll()
    history.stack.setCurrentIndex(0)
    settle()
    history.list.compare_button.click()
    qtbot.waitUntil(lambda: history.stack.currentIndex() == 2 and len(history.comparison.board.runs) == 2)
    settle()
    yield "history comparison", history
    history.stack.setCurrentIndex(1)
    for name in ("inspect", "chat"):
        window.show_page(name)
        settle()
        yield f"{name} with a run", window.pages.current_page()


def _evaluate(run: Path) -> None:
    """An evaluation's report beside the run."""

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.05}

    def compared(base: float, tuned: float, better: bool | None) -> dict[str, Any]:
        pair = {"base": figure(base), "tuned": figure(tuned), "difference": figure(tuned - base)}
        return {**pair, "better": better}

    counts = {name: {"precision": 0.5, "recall": None, "f1": 0.25, "support": 10}
              for name in ("ALLOW", "ESCALATION", "DENY", "REFUSE")}  # fmt: skip
    bins = [{"low": 0.6, "high": 0.8, "rows": 10, "confidence": 0.7, "accuracy": 0.5}]
    report = {
        "run": run.name, "split": "test", "rows": 40, "response_tokens": 900, "probe": {"rows": 100},
        "comparison": {
            "danger_to_allow": compared(0.3, 0.1, True), "task_accuracy": compared(0.8, 0.5, False),
            "refusal_recall": compared(0.5, 0.52, None), "perplexity": compared(9.0, 7.0, True),
        },
        "four_class": {
            "per_class": counts, "confusion": [[9, 1, 0, 0], [2, 6, 2, 0], [0, 0, 10, 0], [0, 0, 3, 7]],
            "calibration": {"ece": 0.05, "brier": 0.3, "nll": 0.7, "bins": bins},
        },
        "languages": {},
    }  # fmt: skip
    folder = run / "evaluation"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
