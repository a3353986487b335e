"""Publishing checkpoints beside the training: one at a time, in a thread, patient when the disk is full.

Training stops only for the copy to the CPU. What was copied is written, hashed, synced and renamed in a
thread; the event that says a checkpoint stands comes after it stands.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from so8t_engine.config.sections import CheckpointConfig
from so8t_engine.errors import NoRoomError, RunError
from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import checkpoint_path, prune, publish_folder
from so8t_engine.training.checkpoint_state import Snapshot
from so8t_engine.training.events import CheckpointEvent, Event, WarningEvent
from so8t_engine.training.run_directory import RunDirectory

log = logging.getLogger(__name__)

#: After a failed save the next try comes after this, then after twice as long, up to the usual interval.
FIRST_RETRY_S, LONGEST_RETRY_S = 10.0, 180.0


class CheckpointSaver:
    """Publishes snapshots and keeps the folder as configured.

    Args:
        run: its directory.
        settings: intervals, and how many are kept.
        emit: where checkpoint and warning events go; called from the thread.
    """

    def __init__(self, run: RunDirectory, settings: CheckpointConfig, emit: Callable[[Event], None]) -> None:
        self._run = run
        self._settings = settings
        self._emit = emit
        self._thread: threading.Thread | None = None
        self._next_at = self._after(None)
        self._retry_s = 0.0
        self._owed = False
        self.saved_step: int | None = None
        self.best: tuple[int, float] | None = None
        self.stalled_s = 0.0
        #: Whether the last save failed for want of room.
        self.no_room = False

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def due(self, step: int) -> bool:
        """Whether a save is due after ``step``, by steps, by time, or because the last one failed."""
        every = self._settings.every_steps
        by_steps = every is not None and step % every == 0 and not self._retry_s
        if by_steps and self.busy:
            self._owed = True  # as soon as the one before stands
        return by_steps or self._owed or (self._next_at is not None and time.monotonic() >= self._next_at)

    def start(self, snapshot: Snapshot, reason: str) -> None:
        """Publish in the background, after one that is being written."""
        self.wait()
        self._owed = False
        self._thread = threading.Thread(target=self._publish, args=(snapshot, reason), name="so8t-saver")
        self._thread.start()

    def save(self, snapshot: Snapshot, reason: str) -> bool:
        """Publish now. Returns whether the checkpoint stands."""
        self.wait()
        return self._publish(snapshot, reason)

    def wait(self) -> None:
        """Return once nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _after(self, seconds: float | None) -> float | None:
        if seconds is None:
            minutes = self._settings.every_minutes
            return None if minutes is None else time.monotonic() + minutes * 60
        return time.monotonic() + seconds

    def _publish(self, snapshot: Snapshot, reason: str) -> bool:
        try:
            published = publish_folder(
                checkpoint_path(self._run.checkpoints, snapshot.step),
                snapshot.write,
                needed_bytes=snapshot.nbytes,
            )
        except RunError as error:
            log.exception("checkpoint failed")
            self.no_room = isinstance(error, NoRoomError)
            self._failed(error.sentence, error.mend)
            return False
        except Exception as error:  # (a thread's outermost frame: the run goes on, and it is told)
            log.exception("checkpoint failed")
            self.no_room = False
            self._failed(
                _("The checkpoint could not be saved: %(reason)s.") % {"reason": type(error).__name__},
                _("log.txt in the run folder holds the details; the run goes on and tries again."),
            )
            return False
        self._retry_s, self._next_at, self.no_room = 0.0, self._after(None), False
        self.saved_step = snapshot.step
        self._emit(
            CheckpointEvent(
                step=snapshot.step,
                path=published.path.relative_to(self._run.path).as_posix(),
                bytes=published.bytes,
                sha256=published.sha256,
                reason=reason,
            )
        )
        best = self.best if self._settings.keep_best else None
        try:
            prune(self._run.checkpoints, self._settings.keep, () if best is None else (best[0],))
        except (OSError, RunError) as error:  # one more than wanted stays; the next save tries again
            log.warning("older checkpoints were not removed: %s", error)
        return True

    def _failed(self, sentence: str, mend: str) -> None:
        self._retry_s = min(self._retry_s * 2 or FIRST_RETRY_S, LONGEST_RETRY_S)
        self._next_at = self._after(self._retry_s)
        self._emit(WarningEvent(kind="checkpoint", sentence=sentence, mend=mend))
