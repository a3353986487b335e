"""What a run that was asked to end is doing, and what will be on disk afterwards, in words. No Qt."""

from __future__ import annotations

import time

from so8t_engine.i18n import _
from so8t_engine.training.states import Command, State
from so8t_gui.models.run_model import RunModel


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def last_saved(model: RunModel) -> str:
    """The newest checkpoint in words; empty where there is none."""
    if not model.checkpoints:
        return ""
    newest = model.checkpoints[-1]
    return _("checkpoint of step %(step)d from %(time)s") % {"step": newest.step, "time": _clock(newest.time)}


def ends_by_abort(model: RunModel, asked: Command | None) -> bool:
    """Whether nothing more is going to be saved."""
    return model.state is State.ABORTING or asked is Command.ABORT


def going_on(model: RunModel, asked: Command | None) -> str:
    """What the trainer is doing until it ends."""
    step = model.last_step
    if step is None:
        return _("Loading is being broken off.")
    if ends_by_abort(model, asked):
        return _("Step %(step)d is being broken off.") % {"step": min(step.step + 1, step.of)}
    if model.state is State.STOPPING and model.checkpoints and model.checkpoints[-1].step >= step.step:
        return _("Step %(step)d is saved; the results are being written.") % {"step": step.step}
    if step.step >= step.of:
        return _("The last evaluation is being broken off, and the run saved.")
    return _("Step %(step)d is being finished, and a checkpoint saved.") % {"step": step.step + 1}


def on_disk(model: RunModel, asked: Command | None) -> str:
    """What will be on disk once the run has ended."""
    step, saved = model.last_step, last_saved(model)
    if step is None:
        return (
            _("On disk stays: %(saved)s.") % {"saved": saved}
            if saved
            else _("Nothing was trained yet; only the settings and the log stay on disk.")
        )
    if not ends_by_abort(model, asked):
        text = _("On disk afterwards: a checkpoint of the last step, from which the run can go on.")
        return f"{text} " + _("Until then: %(saved)s.") % {"saved": saved} if saved else text
    if not saved:
        return _("On disk afterwards: no checkpoint; all %(steps)d steps are lost.") % {"steps": step.step}
    return _("On disk afterwards: %(saved)s; %(steps)d steps are lost.") % {
        "saved": saved,
        "steps": max(0, step.step - model.checkpoints[-1].step),
    }


def kept_after_kill(model: RunModel) -> str:
    """What Kill leaves."""
    saved = last_saved(model)
    return (
        _("Kill keeps: %(saved)s.") % {"saved": saved}
        if saved
        else _("There is no checkpoint yet: Kill loses all of this run.")
    )
