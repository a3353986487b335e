"""Uploading a finished run: what would go, to where, and that nobody else sees it unless one says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.hub.token import HUB
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_gui.alignment import LEFT, RIGHT
from so8t_gui.command_runner import CommandRunner
from so8t_gui.forms.check_box import CheckBox
from so8t_gui.widgets.empty_note import EmptyNote


def _label(name: str = "") -> QLabel:
    label = QLabel()
    label.setObjectName(name)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


class UploadDialog(QDialog):
    """Lists the files first (``--dry-run``); nothing is sent before the button is pressed."""

    def __init__(self, run: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("upload")
        self.setWindowTitle(_("Upload to the Hugging Face Hub"))
        self._run = run
        self._listing = False
        self.runner = CommandRunner(self)
        self.runner.done.connect(self._done)
        self.runner.failed.connect(self._failed)
        name = _label("title")
        name.setText(run.name)
        self.repo = QLineEdit()
        self.repo.setPlaceholderText("owner/name")
        self.repo.setAccessibleName(_("Repository"))
        self.repo.returnPressed.connect(self.list_files)
        self.hub = QLineEdit(HUB)
        self.hub.setAccessibleName(_("Hub"))
        self.hub.setToolTip(_("Another address than huggingface.co, for a Hub of your own."))
        self.public = CheckBox(_("Everybody may see it"))
        self.files = QTableWidget(0, 2)
        self.files.setAccessibleName(_("Files"))
        self.files.setHorizontalHeaderLabels([_("File"), _("Bytes")])
        self.files.verticalHeader().hide()
        self.files.horizontalHeader().setDefaultAlignment(LEFT)
        EmptyNote(
            self.files, _("List the files first: what would be uploaded appears here, nothing is sent.")
        )
        self.files.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.files.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.words = _label("muted")
        self.words.setAccessibleName(_("State of the upload"))
        self.runner.said.connect(self.words.setText)
        self.bar = QProgressBar()
        self.bar.setRange(0, 0)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(_("Progress"))
        self.look, self.send, self.shut = QPushButton(_("&List the files")), QPushButton(), QPushButton()
        self.send.setProperty("role", "primary")
        self.look.clicked.connect(lambda _on=False: self.list_files())
        self.send.clicked.connect(lambda _on=False: self._start(dry_run=False))
        self.shut.clicked.connect(lambda _on=False: self._close_or_cancel())
        self.repo.textChanged.connect(lambda _text: self._refresh())
        self.public.toggled.connect(lambda _on: self._refresh())
        self._arrange(name)
        self.setMinimumSize(620, 460)
        self._refresh()
        self.repo.setFocus()

    def _arrange(self, name: QLabel) -> None:
        form = QFormLayout()
        form.addRow(_("&Repository"), self.repo)
        form.addRow(_("&Hub"), self.hub)
        form.addRow("", self.public)
        buttons = QHBoxLayout()
        buttons.addWidget(self.look)
        buttons.addStretch(1)
        buttons.addWidget(self.send)
        buttons.addWidget(self.shut)
        column = QVBoxLayout(self)
        column.setContentsMargins(18, 16, 18, 14)
        column.setSpacing(10)
        column.addWidget(name)
        column.addLayout(form)
        column.addWidget(self.files, 1)
        column.addWidget(self.words)
        column.addWidget(self.bar)
        column.addLayout(buttons)
        for button in (self.look, self.send, self.shut):
            button.setAutoDefault(False)

    def _refresh(self) -> None:
        busy, named = self.runner.running, "/" in self.repo.text().strip("/ ")
        for field in (self.repo, self.hub, self.public):
            field.setEnabled(not busy)
        self.look.setEnabled(named and not busy)
        self.send.setEnabled(named and not busy)
        self.send.setText(_("&Upload for everybody") if self.public.isChecked() else _("&Upload privately"))
        self.shut.setText(_("Cancel") if busy else _("Close"))
        self.bar.setVisible(busy)

    def list_files(self) -> None:
        """Say what would go, and send nothing."""
        if self.look.isEnabled():
            self._start(dry_run=True)

    def _start(self, *, dry_run: bool) -> None:
        self._listing = dry_run
        self.words.setObjectName("muted")
        self.words.setText("")
        command = ["upload", str(self._run), "--repo", self.repo.text().strip()]
        command += ["--endpoint", self.hub.text().strip() or HUB]
        command += ["--public"] if self.public.isChecked() else []
        command += ["--dry-run"] if dry_run else []
        self.runner.start(command)
        self._refresh()

    def _done(self, result: dict[str, Any]) -> None:
        files = result["files"]
        self.files.setRowCount(len(files))
        for row, file in enumerate(files):
            self.files.setItem(row, 0, QTableWidgetItem(visible(str(file["name"]))))
            size = QTableWidgetItem(f"{file['bytes']:,}")
            size.setTextAlignment(RIGHT)
            self.files.setItem(row, 1, size)
        count = {"count": len(files), "size": result["bytes"] / 1e6, "repo": visible(str(result["repo"]))}
        if self._listing:
            self.words.setText(_("%(count)d files, %(size).1f MB would go to %(repo)s.") % count)
        else:
            # What the Hub itself says, not what was asked of it.
            seen = (
                _("The repository is private.")
                if result["really_private"]
                else _("The repository is public.")
            )
            sent = _("%(count)d files, %(size).1f MB are at %(repo)s and were compared.") % count
            self.words.setText(f"{sent} {seen}\n{visible(str(result['url']))}")
        self._refresh()

    def _failed(self, sentence: str) -> None:
        self.words.setText(
            sentence or _("Cancelled. What has arrived stays; a second upload goes on from there.")
        )
        self._refresh()

    def _close_or_cancel(self) -> None:
        if self.runner.running:
            self.runner.cancel()
        else:
            self.reject()

    def done(self, result: int) -> None:
        """No process outlives its dialog."""
        self.runner.shut_down()
        super().done(result)
