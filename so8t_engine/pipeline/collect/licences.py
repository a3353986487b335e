"""Names of licences: one spelling for what cards, fields and links call them."""

from __future__ import annotations

import re

_CREATIVE = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z\-]+)/(\d\.\d)", re.IGNORECASE)
_LINKS = {
    "apache.org/licenses/license-2.0": "apache-2.0",
    "opensource.org/licenses/mit": "mit",
    "opensource.org/license/mit": "mit",
    "opendatacommons.org/licenses/by": "odc-by",
    "opendatacommons.org/licenses/odbl": "odbl",
    "opendatacommons.org/licenses/pddl": "pddl",
    "unlicense.org": "unlicense",
}
_NAMES = {
    "apache 2.0": "apache-2.0", "apache license 2.0": "apache-2.0", "apache2": "apache-2.0",
    "mit license": "mit", "cc0": "cc0-1.0", "cc-0": "cc0-1.0", "public domain": "public-domain",
    "pd": "public-domain", "cc-by": "cc-by-4.0", "cc-by-sa": "cc-by-sa-4.0",
}  # fmt: skip


def licence_name(text: str | None) -> str:
    """``text`` (a name, an SPDX identifier or a licence's address) as a lower-case SPDX name; empty for none.

    A name that is not known is kept as it is, so that it can be seen and refused.
    """
    value = " ".join((text or "").split()).lower()
    if value in {"", "unknown", "other", "none"}:
        return ""
    found = _CREATIVE.search(value)
    if found:
        family, kind, version = found.groups()
        if family == "publicdomain":
            return f"cc0-{version}" if kind == "zero" else "public-domain"
        return f"cc-{kind}-{version}"
    for link, name in _LINKS.items():
        if link in value:
            return name
    return _NAMES.get(value, value.replace(" ", "-"))


def taken(licence: str, allowed: list[str], unknown: bool) -> bool:
    """Whether rows under ``licence`` (as `licence_name` gives it) may be taken."""
    if not licence:
        return unknown
    return licence in {licence_name(one) for one in allowed}
