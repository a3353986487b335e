"""What each threshold of the decision rule would have done on the held-out rows; the cursor tries them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PySide6.QtCore import QProcess, QProcessEnvironment
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from so8t_engine.config.serving import ServingConfig
from so8t_engine.errors import SO8TError
from so8t_engine.evaluation.held_out_heads import HeldOutHeads, stored_heads
from so8t_engine.evaluation.thresholds import TASKS, Effect, effect, sweep
from so8t_engine.i18n import _, language
from so8t_engine.plain_text import visible
from so8t_engine.serving.chat_budget import run_config
from so8t_gui import theme
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.charts.matrix_view import MatrixView
from so8t_gui.models.buffers import Columns
from so8t_gui.models.names import SPLITS, shown
from so8t_gui.widgets.heads_view import plain

#: Columns of a curve: what part of which rows it is.
ANSWERED, ESCALATED, DANGER, HELD_BACK = "answered", "escalated", "danger", "held"


def curve_table(effects: list[Effect], along: str) -> Columns:
    """The effects as columns over the threshold that was varied."""
    table = Columns("value", capacity=len(effects) + 1)
    for one in effects:
        others = [one.matrix[i][0] for i in range(1, 4)]
        rows = sum(sum(row) for row in one.matrix[1:])
        table.append(
            {
                "value": one.danger_threshold if along == "danger" else one.allow_threshold,
                ANSWERED: one.share("ALLOW", "ALLOW"),
                ESCALATED: one.share("ALLOW", "ESCALATION"),
                HELD_BACK: sum(others) / rows if rows else None,
                DANGER: one.danger_to_allow,
            }
        )
    return table


class ThresholdPanel(QWidget):
    """Two curves, over each threshold with the other one held; the table of true class by decision."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder: Path | None = None
        self._stamp: tuple[object, ...] = ()
        self._process: QProcess | None = None
        self.heads: HeldOutHeads | None = None
        self.serving = ServingConfig()
        self.tried: tuple[str, float] | None = None
        self.allow, self.danger = (
            LineChart(_("ALLOW from"), robust=False),
            LineChart(_("Danger from"), robust=False),
        )
        s = theme.current().series
        for key, chart in (("allow", self.allow), ("danger", self.danger)):
            chart.set_x("value", _("threshold"))
            chart.set_series(
                [
                    Series(ANSWERED, _("ALLOW rows answered"), s[0]),
                    Series(ESCALATED, _("ALLOW rows escalated"), s[2], dashed=True),
                    Series(HELD_BACK, _("other rows answered"), s[1]),
                    Series(DANGER, _("danger → ALLOW"), s[3]),
                ]
            )
            chart.set_empty_text(_("No decisions are stored for this run."))
            chart.hovered.connect(lambda x, key=key: self.try_threshold(key, x))
        self._lines = {
            "allow": self.allow.plot.addLine(x=0.0, pen=theme.current()["phi"]),
            "danger": self.danger.plot.addLine(x=0.0, pen=theme.current()["phi"]),
        }
        self.matrix = MatrixView(
            _("Rows are the true class, columns the decision"), diverging=False, numbers=True, labels=TASKS
        )
        self.words = plain("", "value")
        self.words.setWordWrap(True)
        self.words.setAccessibleName(_("Effect of the thresholds"))
        self.source = plain("", "muted")
        self.source.setWordWrap(True)
        self.ask = QPushButton(_("Ask the model"))
        self.ask.setToolTip(
            _("Run the held-out rows through the finished run once, in a process of its own.")
        )
        self.ask.clicked.connect(self.ask_model)
        card = QFrame()
        card.setObjectName("card")
        inner = QVBoxLayout(card)
        inner.setContentsMargins(10, 8, 10, 8)
        inner.addWidget(plain(_("Rows are the true class, columns the decision"), "title"))
        inner.addWidget(self.matrix, 1)
        inner.addWidget(self.words)
        inner.addWidget(self.source)
        row = QHBoxLayout()
        row.addWidget(self.ask)
        row.addStretch(1)
        inner.addLayout(row)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 8, 0, 0)
        grid.setSpacing(8)
        grid.addWidget(self.allow, 0, 0)
        grid.addWidget(self.danger, 1, 0)
        grid.addWidget(card, 0, 1, 2, 1)
        for i in range(2):
            grid.setRowStretch(i, 1)
            grid.setColumnStretch(i, 1)

    def draw(self, folder: Path | None, *, ended: bool) -> None:
        """Show a run's folder; its files are read when they are others than before."""
        stamp = (folder, ended, *_stamps(folder))
        if stamp == self._stamp:
            return
        self._stamp, self._folder, self.heads = stamp, folder, None
        problem = ""
        try:
            if folder is not None and (folder / "final").is_dir():
                self.heads = stored_heads(folder)
                self.serving = run_config(folder).serving
        except SO8TError as error:
            problem = f"{error.sentence} {error.mend}"
        able = folder is not None and (folder / "final" / "MANIFEST.json").is_file()
        self.ask.setVisible(able and self.heads is None)
        if problem:
            self.source.setText(problem)
        elif self.heads is not None:
            self.source.setText(
                _("%(rows)d rows of %(split)s at step %(step)s. The line marks the run's own thresholds.")
                % {
                    "rows": len(self.heads),
                    "split": shown(self.heads.split, SPLITS),
                    "step": MISSING_TEXT if self.heads.step is None else self.heads.step,
                }
            )
        elif able:
            self.source.setText(_("This run stored no decisions on its held-out rows."))
        else:
            self.source.setText(_("A run stores at its end what its heads said of the held-out rows."))
        self._draw_curves()

    def _draw_curves(self) -> None:
        held = self.serving
        for key, chart in (("allow", self.allow), ("danger", self.danger)):
            table = Columns("value")
            if self.heads is not None:
                effects = sweep(self.heads, held.allow_threshold, held.danger_threshold, what=key)
                table = curve_table(effects, key)
            value = held.allow_threshold if key == "allow" else held.danger_threshold
            self._lines[key].setPos(value)
            other = held.danger_threshold if key == "allow" else held.allow_threshold
            note = _("ALLOW from %(value).2f") if key == "danger" else _("danger from %(value).2f")
            chart.set_note(note % {"value": other})
            chart.draw(table)
            chart.set_cursor(value)
        self._show_effect()

    def try_threshold(self, which: str, value: float | None) -> None:
        """What a threshold under the pointer does; None goes back to the run's own."""
        self.tried = None if value is None else (which, round(min(1.0, max(0.0, value)), 2))
        held = self.serving
        for key, chart in (("allow", self.allow), ("danger", self.danger)):
            own = held.allow_threshold if key == "allow" else held.danger_threshold
            chart.set_cursor(self.tried[1] if self.tried and self.tried[0] == key else own)
        self._show_effect()

    def _show_effect(self) -> None:
        if self.heads is None:
            self.matrix.set_matrix(None)
            self.words.setText("")
            return
        allow, danger = self.serving.allow_threshold, self.serving.danger_threshold
        if self.tried is not None:
            allow, danger = (self.tried[1], danger) if self.tried[0] == "allow" else (allow, self.tried[1])
        found = effect(self.heads, allow, danger)
        self.matrix.set_matrix(np.asarray(found.matrix, dtype=np.float64))
        text = _("ALLOW from %(allow).2f, danger from %(danger).2f:") % {"allow": allow, "danger": danger}
        right = sum(found.matrix[i][i] for i in range(4))
        rows = sum(sum(row) for row in found.matrix)
        text += " " + _("%(right)d of %(rows)d rows as labelled.") % {"right": right, "rows": rows}
        if found.dangerous:
            text += " " + _("%(count)d of %(of)d dangerous rows would be answered (%(part).1f %%).") % {
                "count": found.dangerous_allowed,
                "of": found.dangerous,
                "part": 100 * found.dangerous_allowed / found.dangerous,
            }
        self.words.setText(text)

    # The model is asked in a process of its own.

    def ask_model(self) -> None:
        """Run ``so8t thresholds`` on the run."""
        if self._process is not None or self._folder is None:
            return
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("SO8T_LANG", language())
        environment.insert("PYTHONIOENCODING", "utf-8")
        process.setProcessEnvironment(environment)
        process.setWorkingDirectory(str(Path.cwd()))
        process.finished.connect(self._asked)
        process.errorOccurred.connect(self._not_asked)
        self._process = process
        self.ask.setEnabled(False)
        self.source.setText(_("The held-out rows go through the model…"))
        process.start(sys.executable, ["-m", "so8t_engine.cli", "thresholds", str(self._folder), "--json"])

    def _not_asked(self, error: QProcess.ProcessError) -> None:
        if error is QProcess.ProcessError.FailedToStart:
            self._asked(1, QProcess.ExitStatus.CrashExit)

    def _asked(self, code: int, _status: QProcess.ExitStatus) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        told = bytes(process.readAllStandardError().data()).decode("utf-8", "replace").strip()
        process.deleteLater()
        self.ask.setEnabled(True)
        folder, self._stamp = self._folder, ()
        self.draw(folder, ended=True)
        if code != 0:
            self.source.setText(visible(told, 600))

    def shut_down(self) -> None:
        """End the process, if one runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.waitForFinished(3000)


def _stamps(folder: Path | None) -> tuple[object, ...]:
    """What changes when a run stores its decisions."""
    if folder is None:
        return ()
    stamps: list[object] = []
    for name in ("final/MANIFEST.json", "evaluation/decisions.json"):
        try:
            stamps.append((folder / name).stat().st_mtime_ns)
        except OSError:
            stamps.append(None)
    return tuple(stamps)
