"""A fault at every filesystem call of saving and loading, one after the other.

    python -m tests.faults.fault_loop

Faults: ENOSPC, EIO and EACCES that pass and that last, writes that take less than they were given, writes
that say they took all and did not. Saving must end with a checkpoint that stands, or with a warning and
everything that stood before; loading must end with the right state or with a sentence, never another state.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from so8t_engine import files
from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.training.checkpoint import checkpoints, settle, step_of
from so8t_engine.training.checkpoint_state import Snapshot, load_checkpoint
from so8t_engine.training.events import CheckpointEvent, Event, ProgressEvent, WarningEvent
from so8t_engine.training.resume import starting_point
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.saver import CheckpointSaver
from tests.faults.harness import same
from tests.faults.kill_publish import at_step, real_snapshot

#: Every function of `os` by which saving and loading reach a file system.
CALLS = (
    "open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate",
    "read", "fstat", "stat", "lstat", "scandir", "listdir", "lseek", "truncate", "utime",
)  # fmt: skip
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
STOOD = (1, 2)


class Faults:
    """Strikes at the n-th call; ``lasting`` at every later call of the same function, too."""

    def __init__(self, at: int, kind: str, number: int, lasting: bool) -> None:
        self.count, self.struck = 0, ""
        self._at, self._kind, self._errno, self._lasting = at, kind, number, lasting

    def wrap(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            self.count += 1
            again = self._lasting and self.struck == name
            if self.count != self._at and not again:
                return real(*arguments, **named)
            if self._kind != "error" and name != "write":
                return real(*arguments, **named)
            self.struck = name
            if self._kind == "error":
                if name == "close":
                    real(*arguments, **named)  # what cannot be closed is closed all the same
                raise OSError(self._errno, os.strerror(self._errno))
            handle, data = arguments
            taken = real(handle, data[: max(1, len(data) // 2)])
            return taken if self._kind == "short" else len(data)

        return call


@contextmanager
def faults(at: int, kind: str, number: int = 0, lasting: bool = False) -> Iterator[Faults]:
    """Stand in the way of `os` while the block runs."""
    found = Faults(at, kind, number, lasting)
    real = {name: getattr(os, name) for name in CALLS}
    real_exchange = files.exchange
    for name, function in real.items():
        setattr(os, name, found.wrap(function, name))
    if at % 2:
        files.exchange = lambda one, other: False  # type: ignore[assignment]
    try:
        yield found
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        files.exchange = real_exchange


def kinds() -> Iterator[tuple[str, int, bool]]:
    for number in ERRORS:
        for lasting in (False, True):
            yield "error", number, lasting
    yield "short", 0, False
    yield "short", 0, True
    yield "lying", 0, False


def honest(sentence: str) -> None:
    """One sentence for a person: not empty, no traceback, no bare class name."""
    assert sentence.strip(), "an empty message"
    for word in ("Traceback", 'File "', "Error(", "errno", "Errno"):
        assert word not in sentence, sentence


def check_all(run: RunDirectory, base: Snapshot, at_least: set[int]) -> dict[int, int]:
    """Load every checkpoint and compare with what was saved there; step → salt."""
    found: dict[int, int] = {}
    for path in checkpoints(run.checkpoints):
        loaded = load_checkpoint(path)
        salt = loaded.state["salt"]
        assert same(loaded.weights, at_step(base, loaded.step, salt).tensors["trainable.safetensors"])
        found[step_of(path)] = salt
    assert at_least <= found.keys(), f"lost: {at_least - found.keys()}"
    return found


def save_loop(base: Snapshot, config: Config, folder: Path, stride: int, counts: Counter[str]) -> None:
    """A new checkpoint, and one that replaces another, under each fault at each call."""
    template = RunDirectory.create(config, folder / "template")
    saver = CheckpointSaver(template, config.checkpoints, lambda _event: None)
    for step in STOOD:
        assert saver.save(at_step(base, step), "before")
    for step in (STOOD[-1], STOOD[-1] + 1):
        for kind, number, lasting in kinds():
            at = 1
            while _save_once(base, config, folder, template, step, at, kind, number, lasting, counts):
                at += stride


def _save_once(
    base: Snapshot,
    config: Config,
    folder: Path,
    template: RunDirectory,
    step: int,
    at: int,
    kind: str,
    number: int,
    lasting: bool,
    counts: Counter[str],
) -> bool:
    path = folder / "run"
    shutil.copytree(template.path, path)
    run, told = RunDirectory(path), list[Event]()
    saver = CheckpointSaver(run, config.checkpoints, told.append)
    with faults(at, kind, number, lasting) as found:
        saved = saver.save(at_step(base, step, 5), "tried")
    if found.struck:
        counts["save faults"] += 1
        events = [e for e in told if isinstance(e, CheckpointEvent)]
        warnings = [e for e in told if isinstance(e, WarningEvent)]
        assert saved == bool(events), (found.struck, at)
        assert saved != bool(warnings), (found.struck, at)
        for warning in warnings:
            honest(warning.sentence)
            assert warning.mend
            assert str(path) in warning.sentence, warning.sentence
        state = check_all(run, base, set(STOOD) | ({step} if saved else set()))
        if saved:
            assert state[step] == 5
        counts["saved in spite of it" if saved else "told and not saved"] += 1
        # The fault has gone: the next try succeeds, and nothing unfinished is left.
        assert saver.save(at_step(base, step + 1, 6), "again")
        assert check_all(run, base, {step + 1})[step + 1] == 6
        settle(run.checkpoints)
        assert not list(run.checkpoints.glob(".*"))
    shutil.rmtree(path)
    return found.count >= at


def load_loop(base: Snapshot, config: Config, folder: Path, stride: int, counts: Counter[str]) -> None:
    """Choosing and loading the checkpoint to continue from, under each fault at each call."""
    run = RunDirectory.create(config, folder / "load")
    writer = EventWriter(run)
    saver = CheckpointSaver(run, config.checkpoints, lambda event: writer.write(event) and None)
    for step in STOOD:
        assert saver.save(at_step(base, step), "before")
    writer.close()
    for kind, number, lasting in kinds():
        at = 1
        while _load_once(base, config, run, at, kind, number, lasting, counts):
            at += stride


def _load_once(
    base: Snapshot,
    config: Config,
    run: RunDirectory,
    at: int,
    kind: str,
    number: int,
    lasting: bool,
    counts: Counter[str],
) -> bool:
    told: list[Event] = []
    control: Any = SimpleNamespace(emit=told.append, continue_after=lambda seq: None)
    loaded, refusal = None, None
    with faults(at, kind, number, lasting) as found:
        try:
            loaded = starting_point(run, config, control)
        except RunError as error:
            refusal = error
    if found.struck:
        counts["load faults"] += 1
        for event in told:
            assert isinstance(event, WarningEvent)
            honest(event.sentence)
        if refusal is not None:
            honest(refusal.sentence)
            counts["refused with a sentence"] += 1
        else:
            assert loaded is not None, f"a run with checkpoints would begin again ({found.struck}, {at})"
            assert same(loaded.weights, at_step(base, loaded.step).tensors["trainable.safetensors"])
            if loaded.step != STOOD[-1]:
                assert any(f"step-{STOOD[-1]:08d}" in event.sentence for event in told)  # type: ignore[attr-defined]
                counts["the one before taken and told"] += 1
            else:
                counts["loaded in spite of it"] += 1
    return found.count >= at


def event_loop(config: Config, folder: Path, stride: int, counts: Counter[str]) -> None:
    """Events written under each fault: none is lost while the process lives, none is torn."""
    for kind, number, lasting in kinds():
        at = 1
        while True:
            path = folder / "events"
            run = RunDirectory.create(config, path)
            writer = EventWriter(run)
            writer.write(ProgressEvent(what="before", done=0, of=None))
            with faults(at, kind, number, lasting) as found:
                for done in range(1, 4):
                    writer.write(ProgressEvent(what="while", done=done, of=None))
                    seen = [event.seq for event in run.read_events()] if kind != "error" else []
                    if kind == "lying":  # what the disk dropped is missing in the middle, too
                        assert seen == sorted(set(seen))
                    else:
                        assert seen == list(range(1, len(seen) + 1))
            writer.write(ProgressEvent(what="after", done=4, of=None))
            writer.close()
            numbers = [event.seq for event in run.read_events()]
            if kind == "lying":  # nothing can be done but to notice: a damaged line is not read
                assert set(numbers) <= set(range(1, 6))
                assert len(numbers) >= 3
            else:
                assert numbers == [1, 2, 3, 4, 5], (kind, number, lasting, at, numbers)
            counts["event faults"] += bool(found.struck)
            shutil.rmtree(path)
            if found.count < at:
                break
            at += stride


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1, help="each call, or each n-th")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="so8t-faults-"))
    began = time.monotonic()
    counts: Counter[str] = Counter()
    import logging

    logging.disable(logging.CRITICAL)
    try:
        base = real_snapshot(folder / "base")
        config = RunDirectory.open(folder / "base" / "source").config()
        save_loop(base, config, folder, options.stride, counts)
        load_loop(base, config, folder, options.stride, counts)
        event_loop(config, folder, options.stride, counts)
    except (AssertionError, RunError, OSError) as error:
        import traceback

        traceback.print_exc()
        print(f"FAILED; everything is in {folder}: {error!r}")  # noqa: T201
        return 1
    shutil.rmtree(folder)
    figures = json.dumps({"harness": "fault_loop", **counts, "wrong": 0, "lost": 0})
    print(f"{figures}  {time.monotonic() - began:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
