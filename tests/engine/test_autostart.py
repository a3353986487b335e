"""The start at logon: written, shown and removed again, for this person only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from so8t_engine import autostart
from so8t_engine.errors import SO8TError

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd")


@pytest.fixture
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    return home


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]


@linux
def test_on_status_and_off(config_home: Path, tmp_path: Path) -> None:
    assert not autostart.status().enabled
    on = autostart.enable(tmp_path / "my runs")
    assert on == autostart.status()
    assert on.enabled
    unit = config_home / "systemd" / "user" / autostart.UNIT
    assert on.where == str(unit)
    link = unit.parent / "default.target.wants" / autostart.UNIT
    assert link.resolve() == unit
    assert f'"{tmp_path}/my runs"' in on.command
    assert sys.executable in on.command
    assert autostart.enable(tmp_path / "other").enabled, "on twice is on"
    assert not autostart.disable().enabled
    assert _files(config_home) == []
    assert not autostart.disable().enabled, "off twice is off"


@linux
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_unit(config_home: Path, tmp_path: Path) -> None:
    on = autostart.enable(tmp_path / "100% of my $runs")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", on.where], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if autostart.UNIT in line]
    assert complaints == []


@linux
def test_the_command_in_the_unit_runs(config_home: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    arguments = autostart.command_line(runs)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*arguments, "--json"],
        env=os.environ | {"PYTHONPATH": root, "SO8T_LANG": "en"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"runs": []}
    assert "No run was interrupted." in done.stderr


@linux
def test_paths_are_quoted_and_control_characters_refused(tmp_path: Path) -> None:
    assert autostart._quoted('a "b" %h $HOME \\') == '"a \\"b\\" %%h $$HOME \\\\"'
    with pytest.raises(SO8TError, match="control characters"):
        autostart.unit_text(tmp_path / "a\nExecStart=/bin/evil")


@linux
def test_a_folder_that_cannot_be_written_is_a_sentence(config_home: Path, tmp_path: Path) -> None:
    config_home.write_text("a file", encoding="utf-8")
    with pytest.raises(SO8TError, match="cannot be written"):
        autostart.enable(tmp_path)


def test_windows_task_is_at_logon_for_one_person_without_rights(tmp_path: Path) -> None:
    xml = autostart.task_xml(tmp_path / 'r "&" <x>', "PC\\あい & co")
    root = ElementTree.fromstring(xml)
    names = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}

    def text(path: str) -> str:
        found = root.find(path, names)
        assert found is not None
        return found.text or ""

    assert text("t:Triggers/t:LogonTrigger/t:UserId") == "PC\\あい & co"
    assert text("t:Principals/t:Principal/t:RunLevel") == "LeastPrivilege"
    assert text("t:Settings/t:ExecutionTimeLimit") == "PT0S"
    assert text("t:Settings/t:DisallowStartIfOnBatteries") == "false"
    arguments = text("t:Actions/t:Exec/t:Arguments")
    assert arguments.startswith("-m so8t_engine.cli runs continue ")
    assert "<x>" in arguments
