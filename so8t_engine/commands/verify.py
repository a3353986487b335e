"""``so8t runs verify``: every file of a run against what its checksums, numbers and events say of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from so8t_engine.config import parse_config
from so8t_engine.errors import SO8TError
from so8t_engine.files import read_whole
from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import checkpoints, read_verified, step_of, verify_folder
from so8t_engine.training.events import CheckpointEvent, Event, RotationEvent, check_seal, parse_event
from so8t_engine.training.run_directory import RunDirectory

INTACT = "intact"


def verify_run(path: Path) -> dict[str, Any]:
    """Verdict per file or published folder: ``intact`` or a sentence.

    A last line that a crash left incomplete is no damage: it is noted, and the next trainer cuts it off.

    Raises:
        RunError: ``path`` is no run folder.
    """
    run = RunDirectory.open(path)
    verdicts: dict[str, str] = {}
    notes: list[str] = []

    def check(name: str, test: Callable[[], object]) -> None:
        try:
            test()
            verdicts[name] = INTACT
        except SO8TError as error:
            verdicts[name] = error.sentence
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            verdicts[name] = _("%(path)s cannot be read: %(reason)s.") % {"path": name, "reason": reason}

    check(run.config_file.name, run.config)
    if run.environment.exists():
        check(run.environment.name, lambda: json.loads(read_whole(run.environment)))
    events: list[Event] = []
    check(run.events.name, lambda: events.extend(_check_events(run, notes)))
    manifests = {event.step: event.sha256 for event in events if isinstance(event, CheckpointEvent)}
    for folder in checkpoints(run.checkpoints):
        name = folder.relative_to(run.path).as_posix()
        check(name, lambda folder=folder: _check_checkpoint(folder, manifests, notes))  # type: ignore[misc]
    rotations = {e.file: e.sha256 for e in events if isinstance(e, RotationEvent) and e.file}
    for name, sha256 in rotations.items():
        check(name, lambda name=name, sha256=sha256: _check_file(run.path / name, sha256))  # type: ignore[misc]
    if run.final.exists():
        check("final", lambda: verify_folder(run.final))
    unknown = [
        found.relative_to(run.path).as_posix()
        for found in run.rotations.glob("*")
        if found.relative_to(run.path).as_posix() not in rotations
    ]
    notes += [_("%(path)s belongs to no event.") % {"path": name} for name in sorted(unknown)]
    return {
        "run": run.id,
        "files": verdicts,
        "damaged": [name for name, verdict in verdicts.items() if verdict != INTACT],
        "notes": notes,
        "intact": all(verdict == INTACT for verdict in verdicts.values()),
    }


def _check_events(run: RunDirectory, notes: list[str]) -> list[Event]:
    data = read_whole(run.events)
    complete, _newline, rest = data.rpartition(b"\n")
    if rest:
        notes.append(
            _("The last line of %(path)s is incomplete: %(count)d bytes that the next trainer cuts off.")
            % {"path": run.events.name, "count": len(rest)}
        )
    events: list[Event] = []
    last, sealed, unsealed = 0, False, 0
    for number, line in enumerate(complete.split(b"\n") if complete else [], 1):
        state = check_seal(line)
        sealed |= state is True
        unsealed = unsealed or (number if state is None else 0)
        if sealed and unsealed:  # one writer seals all its lines: that one's checksum was hit
            raise SO8TError(_("%(path)s:%(line)d is damaged.") % {"path": run.events.name, "line": unsealed})
        record = None
        if state is not False:
            try:
                record = json.loads(line)
                seq = int(record["seq"])
            except (ValueError, KeyError, TypeError, RecursionError):
                record = None
        where = {"path": run.events.name, "line": number}
        if record is None:
            raise SO8TError(_("%(path)s:%(line)d is damaged.") % where)
        if seq != last + 1:
            raise SO8TError(
                _("%(path)s:%(line)d has the number %(seq)d and follows number %(last)d.")
                % {**where, "seq": seq, "last": last}
            )
        last = seq
        event = parse_event(line)
        if event is None:
            notes.append(_("%(path)s:%(line)d is of a type that this program does not know.") % where)
        else:
            events.append(event)
    return events


def _check_checkpoint(folder: Path, manifests: dict[int, str], notes: list[str]) -> None:
    content = read_verified(folder, keep=("state.json", "config.yaml"))
    step = step_of(folder)
    if json.loads(content["state.json"])["step"] != step:
        raise SO8TError(_("%(path)s holds another step.") % {"path": str(folder)})
    parse_config(content["config.yaml"].decode("utf-8"), name=str(folder / "config.yaml"))
    manifest = hashlib.sha256(read_whole(folder / "MANIFEST.json")).hexdigest()
    if manifests.get(step) != manifest:  # a crash between publishing and telling leaves this
        notes.append(_("The events do not tell of %(path)s.") % {"path": folder.name})


def _check_file(path: Path, sha256: str | None) -> None:
    if sha256 is not None and hashlib.sha256(read_whole(path)).hexdigest() != sha256:
        raise SO8TError(_("%(path)s is damaged: its SHA-256 differs.") % {"path": str(path)})
