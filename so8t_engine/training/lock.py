"""One trainer a run: a lock that the system drops when its holder dies, with the holder's name in it.

The lock proper is the system's (flock, or msvcrt's on Windows). What stands in the file says who holds it,
and covers file systems that do not carry locks between computers: there, a lock of another computer counts
as long as its file is touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from so8t_engine.errors import RunError
from so8t_engine.i18n import _
from so8t_engine.training.process import ProcessMark

#: The holder touches the file this often; another computer's lock is stale when it was not for so long.
HEARTBEAT_S, STALE_S = 10.0, 60.0
#: Where the byte locked on Windows is: behind the text, which others may read meanwhile.
_FAR = 1 << 30


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock: process, computer, and since when (seconds since 1970)."""

    pid: int
    created: float
    host: str
    since: float

    @classmethod
    def here(cls) -> Owner:
        mark = ProcessMark.current()
        return cls(mark.pid, mark.created, socket.gethostname(), time.time())

    @classmethod
    def read(cls, handle: int) -> Owner | None:
        try:
            os.lseek(handle, 0, os.SEEK_SET)
            record = json.loads(os.read(handle, 4096))
            return cls(
                int(record["pid"]), float(record["created"]), str(record["host"]), float(record["since"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


class RunLock:
    """The right to write a run; a context manager.

    Args:
        path: the lock file; it stays where it is, locked or not.

    Raises:
        RunError: another process holds it, named in the sentence, or the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise RunError(
                _("%(path)s cannot be opened: %(reason)s.")
                % {"path": str(path), "reason": error.strerror or str(error)},
                _("Check that the run folder may be written."),
            ) from error
        try:
            locked = _lock(self._handle)
            owner = Owner.read(self._handle)
            if not locked or (owner is not None and self._lives(owner)):
                raise _taken(path, owner)
            data = json.dumps(asdict(Owner.here())).encode()
            os.ftruncate(self._handle, 0)
            os.lseek(self._handle, 0, os.SEEK_SET)
            os.write(self._handle, data)
        except BaseException:
            os.close(self._handle)
            raise

    def _lives(self, owner: Owner) -> bool:
        """Whether the owner that the file names still runs, though the system's lock was free."""
        if owner.host == socket.gethostname():
            here = ProcessMark.current()
            if (owner.pid, owner.created) == (here.pid, here.created):
                return False  # this process's own earlier run
            return ProcessMark(owner.pid, owner.created).alive()
        try:
            beaten = os.fstat(self._handle).st_mtime
            os.utime(self._handle if os.utime in os.supports_fd else self._path)
            now = os.fstat(self._handle).st_mtime  # by the clock of the same file system
            os.utime(self._handle if os.utime in os.supports_fd else self._path, (beaten, beaten))
        except OSError:
            return True
        return now - beaten < STALE_S

    def beat(self) -> None:
        """Say that the holder lives."""
        try:
            os.utime(self._handle if os.utime in os.supports_fd else self._path)
        except OSError:
            return  # a full or vanished disk is told elsewhere

    def release(self) -> None:
        """Give the lock back; the next holder finds an empty file."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError):  # what is left there names a process that holds nothing
            os.ftruncate(self._handle, 0)
        _unlock(self._handle)
        os.close(self._handle)  # elsewhere the system's lock goes with it
        self._handle = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Windows reports a held lock as EACCES; a file system without locks is not a held one.
        return sys.platform != "win32" and error.errno not in {errno.EAGAIN, errno.EACCES}
    return True


def _unlock(handle: int) -> None:
    """Windows gives a lock back some time after its file was closed, if nobody does before."""
    if sys.platform == "win32":
        import msvcrt

        with contextlib.suppress(OSError):
            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)


def _taken(path: Path, owner: Owner | None) -> RunError:
    run = str(path.parent)
    mend = _("Open the run to watch and control it, or stop that process first.")
    if owner is None:
        return RunError(_("Another process is training the run in %(path)s.") % {"path": run}, mend)
    return RunError(
        _("Process %(pid)d on %(host)s has been training the run in %(path)s since %(since)s.")
        % {
            "pid": owner.pid,
            "host": owner.host,
            "path": run,
            "since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since)),
        },
        mend,
    )


def check_free(path: Path) -> None:
    """Raise `RunError`, naming the owner, if a run is locked; leave the lock as it is otherwise."""
    if path.exists():
        RunLock(path).release()
