"""A process that appends events to a run as a trainer does, at a fixed rate. For measuring the window.

``python -m so8t_gui.benchmark.writer RUN STEPS_SO_FAR OF EVENTS_PER_SECOND SECONDS``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_gui.benchmark.long_run import STEP_S, step_lines


def main(run: RunDirectory, step: int, of: int, rate: float, seconds: float) -> None:
    """Three events a step, evenly in time."""
    run.process.write_text(ProcessMark.current().to_json(), encoding="utf-8")
    started = time.monotonic()
    written = 0
    with run.events.open("ab", buffering=0) as file:
        while (passed := time.monotonic() - started) < seconds:
            while written < passed * rate:
                step += 1
                for line in step_lines(step, of, time.time() - step * STEP_S).splitlines(keepends=True):
                    file.write(line)
                    written += 1
            time.sleep(0.004)


if __name__ == "__main__":
    main(RunDirectory(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:6]))
