"""The program in the desktop's menu: an entry and an icon in the user's own folders."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import platformdirs

from so8t_engine.errors import SO8TError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.paths import resources_dir

NAME = "so8t-gui"
ENTRY = """[Desktop Entry]
Type=Application
Name=SO8T Control Panel
Name[ja]=SO8T コントロールパネル
Comment=Fine-tune a language model on one graphics card
Comment[ja]=1 枚のグラフィックカードで言語モデルを微調整します
Exec={command}
Icon={icon}
Terminal=false
Categories=Science;ArtificialIntelligence;Development;
StartupWMClass=so8t-gui
"""


def _places() -> tuple[Path, Path]:
    data = Path(platformdirs.user_data_dir())
    return data / "applications" / f"{NAME}.desktop", data / "icons/hicolor/scalable/apps" / f"{NAME}.svg"


def _quoted(path: Path) -> str:
    """A path as ``Exec`` wants it (Desktop Entry Specification, "The Exec key")."""
    text = str(path)
    for sign in '\\"`$':
        text = text.replace(sign, f"\\{sign}")
    # Quoting is undone after the escapes of strings in general, so its backslashes are escaped once more.
    return '"' + text.replace("\\", "\\\\").replace("%", "%%") + '"'


def program() -> Path:
    """The window's executable: beside this one, where it is packaged or installed. Raises `SO8TError`."""
    beside = Path(sys.executable).with_name(NAME)
    found = str(beside) if beside.is_file() else shutil.which(NAME)
    if found is None:
        raise SO8TError(_("There is no program so8t-gui here."), _("Install this program with pip first."))
    return Path(found).absolute()


def set_desktop_entry(on: bool) -> list[Path]:
    """Write or remove entry and icon; the files in question. Raises `SO8TError` where it cannot be done."""
    if sys.platform != "linux":
        raise SO8TError(
            _("Menu entries of this kind exist on Linux only."),
            _("On Windows, pin so8t-gui.exe to the start menu."),
        )
    entry, icon = _places()
    try:
        if on:
            for place in (entry, icon):
                place.parent.mkdir(parents=True, exist_ok=True)
            icon.write_bytes((resources_dir() / "icons" / "so8t.svg").read_bytes())
            write_atomically(entry, ENTRY.format(command=_quoted(program()), icon=icon))
        else:
            entry.unlink(missing_ok=True)
            icon.unlink(missing_ok=True)
    except OSError as error:
        raise SO8TError(
            _("%(path)s cannot be written: %(reason)s.")
            % {"path": str(entry), "reason": error.strerror or str(error)},
            _("Check the folder and its permissions."),
        ) from error
    return [entry, icon]
