"""Files that a crash leaves with either the old or the new content, in folders of one person.

Everything goes through functions of `os`, looked up when called: tests stand in their way there, one call
after the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CHUNK = 4 << 20
_BINARY = getattr(os, "O_BINARY", 0)
#: What may pass: a virus scanner holding a file, a share that blinks, a bad read that a second one mends.
_PASSING = {errno.EIO, errno.EACCES, errno.EPERM, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT}
#: Windows refuses to move or remove what a reader, an indexer or a virus scanner has open just then.
MOVE_TRIES = 8 if os.name == "nt" else 1
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_all(handle: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data``, however little the system takes at a time. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        taken = os.write(handle, rest[:CHUNK])
        if taken <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest = rest[taken:]


def write_durably(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data``, on the disk and not only in a cache. Raises `OSError`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        write_all(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def read_whole(path: Path) -> bytes:
    """The file's bytes. Raises `OSError`, also for what is no plain file."""
    handle = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        parts = []
        while part := os.read(handle, CHUNK):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Have the system put a file, or a folder's entries, on the disk. Raises `OSError`."""
    folder = path.is_dir()
    if folder and sys.platform == "win32":
        return  # Windows cannot sync a folder; NTFS journals the rename
    # Windows' fsync needs a handle that may write.
    handle = os.open(path, os.O_RDONLY if folder or sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either the old or the new content, never a part."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """As `write_atomically`, for bytes."""
    temporary = path.with_name(path.name + ".tmp")
    write_durably(temporary, data)
    move(temporary, path, over=True)
    sync(path.parent)


def move(source: Path, target: Path, *, over: bool = False) -> Path:
    """Rename; ``over`` replaces a file that stands there, on every system. Raises `OSError`."""

    def once() -> Path:
        return source.replace(target) if over else source.rename(target)

    return with_patience(once, tries=MOVE_TRIES, first_wait_s=0.01)


def forget(path: Path) -> None:
    """Remove a file, if it is there. Raises `OSError`."""
    with_patience(lambda: path.unlink(missing_ok=True), tries=MOVE_TRIES, first_wait_s=0.01)


def remove_folder(path: Path) -> None:
    """Remove a folder as well as can be; what resists stays."""
    with contextlib.suppress(OSError):  # rmtree lets some errors of closing through
        shutil.rmtree(path, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one atomic step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(rename(*arguments) == 0)


def with_patience(read: Callable[[], T], tries: int = 3, first_wait_s: float = 0.05) -> T:
    """``read()``, again after a moment where the error is of a kind that passes. Raises `OSError`."""
    for attempt in range(1, tries + 1):
        try:
            return read()
        except OSError as error:
            if attempt == tries or error.errno not in _PASSING:
                raise
            time.sleep(first_wait_s * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def make_private(folder: Path) -> None:
    """Make ``folder`` if need be; a new or empty one is its owner's alone (0700).

    A folder that a person has filled keeps its permissions. On Windows a folder below the profile is its
    owner's by inheritance. Raises `OSError`.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32" and not any(folder.iterdir()):
        folder.chmod(0o700)
