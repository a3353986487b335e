"""Tokens have no place in a configuration: it is copied into run folders, shown and shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from so8t_engine.config.messages import FieldProblem
from so8t_engine.i18n import _
from so8t_engine.redaction import is_secret_name, looks_secret


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{number}")
    else:
        yield path, value


def secrets_in(values: Mapping[str, Any]) -> list[FieldProblem]:
    """A problem for each setting whose name or value is a secret's. The value itself is not repeated."""
    found = []
    for path, value in _leaves(values, ""):
        if is_secret_name(path.rpartition(".")[2]):
            sentence = _("%(field)s would hold a secret, which does not belong in settings.")
        elif isinstance(value, str) and looks_secret(value):
            sentence = _("%(field)s holds a token or a password, which does not belong in settings.")
        else:
            continue
        mend = _("Remove it, and log in once with 'hf auth login' or the system's keyring.")
        found.append(FieldProblem(path, sentence % {"field": path}, mend))
    return found
