"""Pages that need little to be made; each is imported when it is wanted, after the window stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtWidgets import QWidget


def inspect(folder: Path, looked_at: Callable[[], Path | None]) -> QWidget:
    """The rotations of the run that is looked at."""
    from so8t_gui.pages.inspect_page import InspectPage

    return InspectPage(folder, looked_at)


def doctor(folder: Path) -> QWidget:
    """What is the matter with this computer."""
    from so8t_gui.pages.doctor_page import DoctorPage

    return DoctorPage(folder)


def about() -> QWidget:
    """Versions, keys, licences."""
    from so8t_gui.pages.about_page import AboutPage

    return AboutPage()
