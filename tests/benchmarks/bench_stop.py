"""How quickly a run hears a stop, and how quickly it has ended, in each phase of its life.

``python tests/benchmarks/bench_stop.py [--repeats N] [--config CONFIG] [--phase PHASE]``: real child
processes, commands sent as the window sends them. While torch and transformers are imported, which takes
seconds, each repetition asks `LATER_S` later than the one before. Heard: the state ``stopping``. Done: the
state ``stopped``, after which everything is on disk. Gone: the trainer's process has ended. Beside them the
longest step, which a stop may wait for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from so8t_engine.config import load_config
from so8t_engine.training.events import (
    CheckpointEvent,
    EndEvent,
    Event,
    ProgressEvent,
    StateEvent,
    StepEvent,
)
from so8t_engine.training.session import EngineSession
from so8t_engine.training.states import Command, State

Found = Callable[[Event], bool]


def _state(wanted: State) -> Found:
    return lambda event: isinstance(event, StateEvent) and event.to is wanted


#: Phase → what has to be seen before the stop, and a command that leads there.
PHASES: dict[str, tuple[Found, Command | None]] = {
    "importing": (_state(State.LOADING), None),
    "loading": (lambda event: isinstance(event, ProgressEvent) and event.done == 2, None),
    "first evaluation": (lambda e: isinstance(e, ProgressEvent) and e.what.startswith("evaluating"), None),
    "training": (lambda event: isinstance(event, StepEvent) and event.step == 3, None),
    "paused": (_state(State.PAUSED), Command.PAUSE),
    "saving": (_state(State.SAVING), Command.CHECKPOINT),
}

#: Seconds between the repetitions' moments.
LATER_S = 0.25


class Watcher:
    """Follows a session in a thread and stamps what it sees."""

    def __init__(self, session: EngineSession) -> None:
        self.session = session
        self.seen: list[tuple[float, Event]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=session.follow, args=(self._take,))
        self._thread.start()

    def _take(self, events: list[Event]) -> None:
        with self._changed:
            self.seen += [(time.perf_counter(), event) for event in events]
            self._changed.notify_all()

    def wait(self, found: Found) -> float:
        """When the first such event was seen."""
        with self._changed:
            while True:
                for at, event in self.seen:
                    if found(event):
                        return at
                if not self._changed.wait(300):
                    raise TimeoutError

    def end(self) -> float:
        self._thread.join()
        return time.perf_counter()


def measure(
    phase: str, config_name: str, folder: Path, later_s: float = 0.0
) -> tuple[float, float, float, float]:
    """Seconds from the stop until it was heard, done and the process gone, and the longest step."""
    sets = ["training.max_steps=100000", "training.epochs=1000", "run.cpu_threads=1"]
    session = EngineSession.create(load_config(config_name, sets), folder)
    watcher = Watcher(session)
    found, command = PHASES[phase]
    if command is not None:
        watcher.wait(lambda event: isinstance(event, StepEvent) and event.step == 3)
        session.send(command)
    watcher.wait(found)
    time.sleep(later_s)
    asked = time.perf_counter()
    session.send(Command.STOP)
    heard = watcher.wait(_state(State.STOPPING))
    finished = watcher.wait(_state(State.STOPPED))
    ended = watcher.end()
    steps = [event.step_s for _at, event in watcher.seen if isinstance(event, StepEvent)]
    last = [event for _at, event in watcher.seen if isinstance(event, EndEvent)][-1]
    saved = [event for _at, event in watcher.seen if isinstance(event, CheckpointEvent)]
    if last.status != "stopped" or (steps and not saved):
        raise RuntimeError(f"{phase}: {last}")
    return heard - asked, finished - asked, ended - asked, max(steps, default=0.0)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--phase", choices=tuple(PHASES), action="append", help="may be repeated; else all")
    options = parser.parse_args()
    names = ("heard, ms", "done, ms", "gone, ms")
    print(f"{'phase':18}" + "".join(f"{name:>23}" for name in names) + f"{'longest step, ms':>18}")  # noqa: T201
    with tempfile.TemporaryDirectory(prefix="so8t-bench-") as folder:
        for phase in options.phase or PHASES:
            results = [
                measure(
                    phase,
                    options.config,
                    Path(folder) / f"{phase} {number}",
                    number * LATER_S if phase == "importing" else 0.0,
                )
                for number in range(options.repeats)
            ]
            *columns, step = ([1000 * value for value in column] for column in zip(*results, strict=True))
            cells = [f"{statistics.median(c):9.0f} (max {max(c):6.0f})" for c in columns]
            print(f"{phase:18}" + "".join(f"{c:>23}" for c in cells) + f"{max(step):18.0f}", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
