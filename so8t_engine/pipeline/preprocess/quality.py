"""Reasons for which a row's text is left out. Each is counted under its name."""

from __future__ import annotations

import re
import zlib

_MARKUP = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_URL = re.compile(r"https?://\S+")
_MOJIBAKE = re.compile(r"\ufffd|Ã[\x80-\xbfƒ‚-…]|â€|縺|繧|譁|荳|逕")
#: Signs whose ratios are looked at.
LOOK = 1000
_FILLER = re.compile(r"lorem ipsum|ダミーテキスト", re.IGNORECASE)


def defect(text: str, *, min_chars: int, max_chars: int) -> str | None:
    """Why ``text`` is of no use, or None.

    Thresholds follow the common filters (Gopher, C4) loosened for short prompts: they bear on texts from
    200 characters on, where ratios mean something.
    """
    size = len(text)
    if size < min_chars:
        return "too short"
    if size > max_chars:
        return "too long"
    sample = text[:LOOK]
    words = sum(map(str.isalnum, sample))
    if words == 0:
        return "no words"
    if not text.isascii() and len(_MOJIBAKE.findall(text)) > max(2, size // 100):
        return "broken characters"
    if _FILLER.search(sample):
        return "filler text"
    if size < 200:
        return None
    if words / len(sample) < 0.5:
        return "mostly signs"
    if "://" in text and sum(len(one) for one in _URL.findall(text)) > size * 0.4:
        return "mostly addresses"
    if "<" in text and sum(len(one) for one in _MARKUP.findall(text)) > size * 0.2:
        return "mostly markup"
    if sum(map(str.isdigit, sample)) > len(sample) * 0.5:
        return "mostly digits"
    lines = [line.strip() for line in text.split("\n") if line.strip()] if text.count("\n") >= 5 else []
    if len(lines) >= 6 and len(set(lines)) <= len(lines) * 0.6:
        return "repeated lines"
    # Text that deflate shrinks to less than a seventh says the same thing over and over.
    raw = text[:4000].encode()
    if size >= 400 and len(zlib.compress(raw, 1)) < len(raw) / 7:
        return "repetitive"
    return None
