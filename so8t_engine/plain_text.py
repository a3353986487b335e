"""Text from outside, made safe to print: nothing in it can steer a terminal or hide what it says."""

from __future__ import annotations

import unicodedata

# Control and format characters (escape sequences, reversed writing, zero width), lone surrogates, and
# the separators that some terminals take for a line's end.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, limit: int = 500) -> str:
    """``text`` with such characters written out (``\\x1b``), and cut after ``limit`` characters."""
    shown = "".join(
        sign.encode("unicode_escape").decode("ascii") if unicodedata.category(sign) in _HIDDEN else sign
        for sign in text[:limit]
    )
    return shown + "…" if len(text) > limit else shown


def printable(text: str) -> str:
    """``text`` whole, with line breaks and tabs as they are, and such characters written out."""
    return "".join(sign if sign in "\n\t" else visible(sign) for sign in text)
