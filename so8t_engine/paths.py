"""Where the program's own files are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _data_dir(installed: str, checkout: str) -> Path:
    inside = _PACKAGE / installed
    return inside if inside.is_dir() else _PACKAGE.parent / checkout


def resources_dir() -> Path:
    """Icons, themes, translations, the embedded model and data."""
    return _data_dir("_resources", "resources")


def configs_dir() -> Path:
    """The presets shipped with the program."""
    return _data_dir("_configs", "configs")
