"""Time spent and time left, with pauses left out of both."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt

from so8t_engine.training.states import ENDED, State

FloatArray = npt.NDArray[np.float64]

RECENT_STEPS = 50
MIN_STEPS = 3


@dataclass
class RunClock:
    """Counts the seconds in which a run was at work, and estimates what is left.

    A resumed run continues the count; the time between its two lives is no work.
    """

    _active: float = 0.0
    _since: float | None = None
    _seen: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))

    def on_state(self, state: State, time: float) -> None:
        """A state was entered at ``time`` (seconds since 1970)."""
        if state is State.LOADING and self._since is not None:
            # The earlier life ended without a word: it worked until its last event.
            self._active += max(0.0, self._seen - self._since)
            self._since = None
        working = state not in ENDED | {State.IDLE, State.PAUSED}
        if working and self._since is None:
            self._since = time
        elif not working and self._since is not None:
            self._active += max(0.0, time - self._since)
            self._since = None

    def on_time(self, time: float) -> None:
        """Something was heard of the run at ``time``."""
        self._seen = max(self._seen, time)

    @property
    def last_heard(self) -> float:
        """When something was heard of the run last; seconds since 1970."""
        return self._seen

    def on_step(self, step_s: float) -> None:
        """A step took ``step_s`` seconds."""
        if step_s > 0:
            self._recent.append(step_s)

    def elapsed(self, now: float) -> float:
        """Seconds of work up to ``now``."""
        return self._active + (max(0.0, now - self._since) if self._since is not None else 0.0)

    def elapsed_many(self, times: FloatArray) -> FloatArray:
        """`elapsed` for many moments between two changes of state."""
        if self._since is None:
            return np.full(len(times), self._active)
        return self._active + np.maximum(0.0, times - self._since)

    def remaining(self, steps: int) -> float | None:
        """Estimated seconds for ``steps`` more steps; None until a few steps have been timed.

        The median of the recent steps: one slow step (an evaluation, a checkpoint) does not move it.
        """
        if len(self._recent) < MIN_STEPS:
            return None
        return median(self._recent) * max(0, steps)


def format_duration(seconds: float) -> str:
    """``3:07`` or ``2:03:07``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
