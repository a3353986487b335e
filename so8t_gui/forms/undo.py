"""Undo and redo over everything in a form, not field by field. No Qt."""

from __future__ import annotations

from typing import Any

MAX_STEPS = 200
Values = dict[str, Any]


class UndoHistory:
    """States of a form; the newest is the present one."""

    def __init__(self) -> None:
        self._past: list[Values] = []
        self._future: list[Values] = []

    def start(self, values: Values) -> None:
        """Another file or preset stands in the form; one can still go back to what was there before."""
        self.push(values)

    def push(self, values: Values) -> None:
        """The form holds ``values`` now. The same once more is no step."""
        if self._past and self._past[-1] == values:
            return
        self._past.append(values)
        del self._past[:-MAX_STEPS]
        self._future.clear()

    @property
    def can_undo(self) -> bool:
        return len(self._past) > 1

    @property
    def can_redo(self) -> bool:
        return bool(self._future)

    def undo(self) -> Values | None:
        """The state before the present one; None where there is none."""
        if not self.can_undo:
            return None
        self._future.append(self._past.pop())
        return self._past[-1]

    def redo(self) -> Values | None:
        """The state that was undone last."""
        if not self._future:
            return None
        self._past.append(self._future.pop())
        return self._past[-1]
