"""What a person chose for the window: language, theme, size. Kept by QSettings."""

from __future__ import annotations

import json
from typing import Any

from PySide6.QtCore import QByteArray, QSettings

from so8t_engine.i18n import LANGUAGES, system_language
from so8t_gui.theme import THEMES


class Preferences:
    """Typed access. An unreadable value counts as unset.

    Args:
        store: tests hand in one on a temporary file.
    """

    def __init__(self, store: QSettings | None = None) -> None:
        self._store = store or QSettings("SO8T", "Control Panel")

    def write(self) -> None:
        """Put everything on the disk now."""
        self._store.sync()

    @property
    def language(self) -> str:
        value = str(self._store.value("language", ""))
        return value if value in LANGUAGES else system_language()

    @language.setter
    def language(self, code: str) -> None:
        self._store.setValue("language", code)

    @property
    def theme(self) -> str:
        value = str(self._store.value("theme", "system"))
        return value if value in THEMES else "system"

    @theme.setter
    def theme(self, name: str) -> None:
        self._store.setValue("theme", name)

    @property
    def geometry(self) -> QByteArray | None:
        value = self._store.value("geometry")
        return value if isinstance(value, QByteArray) else None

    @geometry.setter
    def geometry(self, value: QByteArray) -> None:
        self._store.setValue("geometry", value)

    @property
    def left_alone(self) -> set[str]:
        """Interrupted runs that are not to be asked about again, as paths."""
        value = self._store.value("left_alone", [])
        # A list of one comes back as a text.
        found = value if isinstance(value, list) else [value]
        return {str(one) for one in found if one}

    def leave_alone(self, runs: set[str]) -> None:
        """Ask no more about ``runs``."""
        self._store.setValue("left_alone", sorted(self.left_alone | runs))

    @property
    def notify(self) -> bool:
        """Whether the end of a run and alarms are told outside the window."""
        return self._store.value("notify", "true") != "false"

    @notify.setter
    def notify(self, on: bool) -> None:
        self._store.setValue("notify", "true" if on else "false")

    @property
    def keep_awake(self) -> bool:
        """Whether the computer stays awake while a run goes on."""
        return self._store.value("keep_awake", "true") != "false"

    @keep_awake.setter
    def keep_awake(self, on: bool) -> None:
        self._store.setValue("keep_awake", "true" if on else "false")

    @property
    def sound(self) -> bool:
        """Whether a sound is played too."""
        return self._store.value("sound", "false") == "true"

    @sound.setter
    def sound(self, on: bool) -> None:
        self._store.setValue("sound", "true" if on else "false")

    @property
    def tour_seen(self) -> bool:
        """Whether the tour was shown once."""
        return self._store.value("tour_seen", "false") == "true"

    @tour_seen.setter
    def tour_seen(self, on: bool) -> None:
        self._store.setValue("tour_seen", "true" if on else "false")

    def board(self, name: str) -> dict[str, Any]:
        """How a board of charts was left; empty where it never was."""
        try:
            held = json.loads(str(self._store.value(f"boards/{name}", "{}")))
        except ValueError:
            return {}
        return held if isinstance(held, dict) else {}

    def set_board(self, name: str, arrangement: dict[str, Any]) -> None:
        """Keep how a board of charts is arranged."""
        self._store.setValue(f"boards/{name}", json.dumps(arrangement))

    @property
    def questions(self) -> list[str]:
        """Questions kept on the chat page."""
        value = self._store.value("chat/questions", [])
        if isinstance(value, list):
            return [str(one) for one in value]
        return [str(value)] if value else []

    @questions.setter
    def questions(self, texts: list[str]) -> None:
        self._store.setValue("chat/questions", texts)
