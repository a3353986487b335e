"""A file about a fault of the window, for a report: versions and the trace, and no secrets."""

from __future__ import annotations

import os
import platform
import re
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

import platformdirs

PACKAGES = ("so8t-control-panel", "PySide6-Essentials", "pyqtgraph", "numpy", "torch")
#: Names of variables whose values never stand in a report, and shapes of tokens.
SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
TOKENS = re.compile(r"\b(hf_|ghp_|gho_|sk-)[A-Za-z0-9_\-]{8,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
KEPT = 20


def crash_folder() -> Path:
    """Where reports lie."""
    return Path(platformdirs.user_log_dir("so8t", appauthor=False)) / "crashes"


def without_secrets(text: str) -> str:
    """``text`` without tokens, values of secret variables, and the name of one's home folder."""
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= 6:
            text = text.replace(value, "<secret>")
    text = TOKENS.sub("<secret>", text)
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def write_crash_report(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> Path | None:
    """Write a report and return its place; None where none can be written."""
    lines = [f"{name} {_version(name)}\n" for name in PACKAGES]
    lines += [f"Python {platform.python_version()}, {platform.platform()}\n\n"]
    lines += traceback.format_exception(kind, error, trace)
    folder = crash_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / time.strftime("crash-%Y%m%d-%H%M%S.txt")
        path.write_text(without_secrets("".join(lines)), encoding="utf-8")
        for old in sorted(folder.glob("crash-*.txt"))[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return None
    return path
