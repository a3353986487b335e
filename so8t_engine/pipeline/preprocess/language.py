"""Which language a text is in: kana say Japanese, py3langid's model says the rest."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t_engine.pipeline.preprocess.signs import Signs, count_signs

UNKNOWN = "und"
#: Signs that are looked at; a longer text is no clearer.
LOOK = 200
CONSIDERED = [
    "en", "ja", "zh", "ko", "de", "fr", "es", "it", "pt", "nl", "ru", "ar", "vi", "id", "tr", "pl", "sv",
]  # fmt: skip


class _Model:
    """py3langid's automaton and weights, applied to many texts at once.

    The library walks a text byte by byte in Python (0.2 ms a text); here all texts take each step together.
    The scores are its own: a naive Bayes over the automaton's features, softened by the text's length.
    """

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        model.set_languages(CONSIDERED)
        self.names: list[str] = list(model.nb_classes)
        self._next = np.asarray(model.tk_nextmove)  # 40 MB, not copied
        self._row = np.asarray(model.tk_row, np.int64) << 8
        self._feature = np.asarray(model.tk_output, np.int64)
        self._weights_FC = np.asarray(model.nb_ptc, np.float32)
        self._prior_C = np.asarray(model.nb_pc, np.float32)

    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Name and probability of the likeliest language of each text."""
        raw = [_bytes(text) for text in texts]
        lengths_N = np.array([len(one) for one in raw], np.int64)
        longest = int(lengths_N.max(initial=0))
        letters_NL = np.zeros((len(raw), longest), np.uint8)
        for n, one in enumerate(raw):
            letters_NL[n, : len(one)] = np.frombuffer(one, np.uint8)
        state_N = np.zeros(len(raw), np.int64)
        seen_LN = np.empty((longest, len(raw)), np.int64)
        for at in range(longest):
            state_N = self._next[self._row[state_N] + letters_NL[:, at]]
            seen_LN[at] = self._feature[state_N]
        seen_LN[np.arange(longest)[:, None] >= lengths_N] = -1
        return self._decide(seen_LN.T, lengths_N)

    def _decide(self, seen_NL: NDArray[np.int64], lengths_N: NDArray[np.int64]) -> list[tuple[str, float]]:
        count, classes = seen_NL.shape[0], len(self.names)
        scores_NC = np.zeros((count, classes), np.float32)
        text, at = np.nonzero(seen_NL >= 0)
        if text.size:
            features = self._weights_FC.shape[0]
            keys, times = np.unique(text * features + seen_NL[text, at], return_counts=True)
            owner, feature = keys // features, keys % features
            parts = np.log1p(times.astype(np.float32))[:, None] * self._weights_FC[feature]
            starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
            scores_NC[owner[starts]] = np.add.reduceat(parts, starts, axis=0) + self._prior_C
        scores_NC /= np.sqrt(np.maximum(lengths_N, 1))[:, None].astype(np.float32)
        scores_NC = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
        scores_NC /= scores_NC.sum(axis=1, keepdims=True)
        best = scores_NC.argmax(axis=1)
        return [(self.names[c], float(scores_NC[n, c])) for n, c in enumerate(best.tolist())]


def _bytes(text: str) -> bytes:
    """What the library makes of a text before its automaton sees it."""
    text = text.lower() if text.isupper() else text
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text.encode("utf-8", "surrogatepass")


@cache
def _model() -> _Model:
    return _Model()


def detect_all(texts: Sequence[str], declared: Sequence[str | None]) -> list[str]:
    """The language's code of each text; ``und`` where it cannot be told.

    Args:
        declared: what the source says; believed where the text is too short to contradict it.
    """
    found: list[str | None] = []
    known = [one if one in CONSIDERED else None for one in declared]
    for signs, code in zip(count_signs(texts, LOOK), known, strict=True):
        found.append(_by_signs(signs, code))
    asked = [n for n, code in enumerate(found) if code is None]
    if asked:
        answers = _model().classify([texts[n][:LOOK] for n in asked])
        for n, (code, confidence) in zip(asked, answers, strict=True):
            found[n] = code if confidence >= 0.6 else known[n] or UNKNOWN
    return [code or UNKNOWN for code in found]


def _by_signs(signs: Signs, known: str | None) -> str | None:
    if signs.letters == 0:
        return UNKNOWN
    if signs.kana / signs.letters >= 0.05:
        return "ja"
    if signs.han / signs.letters >= 0.5 and known in {"ja", "zh"}:
        return known  # kanji alone do not tell
    return known if signs.letters < 12 else None


def detect(text: str, declared: str | None = None) -> str:
    """The same for one text."""
    return detect_all([text], [declared])[0]
