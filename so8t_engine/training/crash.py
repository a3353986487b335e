"""Why a trainer's process is gone, in one sentence.

What is known from outside: its exit status, the tail of its log (faulthandler writes there), and whether
the kernel counted a victim of the out-of-memory killer meanwhile.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_engine.redaction import redact

TAIL_BYTES = 32_768
_VMSTAT = Path("/proc/vmstat")
#: Windows' NTSTATUS codes that a process ends with when it crashes.
_NTSTATUS = {
    0xC0000005: "access violation",
    0xC0000017: "no memory",
    0xC00000FD: "stack overflow",
    0xC0000135: "DLL not found",
    0xC000013A: "Ctrl+C",
    0xC0000374: "heap corruption",
    0xC0000409: "stack buffer overrun",
}
_NO_MEMORY = 0xC0000017
_NATIVE = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT"}


def oom_kills(vmstat: Path = _VMSTAT) -> int | None:
    """Processes that the out-of-memory killer has ended since boot; None where the system does not tell."""
    try:
        for line in vmstat.read_text(encoding="ascii").splitlines():
            name, _space, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        return None
    return None


@dataclass(frozen=True, slots=True)
class Crash:
    """A death: ``kind`` for programs, sentence and mend for a person."""

    kind: str
    sentence: str
    mend: str


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def native_frame(log_tail: str) -> str:
    """Where the newest fatal error in a log happened: ``file.py:12 in name``; empty where it does not say."""
    fatal = log_tail.rfind("Fatal Python error")
    if fatal < 0:
        return ""
    part = log_tail[fatal:]
    current = part.find("Current thread")
    found = re.search(r'File "([^"\n]+)", line (\d+) in (\S+)', part[max(0, current) :])
    return "" if found is None else f"{Path(found[1]).name}:{found[2]} in {found[3]}"


def last_words(log_tail: str) -> str:
    """The line that names the exception a Python process ended with; empty where there is none."""
    for line in reversed(log_tail.splitlines()):
        if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b", line):
            return redact(visible(line, 200))
    return ""


def describe(code: int | None, log: Path, oom_before: int | None, *, killed_here: bool = False) -> Crash:
    """The death of a trainer.

    Args:
        code: exit status as `subprocess` gives it, negative for a signal; None where it is not known.
        log: the run's ``log.txt``.
        oom_before: `oom_kills` when the trainer was started.
        killed_here: a person chose Kill in this program.
    """
    mend = _("Continue from the last checkpoint with --resume or the button; log.txt holds the details.")
    if killed_here:
        return Crash("killed", _("The trainer was killed from this window."), mend)
    oom_now = oom_kills()
    starved = oom_before is not None and oom_now is not None and oom_now > oom_before
    name = _name(code)
    tail = _tail(log)
    if starved and (code is None or name == "SIGKILL"):
        return Crash(
            "oom_killer",
            _("The system ended the trainer because the computer's memory ran out."),
            _("Close other programs, shorten the sequence or add swap; then continue from the checkpoint."),
        )
    if code is None:
        return Crash("gone", _("The trainer ended without a word: its process is gone."), mend)
    if name == "SIGKILL":
        return Crash("crash", _("The trainer was killed from outside (SIGKILL)."), mend)
    if name in _NATIVE:
        where = native_frame(tail)
        sentence = (
            _("The trainer crashed in native code (%(signal)s, %(where)s).")
            if where
            else _("The trainer crashed in native code (%(signal)s).")
        )
        return Crash("segfault", sentence % {"signal": name, "where": visible(where, 120)}, mend)
    if (status := code & 0xFFFFFFFF) in _NTSTATUS:
        kind = "oom_killer" if status == _NO_MEMORY else "segfault"
        reason = f"{_NTSTATUS[status]}, 0x{status:08X}"
        return Crash(kind, _("The trainer crashed (%(reason)s).") % {"reason": reason}, mend)
    if code < 0:
        return Crash("crash", _("The trainer was ended by %(signal)s.") % {"signal": name}, mend)
    words = last_words(tail)
    if words:
        return Crash("crash", _("The trainer ended with an error: %(words)s.") % {"words": words}, mend)
    return Crash("crash", _("The trainer ended without a word (exit code %(code)d).") % {"code": code}, mend)


def _name(code: int | None) -> str:
    if code is None or code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
