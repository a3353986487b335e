"""A session followed from a thread, as the window does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from so8t_engine.training.events import ErrorEvent, Event
from so8t_engine.training.session import EngineSession


class Following:
    """Starts at once; ``events`` grows as they come."""

    def __init__(self, session: EngineSession) -> None:
        self.session = session
        self.events: list[Event] = []
        self._status: int | None = None
        # A test that fails leaves it; it must not hold up the end of the tests.
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        self._status = self.session.follow(self.events.extend)

    def wait_for(self, found: Callable[[Event], bool], seconds: float = 300.0) -> Event:
        """The first event for which ``found`` holds."""
        end = time.monotonic() + seconds
        while True:
            for event in list(self.events):
                if found(event):
                    return event
            assert time.monotonic() < end, [e.type for e in self.events][-5:]
            assert self._thread.is_alive(), [e for e in self.events if isinstance(e, ErrorEvent)]
            time.sleep(0.01)

    def end(self, seconds: float = 300.0) -> int:
        """Wait for the end; the exit status."""
        self._thread.join(timeout=seconds)
        assert not self._thread.is_alive()
        assert self._status is not None
        return self._status
