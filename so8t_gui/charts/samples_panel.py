"""What the model wrote during training, beside the loss; a step is picked there."""

from __future__ import annotations

from bisect import bisect_left

from PySide6.QtCore import QEvent, QObject, QPointF, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _, with_more
from so8t_engine.training.events import SampleEvent
from so8t_gui import theme
from so8t_gui.charts.chart_link import ChartLink
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.models.buffers import Columns
from so8t_gui.models.run_model import EVAL, RunModel
from so8t_gui.widgets.heads_view import plain
from so8t_gui.widgets.scroll_area import scroll_area

CLASSES = ("ALLOW", "ESCALATION", "DENY", "REFUSE")
DANGER = "danger"


class _Card(QFrame):
    """One prompt: what was written, and what the heads said."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.prompt = plain("", "title")
        self.prompt.setWordWrap(True)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(_("Sample"))
        self.text.setFixedHeight(3 * self.fontMetrics().lineSpacing() + 14)
        grid = QGridLayout(self)
        grid.setContentsMargins(10, 8, 10, 8)
        grid.setVerticalSpacing(3)
        grid.addWidget(self.prompt, 0, 0, 1, 3)
        grid.addWidget(self.text, 1, 0, 1, 3)
        self.bars: dict[str, tuple[QProgressBar, QWidget]] = {}
        self._values = {}
        for row, name in enumerate((*CLASSES, DANGER), start=2):
            label = _("danger (safety head)") if name == DANGER else name
            bar, value = QProgressBar(), plain(MISSING_TEXT, "value")
            bar.setRange(0, 1000)
            bar.setTextVisible(False)
            bar.setFixedHeight(8)
            bar.setAccessibleName(label)
            grid.addWidget(plain(label, "muted"), row, 0)
            grid.addWidget(bar, row, 1)
            grid.addWidget(value, row, 2)
            self.bars[name] = (bar, value)
            self._values[name] = value
        grid.setColumnStretch(1, 1)

    def show_sample(self, sample: SampleEvent) -> None:
        """Text from the model is shown as it is."""
        self.prompt.setText(sample.prompt)
        if self.text.toPlainText() != sample.text:
            self.text.setPlainText(sample.text)
        read = _probabilities(sample)
        for name, value in self._values.items():
            found = read.get(name)
            value.setText(MISSING_TEXT if found is None else f"{found:.3f}")
            self.bars[name][0].setValue(0 if found is None else round(1000 * found))


def _probabilities(sample: SampleEvent) -> dict[str, float]:
    read = dict(zip(CLASSES, sample.task or (), strict=False))
    if sample.safety is not None and len(sample.safety) == 2:
        read[DANGER] = sample.safety[1]
    return read


class SamplesPanel(QWidget):
    """Loss and the heads' course on the left, the samples of one step on the right."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model: RunModel | None = None
        self._steps: list[int] = []
        self._by_step: dict[int, list[SampleEvent]] = {}
        self._drawn = (-1, -1)
        self._follow = True
        self._pressed = QPointF()
        s = theme.current().series
        self.loss = LineChart(_("Loss"))
        self.loss.set_series(
            [
                Series("loss", _("training"), s[0]),
                Series(EVAL + "loss", with_more(_("held-out"), "LM"), s[1], points=True),
            ]
        )
        self.course = LineChart(_("The heads on this prompt"), robust=False)
        names = [*CLASSES, DANGER]
        self.course.set_series(
            [
                Series(name, _("danger") if name == DANGER else name, s[i % len(s)], points=True)
                for i, name in enumerate(names)
            ]
        )
        self.course.set_empty_text(_("No samples yet"))
        self.link = ChartLink([self.loss, self.course], self)
        self._picked = [
            chart.plot.addLine(x=0.0, pen=theme.current()["phi"]) for chart in (self.loss, self.course)
        ]
        for chart in (self.loss, self.course):
            chart.plot.viewport().installEventFilter(self)
            chart.plot.setToolTip(_("A click picks the nearest samples; the wheel zooms."))
        self.prompts = QComboBox()
        self.prompts.setAccessibleName(_("Prompt"))
        self.prompts.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.prompts.setMinimumContentsLength(16)
        self.prompts.currentIndexChanged.connect(self._draw_course)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setAccessibleName(_("Step of the samples"))
        self.slider.setRange(0, 0)
        self.slider.valueChanged.connect(self._on_slider)
        self.before, self.after = QPushButton("◀"), QPushButton("▶")
        self.before.setAccessibleName(_("Earlier samples"))
        self.after.setAccessibleName(_("Later samples"))
        self.before.clicked.connect(lambda: self.slider.setValue(self.slider.value() - 1))
        self.after.clicked.connect(lambda: self.slider.setValue(self.slider.value() + 1))
        self.step = plain(MISSING_TEXT, "value")
        self._cards: list[_Card] = []
        self._list = QWidget()
        self._column = QVBoxLayout(self._list)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(8)
        self.nothing = plain(
            _("There are no samples. Set samples.every in the settings, and the model answers fixed "
              "prompts while it is trained."), "notice",
        )  # fmt: skip
        self.nothing.setWordWrap(True)
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._column.addWidget(self.nothing, 1)
        self._column.addStretch(1)
        area = scroll_area(self._list, _("Samples"))
        self._picker = QWidget()
        picker = QHBoxLayout(self._picker)
        picker.setContentsMargins(0, 0, 0, 0)
        for widget in (self.before, self.slider, self.after, self.step):
            picker.addWidget(widget, 1 if widget is self.slider else 0)
        left, right = QVBoxLayout(), QVBoxLayout()
        left.addWidget(self.loss, 1)
        left.addWidget(self.prompts)
        left.addWidget(self.course, 1)
        right.addWidget(self._picker)
        right.addWidget(area, 1)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(left, 1)
        layout.addLayout(right, 1)

    def draw(self, model: RunModel) -> None:
        """Draw what the model holds; the newest samples until a person picks others."""
        if model is not self._model:
            self._model, self._follow, self._drawn = model, True, (-1, -1)
        self.link.fit((model.steps, model.evaluation), "step")
        self.loss.set_marks(model.marks)
        self.loss.draw(model.steps, model.evaluation)
        state = (len(model.samples), model.samples[-1].step if model.samples else -1)
        if state == self._drawn:
            return
        self._drawn = state
        self._by_step = {}
        for sample in model.samples:
            self._by_step.setdefault(sample.step, []).append(sample)
        self._steps = sorted(self._by_step)
        names = list(dict.fromkeys(sample.prompt for sample in model.samples))
        if names != [self.prompts.itemData(i) for i in range(self.prompts.count())]:
            self.prompts.blockSignals(True)
            self.prompts.clear()
            for name in names:
                self.prompts.addItem(name.replace("\n", " ")[:80], name)
            self.prompts.blockSignals(False)
        self.slider.blockSignals(True)
        held = self.slider.value()
        self.slider.setRange(0, max(0, len(self._steps) - 1))
        self.slider.setValue(len(self._steps) - 1 if self._follow else held)
        self.slider.blockSignals(False)
        self._draw_course()
        self._show()

    def _on_slider(self) -> None:
        self._follow = self.slider.value() >= len(self._steps) - 1
        self._show()

    def pick(self, step: float) -> None:
        """Show the samples that were written nearest to a step."""
        if self._steps:
            at = bisect_left(self._steps, step)
            near = [i for i in (at - 1, at) if 0 <= i < len(self._steps)]
            self.slider.setValue(min(near, key=lambda i: abs(self._steps[i] - step)))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """A click into a chart picks samples."""
        if isinstance(event, QMouseEvent) and event.type() is QEvent.Type.MouseButtonPress:
            self._pressed = event.position()
        elif isinstance(event, QMouseEvent) and event.type() is QEvent.Type.MouseButtonRelease:
            chart = self.loss if watched is self.loss.plot.viewport() else self.course
            still = (event.position() - self._pressed).manhattanLength() < 4  # else the chart was moved
            if still and event.button() is Qt.MouseButton.LeftButton:
                self.pick(
                    chart.plot.box.mapSceneToView(chart.plot.mapToScene(event.position().toPoint())).x()
                )
        return super().eventFilter(watched, event)

    def _draw_course(self) -> None:
        table = Columns("step")
        if self._model is not None:
            for sample in self._model.samples:
                if sample.prompt == self.prompts.currentData():
                    table.append({"step": sample.step, **_probabilities(sample)})
        self.course.draw(table)

    def _show(self) -> None:
        at = self.slider.value()
        shown = self._by_step.get(self._steps[at], []) if self._steps else []
        self.before.setEnabled(at > 0)
        self.after.setEnabled(at < len(self._steps) - 1)
        self.nothing.setVisible(not shown)
        # Controls that have nothing to choose from only puzzle.
        for widget in (self._picker, self.prompts):
            widget.setVisible(bool(self._steps))
        for line in self._picked:
            line.setVisible(bool(shown))
        while len(self._cards) < len(shown):
            card = _Card()
            self._cards.append(card)
            self._column.insertWidget(self._column.count() - 1, card)
        for i, card in enumerate(self._cards):
            card.setVisible(i < len(shown))
            if i < len(shown):
                card.show_sample(shown[i])
        if not shown:
            self.step.setText(MISSING_TEXT)
            return
        step = self._steps[at]
        self.step.setText(
            _("step %(step)s (%(at)d/%(of)d)") % {"step": step, "at": at + 1, "of": len(self._steps)}
        )
        for line in self._picked:
            line.setPos(step)
