"""Text in one Unicode form, without what nobody can see."""

from __future__ import annotations

import re
import unicodedata

# Zero width, direction marks, soft hyphen, variation and tag characters without a base, byte order mark;
# ZWJ and variation selectors stay, because emoji need them.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SPACES = re.compile(r"[ \t\u00a0\u2000-\u200a\u202f\u205f]+")
_LINES = re.compile(r"\n{3,}")
#: Whatever the passes below would touch, line ends among it.
_ODD = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\x00-\x1f\x7f-\x9f\u00a0\u2000-\u200a\u202f\u205f\ud800-\udfff]|  "
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def normalise(text: str, form: str) -> str:
    """``text`` in Unicode form ``nfc`` or ``nfkc``, control and hidden characters removed, spaces unified.

    Applying it twice changes nothing more.
    """
    if not text:
        return ""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    if not _ODD.search(text) and unicodedata.is_normalized(form.upper(), text):  # type: ignore[arg-type]
        return text.strip(" \u3000").strip()
    text = _SURROGATES.sub("\ufffd", text)
    text = _HIDDEN.sub("", _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    text = unicodedata.normalize("NFKC" if form == "nfkc" else "NFC", text)
    text = text.replace("\u2028", "\n").replace("\u2029", "\n\n")
    lines = [_SPACES.sub(" ", line).strip(" \u3000") for line in text.split("\n")]
    text = _LINES.sub("\n\n", "\n".join(lines)).strip()
    # Removing a hidden character may have brought two together that compose.
    return unicodedata.normalize("NFKC" if form == "nfkc" else "NFC", text)


def pieces(text: str, limit: int) -> list[str]:
    """``text`` in pieces of at most ``limit`` characters, cut at paragraphs or sentences where it can."""
    if len(text) <= limit:
        return [text]
    found: list[str] = []
    rest = text
    while len(rest) > limit:
        window = rest[:limit]
        at = max(window.rfind("\n"), 0)
        if at < limit // 2:
            marks = [
                window.rfind(mark) + len(mark)
                for mark in ("。", ". ", "! ", "? ", "！", "？")
                if mark in window
            ]
            at = max(marks, default=0)
        if at < limit // 2:
            at = limit
        found.append(rest[:at].strip())
        rest = rest[at:].lstrip()
    return [piece for piece in [*found, rest] if piece]
