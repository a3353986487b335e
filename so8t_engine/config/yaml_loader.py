"""YAML as a person means it: of YAML 1.1, which PyYAML reads, without what turns one value into another.

In YAML 1.1 ``1:30`` is 90 (base 60), ``010`` is 8 (octal), ``2026-11-30`` a date and ``no`` false. Here they
are texts, as they are in YAML 1.2, and the field they stand in says what they may be: a number takes ``010``
for 10 and refuses ``1:30``, a switch takes ``no``, a name takes any of them. What still is a number is a
number in YAML 1.1, too, so that PyYAML's writer puts quotes around such a text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_OTHERS = tuple(
    f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp", "merge", "value")
)
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """First character to the tags that a plain text beginning with it may have, and what each looks like."""
    kept = {
        first: [(tag, looks) for tag, looks in entries if tag not in _OTHERS]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, looks, firsts in (("bool", _BOOL, "tTfF"), ("int", _INT, "-+0123456789"),
                                ("float", _FLOAT, "-+.0123456789")):  # fmt: skip
        for first in firsts:
            kept.setdefault(first, []).append((f"tag:yaml.org,2002:{kind}", looks))
    return kept


def _meant(base: Any) -> Any:  # noqa: ANN401  (one of PyYAML's two safe loaders)
    return type(f"Settings{base.__name__}", (base,), {"yaml_implicit_resolvers": _resolvers()})


#: PyYAML's own parser, which says best what is wrong.
PlainLoader: type[yaml.SafeLoader] = _meant(yaml.SafeLoader)
#: LibYAML's, where PyYAML was built with it: 4 ms for a preset instead of 34.
FastLoader: type[yaml.SafeLoader | yaml.CSafeLoader] = _meant(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def value_of(text: str, loader: type[yaml.SafeLoader | yaml.CSafeLoader] = PlainLoader) -> Any:  # noqa: ANN401
    """What ``text`` holds: mappings, lists, texts, numbers, true, false, None. Raises what PyYAML raises."""
    constructing = loader(text)
    try:
        return constructing.get_single_data()
    finally:
        constructing.dispose()
