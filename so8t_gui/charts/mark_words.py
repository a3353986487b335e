"""A chart's marks and phases in words."""

from __future__ import annotations

from so8t_engine.i18n import _
from so8t_gui.models.marks import Kind, Marks
from so8t_gui.models.names import PHASES, shown


def marks_in_words(marks: Marks) -> str:
    """What the bands and lines mean, for a tooltip and for screen readers."""
    parts = [
        _("%(phase)s from step %(step)d") % {"phase": shown(phase.name, PHASES), "step": phase.step}
        for phase in marks.phases
    ]
    counts = [
        (_("%(count)d checkpoints"), Kind.CHECKPOINT),
        (_("%(count)d pauses"), Kind.PAUSE),
        (_("memory ran out %(count)d times"), Kind.MEMORY),
        (_("%(count)d steps without a finite loss"), Kind.NAN),
    ]
    parts += [text % {"count": marks.count(kind)} for text, kind in counts if marks.count(kind)]
    return "; ".join(parts)
