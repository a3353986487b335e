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
_JAPANESE = re.compile(
    r"ポルノ|エロ(?:動画|画像|本|漫画|小説|い)|アダルト(?:動画|ビデオ|サイト)|性交|性行為|自慰|オナニー|セックス|フェラ|"
    r"風俗店|官能小説|裸の写真|ヌード(?:写真|画像)|近親相姦|売春|援助交際|盗撮|痴漢"
)


def is_nsfw(text: str) -> bool:
    """Whether a word of the lists stands in ``text``."""
    return bool(_ENGLISH.search(text) or _JAPANESE.search(text))


def kept_role(prompt: str, response: str, task: int | None) -> bool:
    """Whether a row with NSFW text may be kept: only in a prompt that is to be denied or refused.

    Never in a response, which is what a model learns to write, and never in plain text.
    """
    return task in (Task.DENY, Task.REFUSE) and bool(prompt) and not is_nsfw(response)
