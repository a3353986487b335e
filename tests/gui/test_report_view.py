"""The evaluation report in the window: regressions first, every part, and what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QTableWidget
from pytestqt.qtbot import QtBot

from so8t_gui.charts.matrix_view import MatrixView
from so8t_gui.charts.report_charts import IntervalChart, ReliabilityChart
from so8t_gui.widgets.report_view import ReportView
from so8t_gui.widgets.run_view import RunView


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def compared(base: float, tuned: float, better: bool | None) -> dict[str, Any]:
    return {
        "base": figure(base),
        "tuned": figure(tuned),
        "difference": figure(tuned - base),
        "better": better,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """As `so8t_engine.evaluation.run_report` shapes it."""
    bins = [{"low": 0.6, "high": 0.8, "rows": 10, "confidence": 0.7, "accuracy": 0.5},
            {"low": 0.8, "high": 1.0, "rows": 30, "confidence": 0.9, "accuracy": 0.95}]  # fmt: skip
    names = ("ALLOW", "ESCALATION", "DENY", "REFUSE")
    per_class = {name: {"precision": 0.5, "recall": None, "f1": 0.25, "support": 10} for name in names}
    return {
        "run": "<b>mine</b>", "split": "test", "rows": 40, "response_tokens": 900, "probe": {"rows": 100},
        "comparison": {
            "danger_to_allow": compared(0.3, 0.1, True),
            "task_accuracy": compared(0.8, 0.5, False),
            "refusal_recall": compared(0.5, 0.52, None),
            "perplexity": compared(9.0, 7.0, True),
        },
        "four_class": {
            "per_class": per_class, "confusion": [[9, 1, 0, 0], [2, 6, 2, 0], [0, 0, 10, 0], [0, 0, 3, 7]],
            "calibration": {"ece": 0.05, "brier": 0.3, "nll": 0.7, "bins": bins},
        },
        "languages": {},
    }  # fmt: skip


def shown(view: ReportView) -> list[str]:
    widget = view.widget()
    assert widget is not None
    return [label.text() for label in widget.findChildren(QLabel)]


def test_what_got_worse_is_said_first_and_every_part_is_there(
    qtbot: QtBot, tmp_path: Path, report: dict[str, Any]
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "report.md").write_text("# said", encoding="utf-8")
    view = ReportView()
    qtbot.addWidget(view)
    view.resize(900, 700)
    assert view.load(tmp_path)
    view.show()
    texts = shown(view)
    judged = [text for text in texts if text[:1] in "▼▲■"]
    assert [text[0] for text in judged] == ["▼", "▲", "▲"]
    assert "task accuracy" in judged[0]
    assert any("<b>mine</b>" in text for text in texts)
    assert all(label.textFormat() == Qt.TextFormat.PlainText for label in view.findChildren(QLabel))
    tables = view.findChildren(QTableWidget)
    assert [table.rowCount() for table in tables] == [4, 4]
    assert tables[1].item(0, 2).text() == "—"  # type: ignore[union-attr]
    assert len(view.findChildren(MatrixView)) == 1
    for kind in (IntervalChart, ReliabilityChart, MatrixView):
        picture = view.findChildren(kind)[0].grab().toImage()
        colours = {
            picture.pixel(x, y) for x in range(0, picture.width(), 3) for y in range(0, picture.height(), 3)
        }
        assert len(colours) > 3  # something is drawn
    qtbot.mouseClick(view.copy, Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text() == "# said"
    assert not view.browse.isEnabled()  # there is no report.html


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"comparison": 3}', '{"comparison": {"task_accuracy": {}}}', "\udcff"]
)
def test_a_damaged_report_is_told(qtbot: QtBot, tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    view = ReportView()
    qtbot.addWidget(view)
    assert view.load(tmp_path)
    assert any("cannot be read" in one for one in shown(view))


def test_a_newer_report_replaces_the_one_shown(qtbot: QtBot, tmp_path: Path, report: dict[str, Any]) -> None:
    view = ReportView()
    qtbot.addWidget(view)
    assert not view.load(None)
    assert not view.load(tmp_path)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report), encoding="utf-8")
    assert view.load(tmp_path)
    page = view.widget()
    assert view.load(tmp_path)
    assert view.widget() is page
    file.write_text(json.dumps(report | {"run": "another"}), encoding="utf-8")
    assert view.load(tmp_path)
    assert any("another" in text for text in shown(view))


def test_a_runs_own_evaluation_has_a_tab(qtbot: QtBot, tmp_path: Path, report: dict[str, Any]) -> None:
    view = RunView()
    qtbot.addWidget(view)
    view.bind(view.model, tmp_path)
    assert not view.tabs.isTabVisible(5)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    view.show()
    assert view.tabs.isTabVisible(5)
    view.tabs.setCurrentIndex(5)
    assert any("mine" in text for text in shown(view.report))
