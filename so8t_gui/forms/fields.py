"""What a form needs to know of each setting, read from the configuration's declarations. No Qt."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from so8t_engine.config import Config
from so8t_engine.config.fields import extra_of
from so8t_engine.i18n import N_, _

Kind = Literal["int", "float", "bool", "choice", "text", "ints", "floats", "texts"]
HIDDEN = frozenset({"schema_version"})
#: Title of the group that holds the settings outside any section.
GENERAL = N_("General")


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One setting.

    Attributes:
        path: dotted name, as in the file.
        title, help, unit: untranslated; translate where shown.
        kind: which editor it gets.
        optional: it may be unset.
        default: the value when the file is silent.
        choices: for ``choice``.
        minimum, maximum: bounds, None where there are none; ``open_minimum`` excludes the bound itself.
        log: steps multiply rather than add.
        picks: ``file``, ``folder``, ``either`` or empty.
    """

    path: str
    title: str
    help: str
    unit: str
    kind: Kind
    optional: bool
    default: Any
    advanced: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    open_minimum: bool = False
    open_maximum: bool = False
    log: bool = False
    picks: str = ""

    def range_text(self) -> str:
        """The bounds in words; empty where there are none."""
        values = {"low": _short(self.minimum), "high": _short(self.maximum)}
        if self.minimum is None and self.maximum is None:
            return ""
        if self.maximum is None:
            text = _("More than %(low)s.") if self.open_minimum else _("At least %(low)s.")
        elif self.minimum is None:
            text = _("Less than %(high)s.") if self.open_maximum else _("At most %(high)s.")
        elif self.open_minimum:
            text = _("More than %(low)s, up to %(high)s.")
        elif self.open_maximum:
            text = _("From %(low)s to less than %(high)s.")
        else:
            text = _("From %(low)s to %(high)s.")
        return text % values

    def default_text(self) -> str:
        """The default as the editor would show it."""
        if self.default == []:
            return _("none")
        return _("not set") if self.default is None else format_value(self.default)


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A section of the configuration: ``path`` is empty for the settings outside any section."""

    path: str
    title: str
    fields: tuple[FieldSpec, ...]


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.12g}"


def format_value(value: object) -> str:
    """A value as text that the editors read back to the same value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text.removesuffix(".0")
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def _without_none(annotation: Any) -> tuple[Any, bool]:  # noqa: ANN401  (a type expression)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return parts[0], len(parts) < len(typing.get_args(annotation))
    return annotation, False


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:  # noqa: ANN401
    if typing.get_origin(annotation) is Literal:
        return "choice", tuple(str(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        lists: dict[Any, Kind] = {int: "ints", float: "floats", str: "texts"}
        if (inner := typing.get_args(annotation)[0]) in lists:
            return lists[inner], ()
    kinds: dict[Any, Kind] = {bool: "bool", int: "int", float: "float", str: "text"}
    if annotation in kinds:
        return kinds[annotation], ()
    raise TypeError(f"no editor for {annotation!r}")


def field_spec(path: str, field: FieldInfo) -> FieldSpec:
    """The spec of one declared setting. Raises `TypeError` for a type that no editor exists for."""
    annotation, optional = _without_none(field.annotation)
    kind, choices = _kind(annotation)
    extra = extra_of(field)
    bounds: dict[str, float] = {}
    for mark in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            if (limit := getattr(mark, name, None)) is not None:
                bounds[name] = limit
    return FieldSpec(
        path=path,
        title=field.title or path,
        help=field.description or "",
        unit=str(extra.get("unit", "")),
        kind=kind,
        optional=optional,
        default=field.get_default(call_default_factory=True, validated_data={}),
        advanced=bool(extra.get("advanced", False)),
        choices=choices,
        minimum=bounds.get("ge", bounds.get("gt")),
        maximum=bounds.get("le", bounds.get("lt")),
        open_minimum="gt" in bounds,
        open_maximum="lt" in bounds,
        log=extra.get("scale") == "log",
        picks=str(extra.get("path", "")),
    )


def form_groups(model: type[BaseModel] = Config) -> list[GroupSpec]:
    """Every setting of ``model``, by section, in the order of declaration."""
    loose: list[FieldSpec] = []
    groups: list[GroupSpec] = []
    for name, field in model.model_fields.items():
        if name in HIDDEN:
            continue
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            specs = tuple(field_spec(f"{name}.{key}", value) for key, value in inner.model_fields.items())
            groups.append(GroupSpec(name, field.title or name, specs))
        else:
            loose.append(field_spec(name, field))
    return [GroupSpec("", GENERAL, tuple(loose)), *groups] if loose else groups


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping → dotted name → value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name → value as a nested mapping, the inverse of `flatten`."""
    values: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return values
