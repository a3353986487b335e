"""Driving an upload: the child process, its errors as sentences, the record in the run folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from so8t_engine.errors import ConfigError, SO8TError
from so8t_engine.hub.token import HUB
from so8t_engine.i18n import _

POLL_S = 0.2
_REPO = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}\Z")


class UploadError(SO8TError):
    """The Hub refused or could not be reached; ``transient`` where trying again may help."""

    kind = "upload"

    def __init__(self, sentence: str, mend: str = "", transient: bool = False) -> None:
        super().__init__(sentence, mend)
        self.transient = transient


def check_repo(repo: str) -> None:
    """Raise `ConfigError` unless ``repo`` is ``owner/name``."""
    if not _REPO.match(repo):
        raise ConfigError(
            _("%(repo)s is no name of a repository.") % {"repo": repr(repo)}, _("Write owner/name.")
        )


def upload_folder(
    folder: Path,
    *,
    repo: str,
    token: str,
    endpoint: str = HUB,
    private: bool = True,
    message: str,
    check: Callable[[], None] = lambda: None,
    told: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Upload a staged folder in one commit and compare what the Hub then lists.

    Files that the Hub holds already are not sent again, so a call after an interruption goes on.

    Args:
        private: refuse a repository that is public.
        check: called several times a second; by raising it ends the upload.
        told: called with ``repository``, ``files``, ``check``.

    Raises:
        UploadError: refused, unreachable, or the listing differs afterwards.
    """
    order = {
        "endpoint": endpoint, "token": token, "repo": repo, "folder": str(folder), "private": private,
        "revision": "main", "message": message,
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "so8t_engine.hub.child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(endpoint),
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    lines: list[dict[str, Any]] = []
    try:
        child.stdin.write(json.dumps(order).encode())
        child.stdin.close()
        reader = _Reader(child.stdout.fileno())
        while True:
            ended = child.poll() is not None
            for line in reader.read(POLL_S):
                lines.append(line)
                if "what" in line:
                    told(line["what"])
            check()
            if ended and not reader.waiting():
                break
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()
    last = lines[-1] if lines else {}
    if "done" in last:
        done: dict[str, Any] = last["done"]
        if done["missing"]:
            raise UploadError(
                _("After the upload the Hub does not hold these files as sent: %(names)s.")
                % {"names": ", ".join(done["missing"][:5])},
                _("Give the same command again: what is there is not sent again."),
                transient=True,
            )
        return done
    raise _error(last, repo, endpoint)


class _Reader:
    """Whole lines from a pipe, without waiting longer than asked. A thread reads, on every system."""

    def __init__(self, handle: int) -> None:
        import queue
        import threading

        self._queue: queue.Queue[bytes | None] = queue.Queue()
        self._open = True

        def pump() -> None:
            with os.fdopen(os.dup(handle), "rb") as pipe:
                for line in pipe:
                    self._queue.put(line)
            self._queue.put(None)

        threading.Thread(target=pump, daemon=True).start()

    def waiting(self) -> bool:
        return self._open

    def read(self, seconds: float) -> list[dict[str, Any]]:
        import queue

        try:
            line = self._queue.get(timeout=seconds)
        except queue.Empty:
            return []
        if line is None:
            self._open = False
            return []
        try:
            found = json.loads(line)
        except ValueError:
            return []
        return [found] if isinstance(found, dict) else []


def _environment(endpoint: str) -> dict[str, str]:
    environment = dict(os.environ) | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    host = urlsplit(endpoint).hostname or ""
    if endpoint != HUB:  # xet is a service of the real Hub
        environment["HF_HUB_DISABLE_XET"] = "1"
    if host in {"127.0.0.1", "localhost", "::1"}:  # this computer is there offline too
        environment |= {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost"}
    return environment


def _error(last: dict[str, Any], repo: str, endpoint: str) -> UploadError:
    status, kind = last.get("status"), str(last.get("error", ""))
    reason = last.get("reason") or kind or _("its process ended without a word")
    if kind == "PermissionError":
        return UploadError(
            _("%(repo)s exists and is public.") % {"repo": repo},
            _("Add --public to upload there all the same, or choose another name."),
        )
    if status in (401, 403):
        return UploadError(
            _("The Hub refused the token for %(repo)s (%(status)d).") % {"repo": repo, "status": status},
            _("Store one that may write there: hf auth login, or keyring set so8t %(endpoint)s")
            % {"endpoint": endpoint},
        )
    transient = status is None or status >= 500 or status == 429
    return UploadError(
        _("The upload to %(repo)s failed: %(reason)s") % {"repo": repo, "reason": reason},
        _("Give the same command again: what is there is not sent again."),
        transient=transient,
    )
