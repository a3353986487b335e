"""Where a run goes on: the newest checkpoint that is whole and belongs to its configuration and rows."""

from __future__ import annotations

from so8t_engine.config import Config, parse_config
from so8t_engine.errors import ConfigError, RunError
from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import checkpoints
from so8t_engine.training.checkpoint_state import Loaded, foreign, load_checkpoint
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import CheckpointEvent, WarningEvent
from so8t_engine.training.run_config import CONFIG, FREE, flat
from so8t_engine.training.run_directory import RunDirectory


def starting_point(run: RunDirectory, config: Config, control: RunControl) -> Loaded | None:
    """The checkpoint to continue from; damaged ones are named and passed over.

    Returns:
        None where the run never came to a checkpoint: it begins again, and says so.

    Raises:
        RunError: all checkpoints are damaged, or the newest whole one is of another configuration.
    """
    found = checkpoints(run.checkpoints)
    for path in reversed(found):
        try:
            loaded = load_checkpoint(path)
        except RunError as error:
            control.emit(
                WarningEvent(
                    kind="checkpoint", sentence=error.sentence, mend=_("The one before it is taken.")
                )
            )
            continue
        _check_config(loaded, config, control)
        control.continue_after(int(loaded.state["event_seq"]))
        return loaded
    if found or any(isinstance(event, CheckpointEvent) for event in run.read_events()):
        raise RunError(_("There is no complete checkpoint to continue from."), _("Start the run anew."))
    control.emit(
        WarningEvent(
            kind="checkpoint",
            sentence=_("The run ended before its first checkpoint: it begins again with its first step."),
        )
    )
    return None


def check_rows(loaded: Loaded, digest: str) -> None:
    """Raise `RunError` unless the rows are those that the checkpoint was made with."""
    if loaded.state["rows_sha256"] != digest:
        raise RunError(
            _("The rows are not those that %(path)s was made with.") % {"path": str(loaded.path)},
            _("Put the data back as it was, or start a new run with the new rows."),
        )


def _check_config(loaded: Loaded, config: Config, control: RunControl) -> None:
    try:
        then = flat(parse_config(loaded.config, name=CONFIG).model_dump(mode="json"))
    except ConfigError as error:
        raise foreign(loaded.path, error.sentence) from error
    now = flat(config.model_dump(mode="json"))
    for name in sorted(now):
        if now[name] == then.get(name):
            continue
        change = {"field": name, "now": now[name], "then": then.get(name)}
        if name.split(".")[0] in FREE:
            control.emit(
                WarningEvent(
                    kind="config",
                    sentence=_("%(field)s is %(now)s now; the checkpoint was made with %(then)s.") % change,
                )
            )
            continue
        raise RunError(
            _("%(field)s is %(now)s in the run's config.yaml; its checkpoint was made with %(then)s.")
            % change,
            _("Put it back in config.yaml, or start a new run."),
        )
