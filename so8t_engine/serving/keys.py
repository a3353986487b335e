"""The audit log's secret keys: in the system's keyring, or in a file that only its owner can read."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _

SERVICE = "so8t-audit"
Where = Literal["auto", "keyring", "file"]


@dataclass
class KeySet:
    """Keys by id, the newest is used to write; older ones verify what they wrote."""

    keys: dict[str, bytes] = field(default_factory=dict)
    active: str = ""

    def add(self) -> str:
        """A new random key, which becomes the active one."""
        number = max((int(name[1:]) for name in self.keys), default=0) + 1
        self.active = f"k{number}"
        self.keys[self.active] = secrets.token_bytes(32)
        return self.active

    def mac(self, key: str, purpose: str, content: bytes) -> str:
        """HMAC-SHA256 in hexadecimal. Each purpose has a key of its own, derived from the one stored.

        Raises:
            KeyError: there is no such key.
        """
        derived = hmac.digest(self.keys[key], purpose.encode(), hashlib.sha256)
        return hmac.digest(derived, content, hashlib.sha256).hex()

    def to_json(self) -> str:
        return json.dumps(
            {"active": self.active, "keys": {name: key.hex() for name, key in self.keys.items()}}
        )

    @classmethod
    def from_json(cls, text: str) -> KeySet:
        """Raises `ValueError` when it is none."""
        try:
            content: dict[str, Any] = json.loads(text)
            found = cls(
                {name: bytes.fromhex(key) for name, key in content["keys"].items()}, content["active"]
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a key set") from error
        if found.active not in found.keys or any(len(key) != 32 for key in found.keys.values()):
            raise ValueError("not a key set")
        return found


class KeyStore:
    """Where the keys of one audit log live.

    Args:
        log: the log's id.
        where: ``keyring``, ``file``, or ``auto``: the keyring where one works, else the file.
        folder: of the file; by default the user's data folder.
    """

    def __init__(self, log: str, where: Where = "auto", folder: Path | None = None) -> None:
        self.log = log
        self.folder = folder or _keys_folder()
        self.path = self.folder / f"{log}.json"
        self._where = where

    def load(self) -> KeySet | None:
        """The stored keys; None when there are none yet. Raises `SO8TError`."""
        if self._where != "file" and (ring := _keyring()) is not None:
            text = ring.get_password(SERVICE, self.log)
            if text is not None:
                return self._parsed(text)
        if self._where == "keyring":
            if _keyring() is None:
                raise _no_keyring()
            return None
        if not self.path.exists():
            return None
        _check_private(self.path)
        return self._parsed(self.path.read_text(encoding="utf-8"))

    def _parsed(self, text: str) -> KeySet:
        try:
            return KeySet.from_json(text)
        except ValueError as error:
            raise SO8TError(
                _("The audit log's keys cannot be read."), _("Restore them from a backup of the keys.")
            ) from error

    def save(self, keys: KeySet) -> None:
        """Store the keys where they were loaded from, or where the setting says. Raises `SO8TError`."""
        ring = None if self._where == "file" or self.path.exists() else _keyring()
        if ring is not None:
            ring.set_password(SERVICE, self.log, keys.to_json())
            return
        if self._where == "keyring":
            raise _no_keyring()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.path.with_suffix(".tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(keys.to_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    @property
    def place(self) -> str:
        """Where the keys are, for a person."""
        return str(self.path) if self.path.exists() else _("the system's keyring")


def _keys_folder() -> Path:
    import platformdirs

    named = os.environ.get("SO8T_AUDIT_KEYS")
    return Path(named) if named else Path(platformdirs.user_data_dir("so8t", appauthor=False)) / "audit-keys"


def _keyring() -> Any:  # noqa: ANN401
    """The keyring module when the package is there and a real backend works, else None."""
    try:
        import keyring
        import keyring.backends.fail
    except ImportError:
        return None
    backend = keyring.get_keyring()
    priority = float(getattr(backend, "priority", 0) or 0)
    return keyring if priority >= 1 and not isinstance(backend, keyring.backends.fail.Keyring) else None


def _no_keyring() -> SO8TError:
    return SO8TError(
        _("No keyring works here."),
        _("Install the extra 'serve' and a keyring service, or set serving.audit_key to file."),
    )


def _check_private(path: Path) -> None:
    """Others must not read the key; on Windows the user's folder is private by its access list."""
    if sys.platform == "win32":
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SO8TError(
            _("The audit key %(path)s can be read by others (mode %(mode)s).")
            % {"path": str(path), "mode": f"{mode:o}"},
            _("Run: chmod 600 '%(path)s', and rotate the key with 'so8t audit rotate'.")
            % {"path": str(path)},
        )
