"""The predicted memory peak against the limit: a stacked bar with its range, and a card around it."""

from __future__ import annotations

import html

from PySide6.QtCore import QEvent, QLineF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QMenu,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import N_, _
from so8t_engine.memory.budget import TERM_TITLES, Estimate, gib
from so8t_engine.memory.fit import Suggestion
from so8t_gui.forms import colours
from so8t_gui.forms.estimate_errors import EstimateErrors
from so8t_gui.forms.row import plain_label

#: The bar's segments, and the estimate's terms in each.
SEGMENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (N_("Model"), ("weights", "quantisation_constants", "embeddings")),
    (N_("Training state"), ("lora", "gradients", "optimizer", "so8t")),
    (N_("Activations"), ("saved_activations", "working_set", "dequantised", "attention")),
    (N_("Reserve and driver"), ("fragmentation", "context")),
)
_BLENDS = (0.0, 0.35, 0.6, 0.8)


def terms_text(estimate: Estimate) -> str:
    """Every term with its size, one a line."""
    lines = [f"{_(TERM_TITLES[name])}: {gib(size)} GiB" for name, size in estimate.terms.items() if size]
    return "\n".join([_("Peak memory, estimated"), *lines, "", *estimate.notes])


def _tooltip(estimate: Estimate | None) -> str:
    """`terms_text` as markup, escaped: a note may quote a model's file, and tooltips guess at markup."""
    if estimate is None:
        return ""
    return f"<div style='white-space: pre-wrap'>{html.escape(terms_text(estimate))}</div>"


class StackedBar(QWidget):
    """Segments up to the predicted peak, the range as a bracket beneath, the limit as a line."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._estimate: Estimate | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(_("Memory budget"))

    def sizeHint(self) -> QSize:
        return QSize(220, 34)

    def minimumSizeHint(self) -> QSize:
        return QSize(120, 34)

    def show_estimate(self, estimate: Estimate | None) -> None:
        """Draw ``estimate``; None draws an empty bar."""
        self._estimate = estimate
        self.setToolTip(_tooltip(estimate))
        self.setAccessibleDescription(estimate.sentence if estimate else "")
        self.update()

    def segment_colour(self, index: int) -> QColor:
        """The highlight colour, blended towards the ground from segment to segment."""
        palette = self.palette()
        highlight = palette.color(palette.ColorRole.Highlight)
        return colours.blend(highlight, palette.color(palette.ColorRole.Base), _BLENDS[index])

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette()
        text = palette.color(palette.ColorRole.WindowText)
        width, top, height = self.width() - 2, 5.0, 16.0
        frame = QRectF(1, top, width, height)
        painter.setPen(QPen(colours.muted(palette), 1))
        painter.setBrush(palette.color(palette.ColorRole.Base))
        painter.drawRoundedRect(frame, 3, 3)
        estimate = self._estimate
        if estimate is None:
            return
        # On the CPU there may be far more memory than needed: the bar then ends soon after the peak.
        most = max(estimate.high_bytes, estimate.device_bytes)
        whole = 1.08 * max(most, min(estimate.budget_bytes, 3 * most))
        limit = 1 + width * min(estimate.budget_bytes / whole, 1.0)
        left = 1.0
        painter.setPen(Qt.PenStyle.NoPen)
        for index, (_title, names) in enumerate(SEGMENTS):
            part = width * sum(estimate.terms.get(name, 0) for name in names) / whole
            painter.setBrush(self.segment_colour(index))
            painter.drawRect(QRectF(left, top + 1, max(part - 1, 0), height - 2))
            left += part
        if left > limit:
            red = colours.bad(palette)
            painter.setBrush(QBrush(red, Qt.BrushStyle.SolidPattern))
            painter.drawRect(QRectF(limit, top + 1, left - limit, height - 2))
        low, high = (1 + width * size / whole for size in (estimate.low_bytes, estimate.high_bytes))
        painter.setPen(QPen(text, 1.2))
        under = top + height + 5
        painter.drawLine(QLineF(low, under, high, under))
        for end in (low, high):
            painter.drawLine(QLineF(end, under - 3, end, under + 3))
        if estimate.budget_bytes <= whole:
            painter.setPen(QPen(text, 2))
            painter.drawLine(QLineF(limit, 1, limit, top + height + 3))


class BudgetCard(QFrame):
    """Bar, the estimate in words, a legend, and where it does not fit: why, and a button that mends it.

    Signals: ``apply_requested`` with a suggestion's changes; ``undo_requested`` when what the last one
    changed is to be as before; ``measure_requested`` when the person wants a probe, or wants the running one
    to stop.
    """

    apply_requested = Signal(dict)
    undo_requested = Signal()
    measure_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self._estimate: Estimate | None = None
        self._suggestions: list[Suggestion] = []
        title = plain_label(_("Peak memory"))
        title.setObjectName("title")
        font = title.font()
        font.setBold(True)
        title.setFont(font)
        self.bar = StackedBar()
        self.sentence = plain_label(wrap=True)
        self.reason = plain_label(wrap=True)
        self.suggestion = plain_label(wrap=True)
        self.apply = QPushButton(_("Apply"))
        self.apply.clicked.connect(self._apply_first)
        self.undo = QPushButton(_("Undo"))
        self.undo.setToolTip(_("Puts back what the last suggestion changed."))
        self.undo.clicked.connect(self.undo_requested)
        self.undo.hide()
        self.longest = plain_label(wrap=True)
        self.longest.hide()
        self.others = QPushButton(_("Other ways"))
        self.others.setMenu(QMenu(self.others))

        self.measure = QPushButton(_("Measure memory"))
        self.measure.setToolTip(
            _("Trains two real steps on the longest rows, and keeps how much memory they needed.")
        )
        self.measure.clicked.connect(self.measure_requested)
        self.probe_note = plain_label(wrap=True)
        self.probe_note.hide()

        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 10)
        column.setSpacing(6)
        for widget in (
            title, self.bar, self.sentence, self.reason, self.suggestion, self.longest, self.probe_note
        ):  # fmt: skip
            column.addWidget(widget)
        buttons = QHBoxLayout()
        buttons.addWidget(self.apply)
        buttons.addWidget(self.others)
        buttons.addWidget(self.undo)
        buttons.addStretch(1)
        column.addLayout(buttons)
        # On a line of its own: beside the others it is wider than the column, which then is cut off.
        column.addWidget(self.measure, 0, Qt.AlignmentFlag.AlignRight)
        self._legend = QWidget()
        grid = QGridLayout(self._legend)
        grid.setContentsMargins(0, 2, 0, 0)
        grid.setVerticalSpacing(2)
        self._swatches, self._sizes = [], []
        for index, (name, _terms) in enumerate(SEGMENTS):
            swatch, size = QFrame(), plain_label()
            swatch.setFixedSize(11, 11)
            size.setAlignment(Qt.AlignmentFlag.AlignRight)
            grid.addWidget(swatch, index, 0)
            grid.addWidget(plain_label(_(name)), index, 1)
            grid.addWidget(size, index, 2)
            self._swatches.append(swatch)
            self._sizes.append(size)
        grid.setColumnStretch(1, 1)
        column.addWidget(self._legend)
        self.errors = EstimateErrors()
        column.addWidget(self.errors)
        self.show_nothing("")

    def show_nothing(self, reason: str, blocking: bool = False) -> None:
        """No estimate: ``reason`` says why; a blocking one is shown as an error."""
        self._estimate, self._suggestions = None, []
        self.bar.show_estimate(None)
        self.sentence.setText("" if blocking else reason)
        self.reason.setText(reason if blocking else "")
        self._refresh()

    def show_estimate(self, estimate: Estimate, suggestions: list[Suggestion]) -> None:
        """Show ``estimate``, and the suggestions when it does not fit."""
        self._estimate, self._suggestions = estimate, suggestions
        self.bar.show_estimate(estimate)
        self.sentence.setText("\n".join(filter(None, (estimate.sentence, estimate.kept, estimate.waiting))))
        self.reason.setText(estimate.reason)
        for label, (_title, names) in zip(self._sizes, SEGMENTS, strict=True):
            size = sum(estimate.terms.get(name, 0) for name in names)
            # Little is not nothing.
            label.setText("< 0.01 GiB" if 0 < size < 0.005 * 2**30 else f"{gib(size)} GiB")
        self._refresh()

    def show_undo(self, possible: bool) -> None:
        """Whether the last suggestion can be taken back."""
        self.undo.setVisible(possible)

    def show_longest(self, tokens: int | None) -> None:
        """The longest sequence that is estimated to fit; None while it is not known."""
        text = "" if tokens is None else _("Longest sequence that is estimated to fit: %(tokens)d tokens.")
        self.longest.setText(text % {"tokens": tokens} if text else "")
        self.longest.setVisible(bool(text))

    def show_probe(self, running: bool, note: str) -> None:
        """Whether a probe is under way, and its last word."""
        self.measure.setText(_("Cancel") if running else _("Measure memory"))
        self.probe_note.setText(note)
        self.probe_note.setVisible(bool(note))

    def _refresh(self) -> None:
        first = self._suggestions[0] if self._suggestions else None
        self.suggestion.setText(first.sentence if first else "")
        self.sentence.setVisible(bool(self.sentence.text()))
        self.reason.setVisible(bool(self.reason.text()))
        self.suggestion.setVisible(first is not None)
        self.apply.setVisible(first is not None)
        self.others.setVisible(len(self._suggestions) > 1)
        menu = self.others.menu()
        menu.clear()
        for other in self._suggestions[1:]:
            # An ampersand would become a shortcut's underline.
            action = menu.addAction(other.sentence.replace("&", "&&"))
            action.triggered.connect(lambda _on=False, made=other: self.apply_requested.emit(made.changes))
        self._legend.setVisible(self._estimate is not None)
        self._legend.setToolTip(_tooltip(self._estimate))
        self._colour()

    def _apply_first(self) -> None:
        if self._suggestions:
            self.apply_requested.emit(dict(self._suggestions[0].changes))

    def _colour(self) -> None:
        palette = self.palette()
        colours.tint(self.reason, colours.bad(palette), bold=True)
        for label in (self.sentence, self.longest, self.probe_note):
            colours.tint(label, colours.muted(palette))
        for index, swatch in enumerate(self._swatches):
            name = self.bar.segment_colour(index).name()
            edge = colours.muted(palette).name()
            sheet = f"background: {name}; border: 1px solid {edge};"
            if swatch.styleSheet() != sheet:
                swatch.setStyleSheet(sheet)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.PaletteChange and hasattr(self, "_swatches"):
            self._colour()
