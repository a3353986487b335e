"""The states of a run, the commands it takes, and which may follow which.

"Requested" and "done" are different states: ``pausing`` and ``paused``, ``stopping`` and ``stopped``.
"""

from __future__ import annotations

from enum import StrEnum

from so8t_engine.errors import RunError
from so8t_engine.i18n import N_, _


class State(StrEnum):
    """Where a run is."""

    IDLE = "idle"
    LOADING = "loading"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SAVING = "saving"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ABORTING = "aborting"
    ABORTED = "aborted"
    FINISHED = "finished"
    FAILED = "failed"


class Command(StrEnum):
    """What a person can ask of a run. Four verbs, four promises."""

    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    STOP = "stop"
    ABORT = "abort"


S = State

#: State → states that may follow it.
TRANSITIONS: dict[State, frozenset[State]] = {
    S.IDLE: frozenset({S.LOADING}),
    S.LOADING: frozenset({S.RUNNING, S.STOPPING, S.ABORTING, S.FAILED}),
    S.RUNNING: frozenset({S.PAUSING, S.SAVING, S.STOPPING, S.ABORTING, S.FINISHED, S.FAILED}),
    S.PAUSING: frozenset({S.PAUSED, S.RUNNING, S.STOPPING, S.ABORTING, S.FINISHED, S.FAILED}),
    S.PAUSED: frozenset({S.RUNNING, S.SAVING, S.STOPPING, S.ABORTING, S.FAILED}),
    S.SAVING: frozenset({S.RUNNING, S.PAUSED, S.STOPPING, S.ABORTING, S.FAILED}),
    S.STOPPING: frozenset({S.STOPPED, S.ABORTING, S.FAILED}),
    S.ABORTING: frozenset({S.ABORTED, S.FAILED}),
    S.STOPPED: frozenset(),
    S.ABORTED: frozenset(),
    S.FINISHED: frozenset(),
    S.FAILED: frozenset(),
}

LIVE = frozenset(state for state, following in TRANSITIONS.items() if following and state is not S.IDLE)
ENDED = frozenset(state for state, following in TRANSITIONS.items() if not following)

#: State → commands it takes.
ACCEPTS: dict[State, frozenset[Command]] = {
    S.IDLE: frozenset(),
    S.LOADING: frozenset({Command.STOP, Command.ABORT}),
    S.RUNNING: frozenset({Command.PAUSE, Command.CHECKPOINT, Command.STOP, Command.ABORT}),
    S.PAUSING: frozenset({Command.RESUME, Command.STOP, Command.ABORT}),
    S.PAUSED: frozenset({Command.RESUME, Command.CHECKPOINT, Command.STOP, Command.ABORT}),
    S.SAVING: frozenset({Command.STOP, Command.ABORT}),
    S.STOPPING: frozenset({Command.ABORT}),
    S.ABORTING: frozenset(),
    **{state: frozenset() for state in ENDED},
}

STATE_NAMES: dict[State, str] = {
    S.IDLE: N_("idle"),
    S.LOADING: N_("loading"),
    S.RUNNING: N_("running"),
    S.PAUSING: N_("pausing"),
    S.PAUSED: N_("paused"),
    S.SAVING: N_("saving"),
    S.STOPPING: N_("stopping"),
    S.STOPPED: N_("stopped"),
    S.ABORTING: N_("aborting"),
    S.ABORTED: N_("aborted"),
    S.FINISHED: N_("finished"),
    S.FAILED: N_("failed"),
}

COMMAND_NAMES: dict[Command, str] = {
    Command.PAUSE: N_("Pause"),
    Command.RESUME: N_("Resume"),
    Command.CHECKPOINT: N_("Checkpoint now"),
    Command.STOP: N_("Stop and save"),
    Command.ABORT: N_("Abort"),
}


def check_transition(current: State, following: State) -> None:
    """Raise `RunError` unless ``following`` may follow ``current``."""
    if following not in TRANSITIONS[current]:
        raise RunError(
            _("A run that is %(current)s cannot become %(following)s.")
            % {"current": _(STATE_NAMES[current]), "following": _(STATE_NAMES[following])}
        )


def check_command(current: State, command: Command) -> None:
    """Raise `RunError` unless a run that is ``current`` takes ``command``."""
    if command in ACCEPTS[current]:
        return
    allowed = ", ".join(_(COMMAND_NAMES[c]) for c in Command if c in ACCEPTS[current])
    raise RunError(
        _("'%(command)s' does nothing while the run is %(state)s.")
        % {"command": _(COMMAND_NAMES[command]), "state": _(STATE_NAMES[current])},
        _("Possible now: %(allowed)s.") % {"allowed": allowed} if allowed else _("Start a run first."),
    )
