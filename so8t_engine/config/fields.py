"""How a setting is declared: default, bounds, unit and help in one place, on the field.

The form, its tooltips, the command line's ``--set``, the YAML file and the reference page are all
generated from these declarations.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A group of settings. Unknown keys are errors; values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, protected_namespaces=(),
        # A section is part of `Config`: most processes never validate one on its own.
        defer_build=True,
    )  # fmt: skip


def setting(
    default: Any,  # noqa: ANN401  (whatever the field's own annotation says)
    title: str,
    help: str,
    *,
    unit: str = "",
    advanced: bool = False,
    scale: str = "linear",
    path: str = "",
    **bounds: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """A pydantic field with what a form needs.

    Args:
        default: the value when the file is silent.
        title, help: English texts marked with ``N_``; translated where they are shown.
        unit: shown behind the value, e.g. ``GiB`` or ``tokens``.
        advanced: shown only on demand.
        scale: ``log`` where steps should multiply (a learning rate).
        path: ``file``, ``folder`` or ``either`` where the value may be a path to pick.
        bounds: pydantic's ``ge``, ``gt``, ``le``, ``lt``, ``min_length``, ``max_length``, ``pattern``.
    """
    extra: dict[str, Any] = {"unit": unit, "advanced": advanced, "scale": scale, "path": path}
    if isinstance(default, list | dict):
        held = default
        return Field(
            default_factory=lambda: held.copy(),
            title=title,
            description=help,
            json_schema_extra=extra,
            **bounds,
        )
    return Field(default=default, title=title, description=help, json_schema_extra=extra, **bounds)


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """The form's part of a declaration made by `setting`; empty for other fields."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def a_switch_in_yaml(value: object) -> object:
    """true, yes and On for on, as for a field that is true or false; of a field that may be auto as well."""
    words = {"on": ("on", "yes", "true"), "off": ("off", "no", "false"), "auto": ("auto",)}
    return next((meant for meant, said in words.items() if str(value).lower() in said), value)
