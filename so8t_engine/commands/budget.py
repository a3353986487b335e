"""``so8t estimate`` and ``so8t fit``, without torch; ``so8t probe``, with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from so8t_engine.config import load_config
from so8t_engine.i18n import _
from so8t_engine.memory.budget import estimate, gib


def estimate_report(path: Path, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The estimate as text and as the object of ``--json``. Raises `SO8TError`."""
    found = estimate(load_config(path, overrides))
    lines = [f"{name:<24}{gib(size):>12}" for name, size in found.terms.items()]
    verdict = _("fits") if found.fits else _("does not fit")
    if found.measured is not None:
        lines.append(found.sentence)
    lines.append(
        _("Estimated peak %(peak)s (%(low)s to %(high)s) of %(budget)s: %(verdict)s.")
        % {
            "peak": gib(found.device_bytes),
            "low": gib(found.low_bytes),
            "high": gib(found.high_bytes),
            "budget": gib(found.budget_bytes),
            "verdict": verdict,
        }
    )
    return "\n".join([*lines, *found.notes]) + "\n", found.to_json()


def fit_report(path: Path, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Suggestions as text and as the object of ``--json``. Raises `SO8TError`."""
    from so8t_engine.memory.fit import longest_sequence, suggestions

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


def probe_report(
    path: Path, overrides: Sequence[str], say: Callable[[str], None]
) -> tuple[str, dict[str, Any]]:
    """A probe's peaks as text and as the object of ``--json``. Raises `SO8TError`."""
    from so8t_engine.memory.probe import probe

    config = load_config(path, overrides)
    result = probe(config, say)
    found = estimate(config)
    lines = []
    for phase, peak in result.phases.items():
        figures = [
            f"{name} {gib(size)}" for name, size in asdict(peak).items() if size is not None
        ]  # the names of the JSON's fields
        lines.append(f"{phase:<12}{'  '.join(figures)}")
    lines += [found.sentence, *found.notes]
    return "\n".join(lines) + "\n", asdict(result) | {
        "peak_bytes": result.peak_bytes,
        "peak_phase": result.peak_phase,
        "estimated_bytes": found.device_bytes,
        "fits": found.fits,
    }
