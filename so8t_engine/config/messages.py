"""pydantic's findings as sentences that name the field, in the person's language."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from so8t_engine.i18n import _


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field.

    Attributes:
        path: dotted name, e.g. ``training.batch_size``.
        sentence: what is wrong.
        mend: what would be right.
    """

    path: str
    sentence: str
    mend: str


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys that may stand where ``loc`` ends."""
    current: type[BaseModel] = model
    for part in loc[:-1]:
        field = current.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        current = field.annotation
    return list(current.model_fields)


def _bound(kind: str, context: dict[str, Any]) -> str:
    texts = {
        "greater_than": ("gt", _("It must be greater than %(limit)s.")),
        "greater_than_equal": ("ge", _("It must be at least %(limit)s.")),
        "less_than": ("lt", _("It must be less than %(limit)s.")),
        "less_than_equal": ("le", _("It must be at most %(limit)s.")),
        "too_short": ("min_length", _("It needs at least %(limit)s entries.")),
        "too_long": ("max_length", _("It takes at most %(limit)s entries.")),
        "string_too_short": ("min_length", _("It needs at least %(limit)s characters.")),
        "string_too_long": ("max_length", _("It takes at most %(limit)s characters.")),
    }
    if kind in texts:
        key, text = texts[kind]
        return text % {"limit": context.get(key)}
    return ""


def _kind_mend(kind: str, context: dict[str, Any]) -> str:
    if kind.startswith("float"):
        return _("Give a number, for example 2e-4.")
    if kind.startswith("int"):
        return _("Give a whole number.")
    if kind.startswith("bool"):
        return _("Give true or false.")
    if kind == "literal_error":
        return _("Give one of %(choices)s.") % {"choices": context.get("expected", "")}
    if kind == "string_pattern_mismatch":
        return _(
            "Use letters, digits, spaces, dots, dashes and underscores, beginning with a letter or digit."
        )
    if kind.startswith("string"):
        return _("Give a text.")
    if kind.startswith("list"):
        return _("Give a list.")
    if kind.startswith(("model", "dict")):
        return _("Give keys and values below it.")
    if kind == "finite_number":
        return _("Give a finite number.")
    return ""


def problems(error: ValidationError, model: type[BaseModel]) -> list[FieldProblem]:
    """Each finding of ``error`` as a sentence and its mend."""
    found: list[FieldProblem] = []
    for item in error.errors(include_url=False):
        loc, kind = item["loc"], item["type"]
        path = ".".join(str(part) for part in loc)
        context: dict[str, Any] = dict(item.get("ctx", {}))
        if kind == "extra_forbidden":
            near = difflib.get_close_matches(str(loc[-1]), known_keys(model, loc), n=1, cutoff=0.4)
            mend = (
                _("Did you mean %(near)s?") % {"near": ".".join([*map(str, loc[:-1]), near[0]])}
                if near
                else _("Remove it.")
            )
            found.append(FieldProblem(path, _("%(field)s is not a known setting.") % {"field": path}, mend))
            continue
        if kind == "value_error":
            reason = str(context.get("error", item["msg"]))
            found.append(
                FieldProblem(path, _("%(field)s: %(reason)s.") % {"field": path, "reason": reason}, "")
            )
            continue
        mend = _bound(kind, context) or _kind_mend(kind, context) or item["msg"]
        sentence = _("%(field)s cannot be %(value)s.") % {"field": path, "value": _shown(item["input"])}
        found.append(FieldProblem(path, sentence, mend))
    return found
