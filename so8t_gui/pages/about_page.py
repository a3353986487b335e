"""What this program is, its versions, and its keys."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import PySide6
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_gui.icons import program_icon

PACKAGES = ("so8t-control-panel", "torch", "transformers", "peft", "bitsandbytes", "PySide6-Essentials")
MISSING_TEXT = "—"


@cache
def _version(name: str) -> str:
    # Read from the installed metadata: importing torch here would cost seconds and memory. Cached: each look
    # builds an index of all installed packages, which the library keeps.
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING_TEXT


def _label(text: str, name: str = "") -> QLabel:
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setObjectName(name)
    label.setWordWrap(name != "title")
    return label


def shortcuts() -> list[tuple[str, str]]:
    """Keys and what they do, translated."""
    return [
        ("Ctrl+1 … Ctrl+8", _("Go to a page")),
        ("Ctrl+Shift+P", _("Find any command, page or setting")),
        ("F1", _("This list of keys")),
        ("Ctrl+Return", _("Start a run")),
        ("Ctrl+P", _("Pause or resume")),
        ("Ctrl+S", _("Checkpoint now")),
        ("Ctrl+.", _("Stop and save")),
        ("Ctrl+Shift+.", _("Abort")),
        ("Ctrl+L", _("Go to the log")),
        ("Ctrl+O", _("Open a run folder")),
        ("F5", _("Refresh the history")),
        ("F11", _("Full screen")),
        ("Ctrl+Q", _("Quit")),
        ("Ctrl++  Ctrl+-  Ctrl+0", _("Charts: zoom in, zoom out, show everything")),
        ("Ctrl+Shift+←  Ctrl+Shift+→", _("Charts: earlier, later")),
        ("Ctrl+,  Ctrl+;", _("Charts: move the cursor by a step")),
        ("Ctrl+Shift+R", _("Charts: mark a region")),
        ("Ctrl+Z  Ctrl+Shift+Z", _("Settings: undo, redo")),
        ("Ctrl+F", _("Settings: search")),
    ]


class AboutPage(QWidget):
    """Program, versions, shortcuts."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        picture = QLabel()
        picture.setPixmap(program_icon().pixmap(64, 64))
        heading = QVBoxLayout()
        heading.addWidget(_label(_("SO8T Control Panel"), "pageTitle"))
        heading.addWidget(
            _label(
                _(
                    "Fine-tunes a Phi-3-class model with QLoRA and SO(8) rotation gates "
                    "on one 8 GB graphics card."
                ),
                "muted",
            )
        )
        top = QHBoxLayout()
        top.addWidget(picture)
        top.addLayout(heading, 1)
        self.rows = [(name, _version(name)) for name in PACKAGES]
        self.rows += [
            ("Python", platform.python_version()),
            ("PySide6", PySide6.__version__),
            (_("System"), platform.platform()),
        ]
        copy = QPushButton(_("&Copy versions"))
        copy.setToolTip(_("Puts the versions on the clipboard, for a report."))
        copy.clicked.connect(self._copy)
        versions = self._card(_("Versions"), self.rows)
        versions.addWidget(copy, len(self.rows) + 1, 0)
        keys = self._card(_("Keys"), shortcuts())
        cards = QHBoxLayout()
        cards.setSpacing(8)
        for grid in (versions, keys):
            frame = QFrame()
            frame.setObjectName("card")
            frame.setLayout(grid)
            cards.addWidget(frame, 1, Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 14, 16, 12)
        layout.setSpacing(12)
        layout.addLayout(top)
        layout.addLayout(cards)
        layout.addWidget(_label(_("Licence: Apache 2.0. Qt and PySide6 are used under the LGPL."), "muted"))
        layout.addStretch(1)

    @staticmethod
    def _card(title: str, rows: list[tuple[str, str]]) -> QGridLayout:
        grid = QGridLayout()
        grid.setContentsMargins(14, 10, 14, 12)
        grid.setVerticalSpacing(5)
        grid.setHorizontalSpacing(20)
        grid.addWidget(_label(title, "title"), 0, 0, 1, 2)
        for i, (name, value) in enumerate(rows, start=1):
            grid.addWidget(_label(name, "muted"), i, 0)
            grid.addWidget(_label(value), i, 1)
        grid.setColumnStretch(1, 1)
        return grid

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText("\n".join(f"{name} {value}" for name, value in self.rows))
