"""Secrets out of everything that is written or shown: events, logs, error texts.

Tokens belong into the system's keyring or the Hub's own store (``hf auth login``) and nowhere else. What
reaches a text all the same, in a library's error or an address, is replaced before the text is written.
"""

from __future__ import annotations

import io
import logging
import os
import re
from typing import TextIO

REMOVED = "[removed]"
#: Environment variables whose names say that their values are secret.
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL)", re.IGNORECASE)
_SHORTEST = 8

#: What known services' tokens look like; then what is said to be one; then an address with a password.
_KNOWN = (
    r"\bhf_[A-Za-z0-9]{16,}",
    r"\bapi_org_[A-Za-z0-9]{16,}",
    r"\bsk-[A-Za-z0-9_\-]{16,}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_\-]{16,}",
    r"\bpypi-[A-Za-z0-9_\-]{30,}",
    r"\bxox[abprs]-[A-Za-z0-9\-]{10,}",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"\beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+",
)
_TOKEN = re.compile("|".join(_KNOWN))
#: These three are compiled by their first use: many a process never has one.
_SAID = (
    r"(?i)(?P<lead>\b(?:authorization\s*[:=]\s*(?:bearer|basic|token)\s+|bearer\s+"
    r"|[\w\-]*(?:token|secret|password|passwd|api[_-]?key)[\"']?\s*[:=]\s*[\"']?))"
    r"(?P<value>[A-Za-z0-9_\-.~+/=]{12,})"
)
_ADDRESS = re.compile(r"(?P<lead>\b[a-z][a-z0-9+.\-]*://)(?P<value>[^/\s:@\"']+:[^/\s@\"']+)@", re.IGNORECASE)
_SIGNATURE = (
    r"(?i)(?P<lead>[?&](?:X-Amz-Signature|X-Amz-Credential|Signature|sig|token|access_token)=)"
    r"(?P<value>[^&\s\"']{8,})"
)
#: One cheap look that says whether the others can match at all.
_HINT = (
    r"(?i)hf_|api_org_|sk-|gh[pousr]_|github_pat_|glpat-|pypi-|xox|AKIA|eyJ|bearer|authorization|token|secret"
    r"|passw|api[_-]?key|://|[?&]sig|signature"
)


def _environment_secrets() -> list[str]:
    return [
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    ]


def _said(match: re.Match[str]) -> str:
    # A number or a plain word behind "tokens:" is a figure and no secret: a secret mixes kinds of signs.
    value = match["value"]
    mixed = sum(bool(re.search(kind, value)) for kind in (r"[a-z]", r"[A-Z]", r"[0-9]")) >= 2
    spoken = "earer" in match["lead"] or "uthorization" in match["lead"]
    named = re.search(r"(secret|passw|api[_-]?key)", match["lead"], re.IGNORECASE)
    if not (mixed or spoken or named) or value.replace(".", "").isdigit():
        return match[0]
    return match["lead"] + REMOVED


def redact(text: str) -> str:
    """``text`` with everything that looks like a secret, or is one of this process's, replaced."""
    for secret in _environment_secrets():
        if secret in text:
            text = text.replace(secret, REMOVED)
    if not re.search(_HINT, text):
        return text
    text = _TOKEN.sub(REMOVED, text)
    text = _ADDRESS.sub(lambda match: f"{match['lead']}{REMOVED}@", text)
    text = re.sub(_SIGNATURE, lambda match: match["lead"] + REMOVED, text)
    return re.sub(_SAID, _said, text)


def looks_secret(text: str) -> bool:
    """Whether a text holds a known service's token or an address with a password."""
    return bool(_TOKEN.search(text) or _ADDRESS.search(text)) or any(
        secret in text for secret in _environment_secrets()
    )


_KEY_NAME = re.compile(
    r"(^|_|-)(token|secret|password|passwd|api_?key|credentials?|auth)$|^hf_token|access_key", re.IGNORECASE
)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name would hold a secret (``hub_token``, ``api_key``)."""
    return bool(_KEY_NAME.search(name))


class RedactingFormatter(logging.Formatter):
    """A formatter whose finished line, traceback included, holds no secret."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class RedactingStream(io.TextIOBase):
    """A text stream that redacts whole lines, for what libraries print past the logging module."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._rest = ""

    def write(self, text: str) -> int:
        """Write the whole lines so far; the rest waits for its end."""
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._target.write(redact("\n".join(lines)) + "\n")
        return len(text)

    def flush(self) -> None:
        if self._rest:
            self._target.write(redact(self._rest))
            self._rest = ""
        self._target.flush()

    def fileno(self) -> int:
        return self._target.fileno()

    def isatty(self) -> bool:
        return self._target.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._target.encoding
