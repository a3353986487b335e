"""The page on which a run is set up: form, memory budget, presets, files, the equivalent command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QStackedWidget, QVBoxLayout, QWidget

from so8t_engine.config import Config, FieldProblem, load_config, preset_paths, validate_config
from so8t_engine.errors import ConfigError, ModelError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.memory.budget import Estimate, estimate
from so8t_engine.memory.calibration import finished_runs
from so8t_engine.memory.fit import leaving_room, longest_sequence, suggestions
from so8t_engine.memory.geometry import UnknownModelError
from so8t_engine.memory.machine import other_programs
from so8t_engine.memory.nvml import card_total
from so8t_gui.charts.schedule_preview import SchedulePreview
from so8t_gui.forms import colours, files
from so8t_gui.forms.budget_bar import BudgetCard
from so8t_gui.forms.command_line import equivalent_command
from so8t_gui.forms.form import ConfigForm
from so8t_gui.forms.notes import SettingsNotes
from so8t_gui.forms.panels import CommandCard, HelpCard
from so8t_gui.forms.probe_runner import ProbeRunner
from so8t_gui.forms.source_check import SourceCheck
from so8t_gui.forms.toolbar import SettingsToolbar
from so8t_gui.forms.undo import UndoHistory
from so8t_gui.forms.undo_keys import UndoKeys
from so8t_gui.forms.yaml_view import YamlView
from so8t_gui.models.known_rows import KnownRows
from so8t_gui.widgets.scroll_area import scroll_area

DEBOUNCE_MS = 120
#: The longest sequence takes some twenty estimates: it is looked for once nobody is typing.
LONGEST_MS = 400
FIRST_PRESET = "demo"


class SettingsPage(QWidget):
    """Settings of the next run, or, while one is live, of that run.

    Signals: ``configChanged`` with the `Config`, or None while the form holds something invalid.
    """

    configChanged = Signal(object)  # noqa: N815  (Qt's manner)

    def __init__(self, parent: QWidget | None = None, known_rows: KnownRows | None = None) -> None:
        super().__init__(parent)
        self._known_rows = known_rows if known_rows is not None else KnownRows()
        self._config: Config | None = None
        self._problems: list[FieldProblem] = []
        self._estimate: Estimate | None = None
        self._model_error: ModelError | None = None
        self._base: Config | None = None
        self._source = ""
        self._locked = False
        self._fitted: Config | None = None
        self._undo: tuple[dict[str, Any], Config | None] | None = None
        self._longest_timer = QTimer(self, singleShot=True, interval=LONGEST_MS)
        self._longest_timer.timeout.connect(self._find_longest)
        self._steps = UndoHistory()
        self._timer = QTimer(self, singleShot=True, interval=DEBOUNCE_MS)
        self._timer.timeout.connect(self._check)
        self._rows = SourceCheck(self)
        self._rows.found.connect(self._show_problems)
        self._build()
        first = preset_paths().get(FIRST_PRESET)
        if first is None or not self._take_file(first, FIRST_PRESET):
            self.set_config(Config())

    def _build(self) -> None:
        self.toolbar = SettingsToolbar()
        self.notes = SettingsNotes()
        self.form = ConfigForm()
        self.form_scroll = scroll_area(self.form, _("Settings"))
        self.form_scroll.setMinimumWidth(self.form.minimumSizeHint().width() + 24)
        self.budget, self.help, self.command = BudgetCard(), HelpCard(), CommandCard()
        self.preview = SchedulePreview()
        side = QWidget()
        column = QVBoxLayout(side)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(10)
        for card in (self.budget, self.help, self.preview, self.command):
            column.addWidget(card)
        column.addStretch(1)
        self.side = scroll_area(side, _("Memory, help and preview"))
        self.side.setFixedWidth(max(colours.wanted_width(self, 42), 280))
        middle = QHBoxLayout()
        middle.setSpacing(10)
        self.yaml = YamlView()
        self.stack = QStackedWidget()
        self.stack.addWidget(self.form_scroll)
        self.stack.addWidget(self.yaml)
        middle.addWidget(self.stack, 1)
        middle.addWidget(self.side)
        page = QVBoxLayout(self)
        page.setContentsMargins(12, 12, 12, 12)
        page.addWidget(self.toolbar)
        page.addWidget(self.notes)
        page.addLayout(middle, 1)

        self.form.edited.connect(self._on_edited)
        self.form.focused.connect(self.help.show_field)
        self.budget.apply_requested.connect(self.apply_changes)
        self.budget.undo_requested.connect(self.undo_changes)
        self.probe = ProbeRunner(self)
        self.budget.measure_requested.connect(self._measure)
        self.probe.said.connect(lambda line: self.budget.show_probe(True, line))
        self.probe.ended.connect(self._measured)
        self.toolbar.preset_chosen.connect(lambda path: self.load_file(path, path.stem))
        self.toolbar.load_clicked.connect(self._choose_and_load)
        self.toolbar.save_clicked.connect(self._choose_and_save)
        self.toolbar.search_changed.connect(self.form.set_search)
        self.toolbar.all_toggled.connect(self.form.set_all)
        self.toolbar.changed_toggled.connect(self.form.set_changed_only)
        self.toolbar.yaml_toggled.connect(self._show_text)
        self.toolbar.undo_clicked.connect(lambda: self._go(self._steps.undo()))
        self.toolbar.redo_clicked.connect(lambda: self._go(self._steps.redo()))
        self.yaml.parsed.connect(self._take_text)
        self._undo_keys = UndoKeys(self.form, self.toolbar.undo, self.toolbar.redo)

    def _show_text(self, text: bool) -> None:
        """The form or the text; leaving a wrong text leaves the form as it was before the fault."""
        self._flush()
        if text and self._config is not None:
            self.yaml.show_config(self._config)
        elif text:
            values = {name: value for name, value in self.form.values().items() if value is not None}
            self.yaml.set_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False))
            self.yaml.check()
        else:
            self.yaml.flush()
            self.yaml.forget_fault()
        self.stack.setCurrentIndex(1 if text else 0)
        self.toolbar.show_text(text)

    def _take_text(self, config: Config) -> None:
        if not self._locked:
            self.form.set_values(config.model_dump())
            self._check()

    def _go(self, values: dict[str, Any] | None) -> None:
        """To another state of the form, by undo or redo."""
        if values is not None:
            self.form.set_values(values)
            self._check()
            if self.toolbar.yaml.isChecked() and self._config is not None:
                self.yaml.show_config(self._config)

    # What the rest of the window uses.

    def config(self) -> Config | None:
        """What the form says, or None while something in it is wrong."""
        self._flush()
        return self._config

    def set_config(self, config: Config) -> None:
        """Show ``config`` as the state to compare changes with."""
        self._show(config, "")

    def shut_down(self) -> None:
        """Stop what works in the background; the page is going."""
        self.probe.shut_down()
        self._rows.stop()

    def set_locked(self, locked: bool) -> None:
        """While a run is live its settings are shown and cannot be edited."""
        self._flush()
        if locked:
            self.probe.cancel()  # the run needs the memory
        self._locked = locked
        self.form.set_locked(locked)
        self.yaml.set_locked(locked)
        self.toolbar.set_locked(locked)
        self.budget.apply.setEnabled(not locked)
        self.budget.others.setEnabled(not locked)
        # A probe beside a run would measure the two together.
        self.budget.measure.setEnabled(not locked)
        self.notes.show_lock(locked, self._config.name if self._config else "?")
        self._refresh_note()

    def can_start(self) -> tuple[bool, str]:
        """Whether a run may be started with these settings, and if not, why not."""
        self._flush()
        if self._locked:
            return False, _("A run is live already.")
        if self.toolbar.yaml.isChecked() and self.yaml.error is not None:
            return False, str(self.yaml.error)
        if self._config is None:
            first = self._problems[0]
            return False, f"{first.sentence} {first.mend}".strip()
        if self._model_error is not None and not isinstance(self._model_error, UnknownModelError):
            return False, str(self._model_error)
        if self._estimate is not None and not self._estimate.fits:
            return False, self._estimate.reason
        return True, ""

    @property
    def unsaved(self) -> bool:
        """Whether the form differs from what was last loaded, saved or set."""
        self._flush()
        return self._config is None or self._config != self._base

    def go_to(self, path: str) -> None:
        """Show one setting and put the keyboard into it."""
        self.toolbar.yaml.setChecked(False)
        self.toolbar.changed.setChecked(False)
        self.toolbar.search.clear()
        row = self.form.rows[path]
        if not self.form.is_shown(row):
            self.toolbar.all.setChecked(True)
        row.editor.setFocus()
        self.form_scroll.ensureWidgetVisible(row)

    def apply_changes(self, changes: Mapping[str, Any]) -> None:
        """Put dotted settings into the form, as a suggestion's button does."""
        held = self.form.values()
        before = {path: held[path.partition(".")[0]][path.partition(".")[2]] for path in changes}
        self._put(changes)
        self._undo = (before, self._config)
        self.budget.show_undo(True)

    def _put(self, changes: Mapping[str, Any]) -> None:
        for path, value in changes.items():
            self.form.rows[path].set_value(value)
        self._check()

    def undo_changes(self) -> None:
        """Put back what the last `apply_changes` changed."""
        if self._undo is not None and not self._locked:
            self._put(self._undo[0])
        self._forget_undo()

    def _forget_undo(self) -> None:
        self._undo = None
        self.budget.show_undo(False)

    # Files.

    def load_file(self, path: Path, preset: str = "") -> bool:
        """Show the settings in ``path``; a wrong file changes nothing and says what is wrong, and where."""
        if self._locked or (self.unsaved and not files.may_discard(self)):
            return False
        return self._take_file(path, preset)

    def _take_file(self, path: Path, preset: str) -> bool:
        try:
            config = load_config(path)
        except ConfigError as error:
            self.notes.say(str(error), bad=True)
            return False
        self._show(config, preset or str(path))
        return True

    def save_file(self, path: Path) -> bool:
        """Write the settings to ``path``, whole or not at all."""
        config = self.config()
        if config is None:
            self.notes.say(_("Nothing was saved: some settings are wrong. They are marked below."), bad=True)
            return False
        try:
            write_atomically(path, config.to_yaml())
        except OSError as error:
            values = {"path": str(path), "reason": error.strerror or str(error)}
            self.notes.say(_("%(path)s cannot be written: %(reason)s.") % values, bad=True)
            return False
        self._base, self._source = config, str(path)
        self.notes.say(_("Saved to %(path)s.") % {"path": str(path)})
        self._refresh_note()
        return True

    def _choose_and_load(self) -> None:
        if (path := files.to_load(self)) is not None:
            self.load_file(path)

    def _choose_and_save(self) -> None:
        suggested = f"{self._config.name if self._config else 'run'}.yaml"
        if (path := files.to_save(self, suggested)) is not None:
            self.save_file(path)

    # Keeping everything in step.

    def _show(self, config: Config, source: str) -> None:
        self._base, self._source = config, source
        self.notes.message.hide()
        self.form.set_values(config.model_dump())
        self._check()
        if self.toolbar.yaml.isChecked():
            self.yaml.show_config(config)

    def _on_edited(self) -> None:
        self._timer.start()

    def _flush(self) -> None:
        self.yaml.flush()
        if self._timer.isActive():
            self._check()

    def _check(self) -> None:
        """Validate the form, estimate, and tell the others if the outcome has changed."""
        self._timer.stop()
        before = self._config
        values = self.form.values()
        self._steps.push(values)
        self.toolbar.show_steps((self._steps.can_undo, self._steps.can_redo))
        result = validate_config(values)
        if isinstance(result, Config):
            self._config, self._problems = result, []
        else:
            self._config, self._problems = None, result
        self._rows.look(self._config, seen=self.isVisible())
        self._show_problems()
        self._estimate_again()
        self.refresh_preview()
        self.command.show_command(
            equivalent_command(self._config, self._base, self._source) if self._config else ""
        )
        self._refresh_note()
        if self._config != before or self._config is None:
            self.configChanged.emit(self._config)

    def _show_problems(self) -> None:
        self.form.show_problems([*self._problems, *self._rows.problems])

    def _find_longest(self) -> None:
        """Say how long a sequence would fit. Only where it is seen: the search takes half a second."""
        if self._config is None or self._fitted is None or not self.isVisible():
            return  # `showEvent` asks again
        try:
            self.budget.show_longest(longest_sequence(self._fitted))
        except ModelError:
            self.budget.show_longest(None)

    def _estimate_again(self) -> None:
        self._estimate, self._model_error = None, None
        if self._undo is not None and self._undo[1] != self._config:
            self._forget_undo()
        self.budget.show_longest(None)
        self.budget.errors.show_runs(finished_runs())
        self._longest_timer.start()
        if self._config is None:
            self.budget.show_nothing(_("There is no estimate while a setting is wrong."))
            return
        try:
            # While a run is live its own memory is on the card.
            beside = None if self._locked else other_programs(self._config)
            self._fitted = leaving_room(self._config, beside, card_total())
            self._estimate = estimate(self._config, beside=beside)
            self.budget.show_estimate(self._estimate, suggestions(self._fitted))
        except ModelError as error:
            self._model_error = error
            self.budget.show_nothing(str(error), blocking=not isinstance(error, UnknownModelError))

    def _measure(self) -> None:
        if self.probe.running:
            self.probe.cancel()
            return
        config = self.config()
        if config is not None:
            self.budget.show_probe(True, _("Measuring: two steps on the longest rows."))
            self.probe.start(config)

    def _measured(self, failure: str) -> None:
        self.budget.show_probe(False, failure)
        self._estimate_again()

    def refresh_preview(self) -> None:
        """Draw the planned schedules again, as after a run has told how many rows there are."""
        if self._config is None:
            self.preview.show_stale()
        else:
            self.preview.show_config(self._config, self._known_rows.rows(self._config))

    def _refresh_note(self) -> None:
        changed = self._config is None or self._config != self._base
        self.notes.show_source(self._source, changed and not self._locked)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        # Free system memory, the model's folder and the rows may have changed since.
        self._estimate_again()
        self._rows.look(self._config, seen=True, again=True)
