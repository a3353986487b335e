"""The heads' probabilities as bars with their numbers."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QProgressBar, QWidget

from so8t_engine.i18n import _, with_more
from so8t_gui.charts.line_chart import MISSING_TEXT

ROWS = (
    ("task", "ALLOW"), ("task", "ESCALATION"), ("task", "DENY"), ("task", "REFUSE"),
    ("safety", "dangerous"), ("dual0", "dangerous"), ("dual1", "dangerous"),
)  # fmt: skip


def plain(text: str = "", name: str = "") -> QLabel:
    """A label that shows text as it is."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setObjectName(name)
    return label


class HeadsView(QFrame):
    """Decision, gate, and what each head reads at the question's last token."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        grid = QGridLayout(self)
        grid.setContentsMargins(12, 8, 12, 8)
        grid.setVerticalSpacing(3)
        grid.addWidget(plain(_("Heads"), "title"), 0, 0)
        self.decision = plain(MISSING_TEXT, "value")
        self.decision.setAccessibleName(_("Decision"))
        self.gate = plain(MISSING_TEXT, "muted")
        grid.addWidget(self.decision, 0, 1)
        grid.addWidget(self.gate, 0, 2)
        names = {
            ("safety", "dangerous"): _("danger (safety head)"),
            ("dual0", "dangerous"): _("danger (dual, R_safe side)"),
            ("dual1", "dangerous"): _("danger (dual, M side)"),
        }
        self._bars: dict[tuple[str, str], tuple[QProgressBar, QLabel]] = {}
        for row, key in enumerate(ROWS, start=1):
            name = names.get(key, key[1])
            bar, value = QProgressBar(), plain(MISSING_TEXT, "value")
            bar.setRange(0, 1000)
            bar.setTextVisible(False)
            bar.setAccessibleName(name)
            grid.addWidget(plain(name, "muted"), row, 0)
            grid.addWidget(bar, row, 1)
            grid.addWidget(value, row, 2)
            self._bars[key] = (bar, value)
        grid.setColumnStretch(1, 1)
        grid.setRowStretch(len(ROWS) + 1, 1)

    def clear(self) -> None:
        """No reading."""
        self.decision.setText(MISSING_TEXT)
        self.gate.setText(MISSING_TEXT)
        for bar, value in self._bars.values():
            bar.setValue(0)
            value.setText(MISSING_TEXT)

    def show_heads(self, answer: dict[str, Any]) -> None:
        """An answer of the kind ``heads``."""
        heads = answer["heads"]
        reasons = {
            "low_confidence": _("unsure"),
            "danger": _("danger seen"),
            "heads_disagree": _("the heads disagree"),
        }
        why = reasons.get(answer["reason"], "")
        self.decision.setText(with_more(answer["decision"], why) if why else answer["decision"])
        self.gate.setText(f"g = {answer['g']:.3f}")
        found = {("task", name): value for name, value in heads["task"]["probabilities"].items()}
        found["safety", "dangerous"] = heads["safety"]["probabilities"]["dangerous"]
        for i, one in enumerate(heads["dual"]):
            found[f"dual{i}", "dangerous"] = one["probabilities"]["dangerous"]
        for key, value in found.items():
            if key in self._bars:
                bar, label = self._bars[key]
                bar.setValue(round(1000 * value))
                label.setText(f"{value:.3f}")
