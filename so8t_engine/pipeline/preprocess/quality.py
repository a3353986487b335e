"""Reasons for which a row's text is left out. Each is counted under its name."""

from __future__ import annotations

import re
import zlib
from functools import cache

import pyarrow as pa

from so8t_engine.pipeline.preprocess.signs import Signs, count_signs

_MARKUP = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_URL = re.compile(r"https?://\S+")
_SUSPECT = re.compile("[\ufffdÃâ縺繧譁荳逕]")
_MOJIBAKE = re.compile(r"\ufffd|Ã[\x80-\xbfƒ‚-…]|â€|縺|繧|譁|荳|逕")
#: Signs whose ratios are looked at.
LOOK = 1000


def defect(text: str, *, min_chars: int, max_chars: int, signs: Signs | None = None) -> str | None:
    """Why ``text`` is of no use, or None.

    Thresholds follow the common filters (Gopher, C4) loosened for short prompts: they bear on texts from
    200 characters on, where ratios mean something.

    Args:
        signs: of the text's first `LOOK`, where they were counted already.
    """
    size = len(text)
    if size < min_chars:
        return "too short"
    if size > max_chars:
        return "too long"
    sample = text[:LOOK]
    signs = signs or count_signs([text], LOOK)[0]
    if signs.alnum == 0:
        return "no words"
    if not text.isascii() and _SUSPECT.search(text) and len(_MOJIBAKE.findall(text)) > max(2, size // 100):
        return "broken characters"
    if "lorem ipsum" in sample.casefold() or "ダミーテキスト" in sample:
        return "filler text"
    if size < 200:
        return None
    if signs.alnum / len(sample) < 0.5:
        return "mostly signs"
    if "://" in text and sum(len(one) for one in _URL.findall(text)) > size * 0.4:
        return "mostly addresses"
    if "<" in text and sum(len(one) for one in _MARKUP.findall(text)) > size * 0.2:
        return "mostly markup"
    if signs.digits > len(sample) * 0.5:
        return "mostly digits"
    lines = [line.strip() for line in text.split("\n") if line.strip()] if text.count("\n") >= 5 else []
    if len(lines) >= 6 and len(set(lines)) <= len(lines) * 0.6:
        return "repeated lines"
    return "repetitive" if size >= 400 and _repetitive(text[:4000].encode()) else None


def _repetitive(raw: bytes) -> bool:
    """Whether deflate shrinks it to less than a seventh: it says the same thing over and over.

    LZ4 is asked first, at a third of the time: what it does not even halve, deflate's codes of single bytes
    bring nowhere near a seventh.
    """
    return _lz4().compress(raw).size < len(raw) / 2 and len(zlib.compress(raw, 1)) < len(raw) / 7


@cache
def _lz4() -> pa.Codec:
    return pa.Codec("lz4_raw")
