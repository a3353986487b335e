"""``so8t serve`` and ``so8t audit``."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _

TOKEN_FILE = "serve.token"
AUDIT_FILE = "audit.sqlite"
TOKEN_VARIABLE = "SO8T_TOKEN"


def serve_run(run: Path, host: str, port: int, overrides: list[str], device: str, console: Console) -> None:
    """Serve a finished run until Ctrl+C.

    Raises:
        SO8TError: the run, the audit log or the packages cannot be used.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise SO8TError(
            _("The service needs packages that are not installed (%(name)s).") % {"name": error.name},
            _("Install them with: pip install 'so8t-control-panel[serve]'"),
        ) from error
    import torch
    import transformers

    from so8t_engine.config import parse_config
    from so8t_engine.serving.app import make_app
    from so8t_engine.serving.audit import AuditLog
    from so8t_engine.serving.generate import Answerer
    from so8t_engine.serving.loading import answers_at_once, load_speaker
    from so8t_engine.serving.service import Service
    from so8t_engine.serving.worker import Worker
    from so8t_engine.training.environment import physical_cores

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    transformers.utils.logging.disable_progress_bar()
    token, told = _token(run)
    console.print(_("loading the model"))
    speaker = load_speaker(run, merge=True, device=device)
    settings = parse_config(speaker.config.to_yaml(), overrides=overrides).serving
    torch.set_num_threads(speaker.config.run.cpu_threads or physical_cores())
    audit = AuditLog(run / AUDIT_FILE, settings.audit_key)
    if settings.audit_days is not None:
        audit.prune(settings.audit_days)
    batch = settings.batch or answers_at_once(speaker)
    worker = Worker(Answerer(speaker, settings), batch, settings.queue)
    service = Service(worker, audit, settings, run=speaker.run, digest=speaker.digest)
    if not _loopback(host):
        console.print(_("Other computers can reach this service, and nothing encrypts what they send."))
    if speaker.thinks is not True and settings.thinking_tokens is None:
        console.print(_("The run's rows had no think tags: it answers without thinking."))
    console.print(
        _("Serving %(run)s at http://%(host)s:%(port)d; the token is in %(place)s. Ctrl+C ends it.")
        % {"run": speaker.run, "host": f"[{host}]" if ":" in host else host, "port": port, "place": told}
    )
    try:
        uvicorn.run(
            make_app(service, token),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=settings.queue + batch + 64,
            timeout_graceful_shutdown=10,
        )
    finally:
        service.close()


def _token(run: Path) -> tuple[str, str]:
    """The bearer token and where it is: from the environment, else made and kept beside the run."""
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given:
        return given, TOKEN_VARIABLE
    path = run / TOKEN_FILE
    if path.exists():
        found = path.read_text(encoding="utf-8").strip()
        if len(found) >= 16:
            return found, str(path)
    token = secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(token + "\n")
    return token, str(path)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _audit_path(path: Path) -> Path:
    return path / AUDIT_FILE if path.is_dir() else path


def audit_verify(path: Path, head: str) -> tuple[str, dict[str, Any], bool]:
    """Text, object and verdict of ``so8t audit verify``."""
    from so8t_engine.serving.audit_verify import verify

    found = verify(_audit_path(path), expected_head=head)
    if found.valid:
        text = _("The log is whole: %(rows)d rows, %(first)s to %(last)s. Head: %(head)s") % {
            "rows": found.rows,
            "first": found.first if found.first is not None else "–",
            "last": found.last if found.last is not None else "–",
            "head": found.head or "–",
        }
        if found.ahead:
            text += "\n" + _("%(count)d rows were written after the anchor: the service was killed then.") % {
                "count": found.ahead
            }
    else:
        text = _("The log was changed: %(problem)s.") % {"problem": found.problem}
    return text + "\n", found.to_json(), found.valid


def audit_export(path: Path, out: Path | None) -> int:
    """Write the rows as JSON lines to ``out`` or standard output; the number of rows."""
    from so8t_engine.serving.audit import read_rows

    rows = read_rows(_audit_path(path))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
    return len(rows)


def audit_rotate(path: Path) -> str:
    """A new key for the rows to come; its id. Raises `AuditError` while a service writes."""
    from so8t_engine.serving.audit import AuditLog

    log = AuditLog(_existing(path))
    try:
        return log.rotate()
    finally:
        log.close()


def audit_prune(path: Path, days: float) -> int:
    """Remove rows older than ``days``; how many. Raises `AuditError` while a service writes."""
    from so8t_engine.serving.audit import AuditLog

    log = AuditLog(_existing(path))
    try:
        return log.prune(days)
    finally:
        log.close()


def _existing(path: Path) -> Path:
    found = _audit_path(path)
    if not found.is_file():
        raise SO8TError(
            _("There is no audit log at %(path)s.") % {"path": str(found)}, _("Name the file audit.sqlite.")
        )
    return found
