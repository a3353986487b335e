"""Which language a text is in: kana say Japanese, py3langid says the rest."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LETTERS = re.compile(r"[^\W\d_]")
UNKNOWN = "und"
#: Signs that are looked at; a longer text is no clearer.
LOOK = 200
CONSIDERED = [
    "en",
    "ja",
    "zh",
    "ko",
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "nl",
    "ru",
    "ar",
    "vi",
    "id",
    "tr",
    "pl",
    "sv",
]


@cache
def _identifier() -> Any:  # noqa: ANN401  (py3langid is untyped)
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(CONSIDERED)
    return identifier


def detect(text: str, declared: str | None = None) -> str:
    """The language's code; ``und`` where it cannot be told.

    Args:
        declared: what the source says; believed where the text is too short to contradict it.
    """
    sample = text[:LOOK]
    letters = len(_LETTERS.findall(sample))
    if letters == 0:
        return UNKNOWN
    kana = len(_KANA.findall(sample))
    if kana / letters >= 0.05:
        return "ja"
    known = declared if declared in CONSIDERED else None
    han = len(_HAN.findall(sample))
    if han / letters >= 0.5 and known in {"ja", "zh"}:
        return known  # kanji alone do not tell
    if letters < 12 and known is not None:
        return known
    code, confidence = _identifier().classify(sample)
    if confidence >= 0.6:
        return str(code)
    return known or UNKNOWN
