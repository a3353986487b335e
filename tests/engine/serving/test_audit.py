"""The audit log: any byte changed in any row, a lost end, a moved row: found, and the row named."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from so8t_engine.errors import SO8TError
from so8t_engine.serving.audit import AuditError, AuditLog, head_path, read_rows
from so8t_engine.serving.audit_verify import Verdict, verify

ROWS = 12


def check(path: Path) -> Verdict:
    return verify(path, "file", path.parent / "keys")


def fill(path: Path, count: int = ROWS) -> AuditLog:
    log = AuditLog(path, "file", path.parent / "keys")
    done = [
        log.append({"outcome": "answered", "number": i, "heads": {"task": [0.25] * 4}}) for i in range(count)
    ]
    assert [future.result()[0] for future in done] == list(range(log.rows - count + 1, log.rows + 1))
    return log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.sqlite"
    fill(path).close()
    assert check(path).valid
    return path


def spoil(path: Path, *commands: str) -> Verdict:
    with sqlite3.connect(path) as database:
        for command in commands:
            database.execute(command)
    database.close()
    found = check(path)
    assert not found.valid
    assert found.problem
    return found


def test_every_byte_of_every_row_as_the_file_stores_it(log: Path) -> None:
    """Each byte of each row's body and MAC is changed in the file itself; the row is named each time."""
    with sqlite3.connect(log) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows = database.execute("SELECT seq, body, mac FROM audit").fetchall()
    database.close()
    content = log.read_bytes()
    keys = head_path(log)
    assert keys.exists()
    changed = 0
    for seq, body, mac in rows:
        start = content.index(body.encode() + mac.encode())
        for at in range(start, start + len(body) + len(mac)):
            spoiled = bytearray(content)
            spoiled[at] ^= 1 << (at % 8)
            log.write_bytes(spoiled)
            found = check(log)
            assert (found.valid, found.row) == (False, seq), (seq, at - start, found)
            changed += 1
    assert changed == sum(len(body) + len(mac) for _seq, body, mac in rows)


def test_every_byte_of_the_records_headers_is_noticed(log: Path) -> None:
    """Length, key and type codes in front of each row: the database may not even open, but never passes."""
    with sqlite3.connect(log) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows = database.execute("SELECT seq, body FROM audit").fetchall()
    database.close()
    content = log.read_bytes()
    for _seq, body in rows:
        start = content.index(body.encode())
        for at in range(start - 9, start):
            for bit in range(8):
                spoiled = bytearray(content)
                spoiled[at] ^= 1 << bit
                log.write_bytes(spoiled)
                assert not check(log).valid, (body, at - start, bit)


def test_rows_lost_at_the_end_moved_doubled_or_put_in(log: Path) -> None:
    backup = log.read_bytes()
    attacks: list[tuple[str, int]] = [
        (f"DELETE FROM audit WHERE seq = {ROWS}", ROWS),
        ("DELETE FROM audit WHERE seq > 5", 6),
        ("DELETE FROM audit WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq = 4", 4),
        ("UPDATE audit SET body = (SELECT body FROM audit WHERE seq = 2) WHERE seq = 7", 7),
        ("UPDATE audit SET mac = (SELECT mac FROM audit WHERE seq = 2) WHERE seq = 7", 7),
        ("UPDATE audit SET body = body || ' ' WHERE seq = 3", 3),
        (f"INSERT INTO audit SELECT {ROWS + 1}, body, mac FROM audit WHERE seq = {ROWS}", ROWS + 1),
        ("UPDATE audit SET seq = 99 WHERE seq = 9", 9),
    ]
    for command, row in attacks:
        log.write_bytes(backup)
        assert spoil(log, command).row == row, command
    log.write_bytes(backup)
    spoil(log, "DELETE FROM audit")
    log.write_bytes(backup)
    head_path(log).unlink()
    assert not check(log).valid


def test_every_byte_of_the_anchor(log: Path) -> None:
    head = head_path(log)
    content = head.read_bytes()
    for at in range(len(content)):
        spoiled = bytearray(content)
        spoiled[at] ^= 4
        head.write_bytes(spoiled)
        assert not check(log).valid, at


def test_a_consistent_older_copy_is_found_by_a_head_noted_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    fill(path).close()
    older = {file: file.read_bytes() for file in (path, head_path(path))}
    fill(path, 3).close()
    noted = check(path).head
    for file, content in older.items():
        file.write_bytes(content)
    assert check(path).valid  # what no log can see by itself
    found = verify(path, "file", tmp_path / "keys", noted)
    assert (found.valid, found.row) == (False, ROWS + 3)
    with pytest.raises(SO8TError):
        verify(path, "file", tmp_path / "keys", "12:no")


def test_a_log_without_its_anchors_last_move_is_whole(tmp_path: Path) -> None:
    """As a kill between commit and anchor leaves it."""
    path = tmp_path / "audit.sqlite"
    fill(path).close()
    head = head_path(path).read_bytes()
    fill(path, 2).close()
    head_path(path).write_bytes(head)
    found = check(path)
    assert (found.valid, found.ahead) == (True, 2)
    fill(path, 1).close()
    assert (check(path).valid, check(path).ahead, check(path).rows) == (True, 0, ROWS + 3)


def test_keys_rotate_and_old_rows_go_while_the_rest_stays_verifiable(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    log = fill(path)
    assert log.rotate() == "k2"
    log.append({"outcome": "answered"}).result()
    assert log.prune(days=1) == 0
    assert log.prune(days=0) == ROWS + 3
    log.append({"outcome": "refused"}).result()
    log.close()
    found = check(path)
    assert (found.valid, found.first) == (True, ROWS + 4)
    fill(path, 2).close()
    assert check(path).valid
    assert {row["key"] for row in read_rows(path)} == {"k2"}
    first = found.first
    assert spoil(path, f"DELETE FROM audit WHERE seq = {first}").row == first


def test_a_stolen_place_in_the_chain_does_not_help_without_the_key(log: Path) -> None:
    shutil.rmtree(log.parent / "keys")
    with pytest.raises(AuditError, match="keys"):
        check(log)
    with pytest.raises(AuditError, match="keys"):
        AuditLog(log, "file", log.parent / "keys")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_the_key_file_is_private_or_refused(log: Path) -> None:
    (key,) = (log.parent / "keys").glob("*.json")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    with pytest.raises(SO8TError, match="others"):
        check(log)


def test_two_services_do_not_fork_the_chain(tmp_path: Path) -> None:
    first = AuditLog(tmp_path / "audit.sqlite", "file", tmp_path / "keys")
    with pytest.raises(AuditError, match="Another process"):
        AuditLog(tmp_path / "audit.sqlite", "file", tmp_path / "keys")
    first.close()


def test_the_command_line(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from so8t_engine.cli import app

    monkeypatch.setenv("SO8T_AUDIT_KEYS", str(log.parent / "keys"))
    run: Callable[..., object] = CliRunner().invoke
    good = CliRunner().invoke(app, ["audit", "verify", str(log), "--json"])
    assert good.exit_code == 0
    assert json.loads(good.stdout)["rows"] == ROWS
    rows = CliRunner().invoke(app, ["audit", "export", str(log)]).stdout.splitlines()
    assert [json.loads(row)["seq"] for row in rows] == list(range(1, ROWS + 1))
    with sqlite3.connect(log) as database:
        database.execute("UPDATE audit SET body = replace(body, 'answered', 'refused') WHERE seq = 5")
    database.close()
    bad = CliRunner().invoke(app, ["audit", "verify", str(log)])
    assert bad.exit_code == 1
    assert "row 5" in bad.stdout
    assert run is not None


@pytest.fixture(autouse=True)
def no_keyring(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests never touch the keyring of whoever runs them."""
    monkeypatch.setattr("so8t_engine.serving.keys._keyring", lambda: None)
    os.environ.pop("SO8T_AUDIT_KEYS", None)
    return
