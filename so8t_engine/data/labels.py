"""The two labels, and how a file may write them."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from so8t_engine.errors import DataError
from so8t_engine.i18n import _

MakeError = Callable[[str, str, str], DataError]


class Task(IntEnum):
    """What should be done with a request: the four classes of the task head."""

    ALLOW = 0
    ESCALATION = 1
    DENY = 2
    REFUSE = 3


class Safety(IntEnum):
    """The two classes of the safety head."""

    SAFE = 0
    DANGEROUS = 1


_TASK_NAMES = {
    "allow": Task.ALLOW,
    "escalation": Task.ESCALATION,
    "escalate": Task.ESCALATION,
    "deny": Task.DENY,
    "refuse": Task.REFUSE,
}
_SAFETY_NAMES = {
    "safe": Safety.SAFE,
    "dangerous": Safety.DANGEROUS,
    "unsafe": Safety.DANGEROUS,
    "false": Safety.SAFE,
    "true": Safety.DANGEROUS,
}


def safety_of(task: Task | int) -> Safety:
    """ALLOW and ESCALATION are safe, DENY and REFUSE dangerous."""
    return Safety.SAFE if task in (Task.ALLOW, Task.ESCALATION) else Safety.DANGEROUS


def _number(value: object, count: int) -> int | None:
    """``value`` as a class number below ``count``: 2, 2.0, "2" or "2.0"; None if it is none."""
    if isinstance(value, str):
        value = value.strip()
        candidates = {str(n): n for n in range(count)} | {f"{n}.0": n for n in range(count)}
        return candidates.get(value)
    if isinstance(value, (int, float)) and value in range(count):
        return int(value)
    return None


def parse_task(value: object, error: MakeError) -> Task:
    """A task as name (any case) or number 0 to 3; ``error`` makes the error, naming file and line."""
    number = None if isinstance(value, bool) else _number(value, len(Task))
    if number is not None:
        return Task(number)
    if isinstance(value, str) and value.strip().lower() in _TASK_NAMES:
        return _TASK_NAMES[value.strip().lower()]
    raise error(
        "task",
        _("the value is no task."),
        _("Write ALLOW, ESCALATION, DENY or REFUSE, or 0 to 3 in this order, or leave the field empty."),
    )


def parse_safety(value: object, error: MakeError) -> Safety:
    """A safety label as name, number 0 or 1, or bool (as the number: true is 1, dangerous)."""
    number = _number(value, len(Safety))
    if number is not None:
        return Safety(number)
    if isinstance(value, str) and value.strip().lower() in _SAFETY_NAMES:
        return _SAFETY_NAMES[value.strip().lower()]
    raise error(
        "safety",
        _("the value is no safety label."),
        _("Write safe or dangerous, or 0 or 1 in this order, or leave the field empty."),
    )
