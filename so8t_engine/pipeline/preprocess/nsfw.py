"""Sexual text, told by words: good enough to keep it out of what a model learns to write, no more."""

from __future__ import annotations

import re

from so8t_engine.data.labels import Task

_ENGLISH = re.compile(
    r"\b(?:porn(?:o|ography|ographic)?|xxx|hentai|nsfw|blow ?jobs?|hand ?jobs?|cum ?shots?|gang ?bangs?|"
    r"masturbat\w+|orgasms?|erotic(?:a|ism)?|sex(?:ual)? (?:act|intercourse|scene)s?|nude photos?|"
    r"strip ?tease|"
    r"fetish(?:es)?|dildos?|vibrators?|escort service|sexting|explicit sex\w*)\b",
    re.IGNORECASE,
)
#: Each match of the list above holds one of these; they are looked for first, which is quicker.
_STEMS = (
    "porn", "xxx", "hentai", "nsfw", "job", "shot", "bang", "masturbat", "orgasm", "erotic", "sex",
    "nude photo", "tease", "fetish", "dildo", "vibrator", "escort service",
)  # fmt: skip
_JAPANESE_STEMS = (
    "ポルノ", "エロ", "アダルト", "性交", "性行為", "自慰", "オナニー", "セックス", "フェラ", "風俗店",
    "官能小説", "裸の写真", "ヌード", "近親相姦", "売春", "援助交際", "盗撮", "痴漢",
)  # fmt: skip
_JAPANESE = re.compile(
    r"ポルノ|エロ(?:動画|画像|本|漫画|小説|い)|アダルト(?:動画|ビデオ|サイト)|性交|性行為|自慰|オナニー|セックス|フェラ|"
    r"風俗店|官能小説|裸の写真|ヌード(?:写真|画像)|近親相姦|売春|援助交際|盗撮|痴漢"
)


def _any_in(stems: tuple[str, ...], text: str) -> bool:
    for stem in stems:  # noqa: SIM110  (twice as fast as any() over a generator)
        if stem in text:
            return True
    return False


def is_nsfw(text: str) -> bool:
    """Whether a word of the lists stands in ``text``."""
    lower = text.casefold()
    if _any_in(_STEMS, lower) and _ENGLISH.search(text):
        return True
    if text.isascii() or not _any_in(_JAPANESE_STEMS, text):
        return False
    return bool(_JAPANESE.search(text))


def kept_role(prompt: str, response: str, task: int | None) -> bool:
    """Whether a row with NSFW text may be kept: only in a prompt that is to be denied or refused.

    Never in a response, which is what a model learns to write, and never in plain text.
    """
    return task in (Task.DENY, Task.REFUSE) and bool(prompt) and not is_nsfw(response)
