"""Rules over a run's figures: no finite loss, spike, divergence, stall; each with a mend. No Qt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from so8t_engine.i18n import _
from so8t_engine.training.states import State
from so8t_gui.models.marks import Kind
from so8t_gui.models.run_model import RunModel

#: Steps that a rule looks back over.
WINDOW = 100
SPIKE, DIVERGENCE = 6.0, 1.5
#: A step that takes so many times the median of the recent ones, and at least so long, is a stall.
STALL_TIMES, STALL_S = 20.0, 60.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something a person should look at. ``key`` tells the rule, ``step`` where it was seen."""

    key: str
    step: int
    sentence: str
    mend: str


class Watch:
    """Looks at a model now and then; tells each thing once, and again only after it was well in between."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def look(self, model: RunModel, now: float) -> list[Alarm]:
        """New alarms. ``now``: seconds since 1970."""
        found = [
            alarm
            for alarm in (_no_loss(model), _spike(model), _divergence(model), _stall(model, now))
            if alarm
        ]
        new = [alarm for alarm in found if alarm.key not in self._told]
        self._told = {alarm.key for alarm in found}
        return new


def _last(model: RunModel) -> int:
    return model.last_step.step if model.last_step is not None else 0


def _no_loss(model: RunModel) -> Alarm | None:
    places = model.marks.rows[Kind.NAN].step
    if not places or places[-1] < _last(model) - WINDOW:
        return None
    return Alarm(
        "nan",
        int(places[-1]),
        _("The loss of step %(step)d is not a finite number.") % {"step": int(places[-1])},
        _("Lower the learning rate, or start again from the last checkpoint before it."),
    )


def _recent(model: RunModel) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = model.steps.view("loss")[-WINDOW:].astype(np.float64)
    return values[np.isfinite(values)]


def _spike(model: RunModel) -> Alarm | None:
    values = _recent(model)
    if len(values) < 30:
        return None
    before = values[:-1]
    middle = float(np.median(before))
    # The median distance from the median: a spike does not raise its own threshold.
    spread = float(np.median(np.abs(before - middle))) or abs(middle) * 0.01 or 1e-6
    if values[-1] <= middle + SPIKE * 1.4826 * spread or values[-1] <= 2 * middle:
        return None
    return Alarm(
        "spike",
        _last(model),
        _("The loss of step %(step)d jumped from about %(before).3g to %(now).3g.")
        % {"step": _last(model), "before": middle, "now": values[-1]},
        _("One such step does no harm. If it comes again, lower the learning rate or look at these rows."),
    )


def _divergence(model: RunModel) -> Alarm | None:
    values = _recent(model)
    if len(values) < WINDOW:
        return None
    first, second = float(np.median(values[: WINDOW // 2])), float(np.median(values[WINDOW // 2 :]))
    if first <= 0 or second < DIVERGENCE * first:
        return None
    return Alarm(
        "divergence",
        _last(model),
        _("The loss rises: from about %(before).3g to %(now).3g over %(count)d steps.")
        % {"before": first, "now": second, "count": WINDOW},
        _("Stop and save, then continue with a lower learning rate from an earlier checkpoint."),
    )


def _stall(model: RunModel, now: float) -> Alarm | None:
    if model.state is not State.RUNNING or model.progress is not None or len(model.steps) < 5:
        return None
    usual = float(np.nanmedian(model.steps.view("step_s")[-50:]))
    waited = now - model.clock.last_heard
    if waited < max(STALL_S, STALL_TIMES * usual):
        return None
    return Alarm(
        "stall",
        _last(model),
        _("No step for %(seconds)d s; one usually takes %(usual).1f s.")
        % {"seconds": round(waited), "usual": usual},
        _("Look at the card's memory and the disk. If nothing moves, stop and save, then continue."),
    )
