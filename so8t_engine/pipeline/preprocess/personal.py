"""Personal data: built-in recognisers for Japanese and English text, and Presidio's if asked for.

Recognisers look at a copy in which full-width digits, signs and every dash are ASCII; the copy has the same
length, so that places in it are places in the text. Numbers with a check digit count only if it is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address

_FOLD = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
# Dashes between digits; ー is one only there, in words it is a vowel's length.
_FOLD |= {ord(sign): ord("-") for sign in "‐‑‒–—―−ｰ－"}
_LONG = re.compile(r"(?<=\d)[ー](?=\d)")
_DIGIT = re.compile(r"\d")
#: Without a digit or the sign of an address there is nothing to find.
_WORTH = re.compile(r"[\d@＠]|[tｔＴ][\])］）]")

_EMAIL = re.compile(
    r"(?<![\w.+\-])[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}\s?(?:@|\[at\]|\(at\)|＠)\s?"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
# Not a stretch of a hexadecimal digest, nor what stands before a decimal point.
_CARD = re.compile(r"(?<![\d.\-a-f])\d(?:[ \-]?\d){11,18}(?![\d\-]?\d|[a-f]|\.\d)")
# Issuers (ISO/IEC 7812) and the lengths of their numbers: Visa; American Express; Diners Club; Mastercard;
# JCB; Discover and UnionPay; Mir; Troy; Maestro's own prefixes.
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|3[47]\d{13}|3(?:0[0-59]|[689]\d)\d{11}(?:\d{2}|\d{5})?"
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|35\d{14}|35(?:2[89]|[3-8]\d)\d{13,15}"
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|220[0-4]|9792)\d{12,15}|(?:2131|1800)\d{11}"
    r"|(?:5018|5020|5038|5893|6304|6390|6759|676[1-3])\d{8,15}"
)
#: Prefixes that others use too: a card where something says so.
_ISSUERS_NAMED = re.compile(r"(?:5[0678]|6\d|0604|81)\d{10,17}|1\d{14}")
_CARD_WORD = re.compile(r"card|credit|debit|maestro|payment|カード|クレジット|デビット", re.IGNORECASE)
_NUMBER_12 = re.compile(r"(?<![\d.\-a-f])(?<!\d )\d{4}[ \-]?\d{4}[ \-]?\d{4}(?![ \-]?\d|[a-f]|\.\d)")
_POSTAL = re.compile(r"〒\s?\d{3}-?\d{4}(?!\d)|(?<![\d\-])\d{3}-\d{4}(?![\d\-])")
_POSTAL_WORD = re.compile(
    r"(?:postal code|zip code|zip|postcode|郵便番号|住所|address|tokyo|osaka|japan|[都道府県市区町村])",
    re.IGNORECASE,
)
# Domestic: 0 and nine or ten digits in groups; the area code may stand in parentheses.
_PHONE_JP = re.compile(
    r"(?<![\d\-.])(?:"
    r"0\d{1,4}[ \-]\d{1,4}[ \-]\d{3,4}"
    r"|\(0\d{1,4}\)[ ]?\d{1,4}[ \-]?\d{3,4}"
    r"|0\d{1,4}\(\d{1,4}\)\d{3,4}"
    r"|0\d{2,4}[ \-]\d{5,8}"
    r"|0[5789]0\d{8}|0120\d{6}|0800\d{7}"
    r")(?![\d\-]?\d)"
)
_PHONE_PLAIN = re.compile(r"(?<![\d\-.])(?:0\d{9,10}|[2-9]\d\d[2-9]\d{6})(?!\d)")
_PHONE_WORD = re.compile(
    r"(?:phone|tel|call|dial|fax|mobile|cell|contact|電話|携帯|番号|連絡|℡|☎)\s*[:.。]?", re.IGNORECASE
)
_EXTENSION = r"(?:,?\s?(?:x|ext\.?|extension|内線)\s?\d{1,6})?"
_PHONE_INTL = re.compile(
    rf"(?<![\w+])\+\s?[1-9]\d{{0,2}}(?:[ \-.]?\(?\d{{1,4}}\)?){{2,5}}(?!\d){_EXTENSION}", re.IGNORECASE
)
_PHONE_US = re.compile(
    r"(?<![\d\-.])(?:(?:00)?1[ \-.])?(?:\([2-9]\d{2}\)\s?|[2-9]\d{2}[\-. ])[2-9]\d{2}[\-. ]\d{4}(?![\d\-])"
    + _EXTENSION,
    re.IGNORECASE,
)
# Not a program's version: "rv:1.9.2.20", "Chrome/13.0.872.0".
_IP = re.compile(
    r"(?<![\d.])(?<!rv:)(?<![A-Za-z]/)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\.?\d)"
)
_IP6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a text: ``text[start:end]`` is personal data of ``kind``."""

    kind: str
    start: int
    end: int


def fold(text: str) -> str:
    """``text`` with full-width ASCII and all dashes as ASCII, of the same length."""
    return text if text.isascii() else _LONG.sub("-", text.translate(_FOLD))


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if i % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def my_number(digits: str) -> bool:
    """Whether 12 digits are a My Number (個人番号): Ordinance No. 85 of 2014, Article 5.

    Check digit: 11 - (sum of P_n Q_n mod 11), 0 where the remainder is 0 or 1; P_n counts from the right of
    the first eleven, Q_n is n + 1 up to n = 6 and n - 5 from there on.
    """
    if len(digits) != 12 or len(set(digits)) == 1:
        return False
    body = [int(one) for one in reversed(digits[:11])]
    rest = sum(p * (n + 1 if n <= 6 else n - 5) for n, p in enumerate(body, start=1)) % 11
    return int(digits[11]) == (0 if rest <= 1 else 11 - rest)


def _digits(text: str) -> str:
    return "".join(one for one in text if one.isdigit())


def _email(text: str) -> Iterator[Finding]:
    if "@" in text or "at]" in text or "at)" in text:
        yield from (Finding("EMAIL", *match.span()) for match in _EMAIL.finditer(text))


def _card(text: str) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
        digits = _digits(match.group())
        if len(set(digits)) == 1 or not luhn(digits):
            continue
        named = _ISSUERS_NAMED.fullmatch(digits) and _CARD_WORD.search(
            text, max(0, match.start() - 24), match.start()
        )
        if named or _ISSUERS.fullmatch(digits):
            yield Finding("CARD", *match.span())


def _my_number(text: str) -> Iterator[Finding]:
    for match in _NUMBER_12.finditer(text):
        if my_number(_digits(match.group())):
            yield Finding("MY_NUMBER", *match.span())


def _phone(text: str) -> Iterator[Finding]:
    for match in _PHONE_INTL.finditer(text):
        if 8 <= len(_digits(match.group())) <= 15:
            yield Finding("PHONE", *match.span())
    for match in _PHONE_JP.finditer(text):
        if 9 <= len(_digits(match.group())) <= 11:
            yield Finding("PHONE", *match.span())
    yield from (Finding("PHONE", *match.span()) for match in _PHONE_US.finditer(text))
    for match in _PHONE_PLAIN.finditer(text):
        # Ten digits in a row are a telephone number only where something says so.
        if _PHONE_WORD.search(text, max(0, match.start() - 20), match.start()):
            yield Finding("PHONE", *match.span())


def _postal(text: str) -> Iterator[Finding]:
    for match in _POSTAL.finditer(text):
        marked = match.group().startswith("〒")
        # 123-4567 alone may be a local telephone number or a part's number.
        near = text[max(0, match.start() - 24) : match.end() + 12]
        if marked or _POSTAL_WORD.search(near):
            yield Finding("POSTAL_CODE", *match.span())


def _address(text: str) -> Iterator[Finding]:
    if text.count(":") >= 2:
        for match in _IP6.finditer(text):
            with suppress(ValueError):
                IPv6Address(match.group())
                # "::" alone, and what is no more than a time between colons, is nobody's.
                if len(_digits(match.group())) > 1 or match.group().count(":") > 2:
                    yield Finding("IP", *match.span())
    if text.count(".") >= 3:
        yield from (Finding("IP", *match.span()) for match in _IP.finditer(text))


RECOGNISERS: tuple[Callable[[str], Iterator[Finding]], ...] = (
    _email, _my_number, _card, _phone, _postal, _address,
)  # fmt: skip


def find(text: str, presidio: str | None = None) -> list[Finding]:
    """All personal data in ``text``, in order and without overlaps; the earlier recogniser wins.

    Args:
        presidio: the language model with which Presidio is asked too.

    Raises:
        PipelineError: Presidio or its model is not there.
    """
    if not presidio and not _WORTH.search(text):
        return []
    folded = fold(text)
    has_digits = _DIGIT.search(folded) is not None
    found: list[Finding] = []
    for recogniser in RECOGNISERS:
        if has_digits or recogniser is _email:
            _add(found, recogniser(folded))
    if presidio:
        from so8t_engine.pipeline.preprocess.presidio import recognise

        for kind, start, end in recognise(text, presidio):
            found += [Finding(kind, *span) for span in _rest(text, start, end, found)]
    return sorted(found, key=lambda one: one.start)


def _add(found: list[Finding], more: Iterable[Finding]) -> None:
    for one in more:
        if not any(_overlap(one, other) for other in found):
            found.append(one)


def _overlap(a: Finding, b: Finding) -> bool:
    return a.start < b.end and b.start < a.end


def _rest(text: str, start: int, end: int, found: list[Finding]) -> Iterator[tuple[int, int]]:
    """What of ``text[start:end]`` no finding covers: a name that runs into an address stays a name."""
    for one in sorted(found, key=lambda one: one.start):
        if one.start < end and start < one.end:
            yield from _worded(text, start, one.start)
            start = one.end
    yield from _worded(text, start, end)


def _worded(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The place without the space around it, if it holds a letter or a digit."""
    part = text[start:end]
    if any(map(str.isalnum, part)):
        yield start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def mask(text: str, findings: list[Finding]) -> str:
    """``text`` with ``[KIND]`` in the place of each finding."""
    for one in reversed(findings):
        text = f"{text[: one.start]}[{one.kind}]{text[one.end :]}"
    return text
