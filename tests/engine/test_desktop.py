"""The entry in the desktop's menu is one that desktops accept, whatever the program's folder is called."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

import pytest

from so8t_engine import desktop


@pytest.mark.skipif(sys.platform != "linux", reason="desktop entries are Linux's")
@pytest.mark.parametrize("name", ["plain", "with a space", 'quote" and $x', "100%"])
def test_entry_and_icon_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    program = folder / "so8t-gui"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "executable", str(folder / "so8t"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    entry, icon = desktop.set_desktop_entry(True)
    read = configparser.RawConfigParser()
    read.read_string(entry.read_text(encoding="utf-8"))
    # As the Desktop Entry Specification reads it: escapes of strings first, then the quoting, then %%.
    text = read["Desktop Entry"]["Exec"].replace("\\\\", "\\")
    assert text[0] == text[-1] == '"'
    assert re.sub(r'\\(["`$\\])', r"\1", text[1:-1]).replace("%%", "%") == str(program)
    assert Path(read["Desktop Entry"]["Icon"]).read_bytes().startswith(b"<svg")
    desktop.set_desktop_entry(False)
    assert not entry.exists()
    assert not icon.exists()
