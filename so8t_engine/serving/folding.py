"""Text made comparable: what looks like a tag, whatever letters, brackets or encoding it is written in.

A filter on looks and encodings: it finds tags and quotations in the writings listed here. Nobody can find
a thought that was put into other words.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator

#: Brackets that pass for < and >; NFKC brings the full-width and small ones.
_BRACKETS = dict.fromkeys("‹〈⟨❮❬«《˂ᐸ≺⧼⦑", "<") | dict.fromkeys("›〉⟩❯❭»》˃ᐳ≻⧽⦒", ">")
_DASHES = dict.fromkeys("‐‑‒–—―−ー_~·・", "-") | {"⁄": "/", "∕": "/", "⧸": "/", "\\": "/", "╱": "/"}
#: Letters of other scripts, and digits, that pass for those of the tags' names (after lower-casing).
_LETTERS = {
    "a": "аαɑ@4",
    "c": "сϲᴄ",
    "e": "еεєᴇ3",
    "f": "ƒϝғꜰ",
    "h": "һհнʜ",
    "i": "іιıǀɪ1!|",
    "k": "кκᴋ",
    "l": "ӏʟ",
    "n": "ոпɴη",
    "o": "оοօᴏ0",
    "p": "рρᴘ",
    "s": "ѕꜱ5$",
    "t": "тτᴛ7",
    "y": "уγʏү",
}
_FOLD = str.maketrans(_BRACKETS | _DASHES | {sign: letter for letter, s in _LETTERS.items() for sign in s})
_SMALL = re.compile(r"\s+")
_WORDS = r"(?:think|thought|reason)"
_PARTS = r"(?:task|safety|policy|final)"
#: A tag in folded text. Words of other languages that a model may put in place of the tags' own.
_TAG = re.compile(
    rf"<[\s/]*(?:{_WORDS}|final\s*/?>|思考|考え|シンク|推論|最終|дум|мысл|tнink|denk|pens|réfl|refl|생각|思维)"
)
#: The same after all white space and dashes are gone, for names that were stretched.
_STRETCHED = re.compile(rf"</*(?:{_WORDS}{_PARTS}|final/?>)")
#: Tag names in other brackets, as [think-task] or {final}.
_OTHER = re.compile(rf"[\[({{|]/*(?:{_WORDS}-?{_PARTS})[\])}}|]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}[\s:]?){8,}")
_ESCAPES = re.compile(
    r"\\(?:u\{?([0-9a-fA-F]{4,6})\}?|x([0-9a-fA-F]{2})|([0-7]{3}))|[Uu]\+([0-9a-fA-F]{4,6})"
)


def visible_letters(text: str) -> str:
    """Compatibility forms resolved, accents and everything invisible removed, lower case."""
    if text.isascii() and text.isprintable():
        return text.lower()
    spread = unicodedata.normalize("NFKD", text)
    return "".join(
        sign
        for sign in spread
        if unicodedata.category(sign) not in {"Mn", "Me", "Cf", "Cc"} or sign in "\n\t"
    ).lower()


def fold(text: str) -> str:
    """`visible_letters`, with look-alike letters, brackets and dashes as the tags write them."""
    return visible_letters(text.translate(_FOLD)).translate(_FOLD)


def _escape(match: re.Match[str]) -> str:
    wide, short, octal, named = match.groups()
    number = int(octal, 8) if octal else int(wide or short or named, 16)
    return chr(number) if number < 0x110000 else ""


def _decoded_runs(text: str) -> Iterator[str]:
    """What runs of Base64 and hexadecimal digits say, where they say text."""
    for run in _BASE64.findall(text):
        # A run may begin inside other letters: each of the four alignments is looked at.
        for start in range(4):
            body = run.rstrip("=")[start:].replace("-", "+").replace("_", "/")
            body = body[: len(body) // 4 * 4 + (len(body) % 4 if len(body) % 4 > 1 else 0)]
            try:
                yield base64.b64decode(body + "=" * (-len(body) % 4)).decode("utf-8", "ignore")
            except (binascii.Error, ValueError):
                continue
    for run in _HEX.findall(text):
        digits = re.sub(r"[\s:]", "", run)
        yield bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("utf-8", "ignore")


def readings(text: str) -> Iterator[str]:
    """``text``, and what it says in each of the encodings known here, two deep, folded.

    HTML entities, per cent, backslash and U+ escapes, Base64, hexadecimal, ROT13 and reversed writing.
    """
    seen: set[str] = set()
    level = [text]
    for depth in range(3):
        following: list[str] = []
        for one in level:
            if one in seen or not one:
                continue
            seen.add(one)
            yield fold(one)
            if depth == 2:
                continue
            following += [html.unescape(one), urllib.parse.unquote(one), _ESCAPES.sub(_escape, one)]
            following += _decoded_runs(one)
            if depth == 0:
                following += [codecs.decode(one, "rot13"), one[::-1]]
        level = following


def tag_in_folded(folded: str) -> bool:
    """Whether folded text holds something that passes for a tag."""
    if _TAG.search(folded) or _OTHER.search(folded):
        return True
    return bool(_STRETCHED.search(_SMALL.sub("", folded).replace("-", "").replace(".", "").replace("*", "")))


def looks_like_tag(text: str) -> bool:
    """Whether ``text`` holds something that passes for a tag, in any of `readings`."""
    return any(tag_in_folded(reading) for reading in readings(text))


def bare_letters(folded: str) -> bytes:
    """Letters and digits alone, UTF-8: what a quotation has in common with what it quotes."""
    return "".join(sign for sign in folded if sign.isalnum()).encode()


def quotation_keys(text: str, size: int) -> set[bytes]:
    """Every run of ``size`` bytes in the letters of ``text``."""
    letters = bare_letters(fold(text))
    return {letters[i : i + size] for i in range(len(letters) - size + 1)}


def quotes(text: str, keys: set[bytes], size: int) -> bool:
    """Whether ``text`` holds one of ``keys`` (`quotation_keys` of the same size) in any of `readings`."""
    if not keys:
        return False
    for reading in readings(text):
        letters = bare_letters(reading)
        if any(letters[i : i + size] in keys for i in range(len(letters) - size + 1)):
            return True
    return False
