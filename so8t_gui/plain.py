"""Text from outside where Qt guesses whether it is markup."""

from __future__ import annotations

import html


def plain_tooltip(text: str) -> str:
    """A tooltip that shows ``text`` as it is: what looks like markup is taken for it, pictures included."""
    return f"<div style='white-space: pre-wrap'>{html.escape(text)}</div>" if "<" in text else text
