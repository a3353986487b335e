"""The words of ``so8t soul``; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from so8t_engine.i18n import N_, _, with_more
from so8t_engine.plain_text import visible

if TYPE_CHECKING:
    from so8t_engine.so8t.soul_file import Soul

MISSING = "—"
_WIDTH = 30  # columns of a terminal
_ROTATIONS = (("r_safe", "R_safe"), ("r_cmd", "R_cmd"), ("r_total", "M = R_cmd R_safe"))
_METADATA: tuple[tuple[str, str], ...] = (
    ("schema_version", N_("schema version")),
    ("rotation_map", N_("rotation map")),
    ("gate_form", N_("gate form")),
    ("gate_source", N_("source of α")),
    ("placement", N_("placement")),
    ("base_model", N_("base model")),
    ("base_revision", N_("revision of the base model")),
    ("config_digest", N_("digest of the configuration")),
)


def summary_text(file: Path, summary: Mapping[str, Any]) -> str:
    """A `soul_summary` for a person. A value that the file does not hold is a dash."""
    gate, mean, most = (summary[name] for name in ("gate", "commutator_mean", "commutator_max"))
    known = mean is not None and most is not None
    lines = [
        _line(_("File"), visible(str(file), 4096)),
        _line(_("Step"), _number(summary["step"], "d")),
        _line("α", _alpha(summary["alpha"], summary["alpha_source"])),
        _line("g = σ(α)", MISSING if gate is None else f"{100.0 * gate:.2f} %"),
        _line(
            _("Commutator (0 to 1)"),
            _("mean %(mean)s, maximum %(maximum)s")
            % {"mean": _number(mean, ".4g"), "maximum": _number(most, ".4g")}
            if known
            else MISSING,
        ),
        "",
        _("Rotations"),
        *(_line("  " + title, _rotation(summary["rotations"][name])) for name, title in _ROTATIONS),
        *_section(
            _("Heads"),
            [(visible(name), _shape(shape)) for name, shape in sorted(summary["heads"].items())],
        ),
        *_section("PET", [(visible(name), _number(value, ".4g")) for name, value in summary["pet"].items()]),
        *_section(
            _("Metadata"),
            [(_(title), visible(summary["metadata"][name]) or MISSING) for name, title in _METADATA],
        ),
    ]
    if summary["report"]:
        lines += ["", _("What was read"), *("  " + visible(line) for line in summary["report"])]
    return "\n".join(lines) + "\n"


def export_report(soul: Soul) -> list[str]:
    """What became of each part of a soul in ``soul.pt``, line by line."""
    safe, cmd = soul.theta_safe is not None, soul.theta_cmd is not None
    written = {
        "alpha": soul.alpha is not None,
        "so8_rotation": (safe and cmd) or soul.total_B88 is not None,
        "step": soul.step is not None,
        "r_safe": safe,
        "r_cmd": cmd,
        **{
            head: any(name.startswith(head + ".") for name in soul.heads)
            for head in ("safety_head", "task_head", "dual_heads")
        },
        "pet": bool(soul.pet),
    }
    lines = [
        (_("%(name)s: written.") if found else _("%(name)s: missing, written as None.")) % {"name": name}
        for name, found in written.items()
    ]
    lines += [
        _("%(what)s %(value)s: soul.pt has no place for it, left out.")
        % {"what": _(title), "value": visible(getattr(soul.metadata, name))}
        for name, title in _METADATA
        if name != "schema_version" and getattr(soul.metadata, name)
    ]
    if soul.metadata.rotation_map == "free":
        lines.append(_("The matrices of the free map are no rotations; 'so8t soul import' refuses them."))
    return [*lines, *soul.report]


def _line(title: str, value: str) -> str:
    return title + " " * max(1, _WIDTH - cell_len(title)) + value


def _section(title: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    return ["", title, *(_line("  " + name, value) for name, value in entries or [(MISSING, "")])]


def _number(value: float | int | None, style: str) -> str:
    return MISSING if value is None else format(value, style)


def _alpha(alpha: float | None, source: str | None) -> str:
    if not source:
        how = _("the file does not say whether learned or scheduled")
    elif source in ("learned", "scheduled"):
        how = _("learned") if source == "learned" else _("scheduled")
    else:
        how = _("the file says '%(source)s', which is neither learned nor scheduled") % {
            "source": visible(source)
        }
    return with_more(_number(alpha, ".6g"), how)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(str(size) for size in shape)


def _rotation(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return MISSING
    return _("%(blocks)d blocks, max|RᵀR − I| %(error).2g, det %(low).6f to %(high).6f") % {
        "blocks": found["blocks"],
        "error": found["orthogonality_max"],
        "low": found["determinant_min"],
        "high": found["determinant_max"],
    }
