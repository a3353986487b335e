"""``so8t estimate`` and ``so8t fit``; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from so8t_engine.config import load_config
from so8t_engine.i18n import _
from so8t_engine.memory.budget import estimate, gib
from so8t_engine.memory.fit import longest_sequence, suggestions


def estimate_report(path: Path, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The estimate as text and as the object of ``--json``. Raises `SO8TError`."""
    found = estimate(load_config(path, overrides))
    lines = [f"{name:<24}{gib(size):>12}" for name, size in found.terms.items()]
    verdict = _("fits") if found.fits else _("does not fit")
    lines.append(
        _("Estimated peak %(peak)s (%(low)s to %(high)s) of %(budget)s: %(verdict)s.")
        % {
            "peak": gib(found.peak_reserved_bytes),
            "low": gib(found.low_bytes),
            "high": gib(found.high_bytes),
            "budget": gib(found.budget_bytes),
            "verdict": verdict,
        }
    )
    return "\n".join([*lines, *found.notes]) + "\n", {
        "fits": found.fits,
        "peak_bytes": found.peak_bytes,
        "peak_reserved_bytes": found.peak_reserved_bytes,
        "low_bytes": found.low_bytes,
        "high_bytes": found.high_bytes,
        "budget_bytes": found.budget_bytes,
        "terms": found.terms,
        "source": found.source,
        "notes": list(found.notes),
    }


def fit_report(path: Path, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Suggestions as text and as the object of ``--json``. Raises `SO8TError`."""
    config = load_config(path, overrides)
    found = estimate(config)
    proposals = [] if found.fits else suggestions(config)
    longest = longest_sequence(config)
    lines = [proposal.sentence for proposal in proposals]
    lines.append(_("Longest sequence that is estimated to fit: %(tokens)d tokens.") % {"tokens": longest})
    return "\n".join(lines) + "\n", {
        "fits": found.fits,
        "longest_sequence": longest,
        "suggestions": [
            {"sentence": p.sentence, "changes": p.changes, "saves_bytes": p.saves_bytes} for p in proposals
        ],
    }
