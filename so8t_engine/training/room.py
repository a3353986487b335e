"""Waiting for room on the disk at a run's end, where no later step gives another chance to save."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from so8t_engine.i18n import _
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import WarningEvent

#: Seconds between two looks at the disk, and between two tries where nothing was seen to change.
LOOK_S, TRY_S = 0.2, 60.0
#: So many bytes that became free are worth a try.
FREED_BYTES = 1_000_000


class RoomWait:
    """One wait for all that a run still has to write.

    Args:
        control: of the run; an abort ends the wait.
        folder: on the disk that is full.
        minutes: how long at most, from the first failure on.
    """

    def __init__(self, control: RunControl, folder: Path, minutes: float) -> None:
        self._control, self._folder, self._minutes = control, folder, minutes
        self._until: float | None = None

    def again(self) -> bool:
        """Wait until another try may help. Returns False once the time is over.

        Raises:
            AbortRequested: a person does not want to wait.
        """
        if not self._minutes:
            return False
        at_first = self._free()  # before it is told: whoever hears it may make room at once
        if self._until is None:
            self._until = time.monotonic() + 60.0 * self._minutes
            self._tell()
        until = min(self._until, time.monotonic() + TRY_S)
        if time.monotonic() >= self._until:
            return False
        while time.monotonic() < until and self._free() < at_first + FREED_BYTES:
            self._control.check()
            time.sleep(LOOK_S)
        return True

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free

    def _tell(self) -> None:
        self._control.emit(
            WarningEvent(
                kind="disk",
                sentence=_(
                    "The disk is full at the run's end: the run waits up to %(minutes)g minutes for room, "
                    "so that nothing is lost."
                )
                % {"minutes": self._minutes},
                mend=_(
                    "Free some disk space, and it is saved at once. Abort keeps the last checkpoint alone."
                ),
            )
        )
