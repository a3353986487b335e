"""A record as sentences: phase, gate, commutator and the order rule. Never more than the record says."""

from __future__ import annotations

from typing import Any

from so8t_engine.i18n import N_, _

_PHASES = {"latent": N_("latent"), "transition": N_("transition"), "stable": N_("stable")}


def render(record: dict[str, Any]) -> str:
    """One record as a few sentences, in the language that is set.

    Args:
        record: as the index holds it; ``g`` is σ(α), shown as 100 g per cent.
    """
    lines = [
        _("SO8T, %(phase)s phase: the gate is open by %(percent).1f %% (α = %(alpha).4f, %(source)s).")
        % {
            "phase": _(_PHASES[record["phase"]]),
            "percent": 100.0 * record["g"],
            "alpha": record["alpha_gate"],
            "source": record["alpha_source"],
        },
        _("Order rule: R_safe acts first, then R_cmd; M = R_cmd R_safe, never the other way round."),
        _("The two rotations fail to commute by %(value).4f on a scale from 0 to 1.")
        % {"value": record["commutator"]},
    ]
    if record["heads_source"] == "target":
        lines.append(_("The head values of this record are targets, not the output of trained heads."))
    elif record["heads_source"] == "missing":
        lines.append(_("The head values of this record are missing."))
    if record["source"] == "schedule":
        lines.append(_("The record is synthetic: it follows the schedule and was not measured in a run."))
    return " ".join(lines)
