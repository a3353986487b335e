"""The tag grammar of /think, and the one parser of it: streamed and whole texts are judged alike.

::

    <think-task>…</think-task> <think-safety>…</think-safety> <think-policy>…</think-policy>
    <think-final>…</think-final> <final>…</final>

with nothing but white space between. A tag that is missing, nested, repeated, or only looks like one,
makes the whole answer a refusal. Nothing is handed out before ``<final>`` opens, and then only text that a
tag or a quotation of the thinking can no longer grow out of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from so8t_engine.serving.folding import looks_like_tag, quotation_keys, quotes

THINKING = ("think-task", "think-safety", "think-policy", "think-final")
SEGMENTS = (*THINKING, "final")
#: Quotations are looked for in the last letters of the answer each time, and in the whole at its end.
TAIL = 800
STEP = 16
#: An unbroken run of signs may be an encoding whose meaning shows only at its end.
LONG_RUN = 24
_RUN_BEFORE = re.compile(r"[!-~]+\Z")
_RUN_AFTER = re.compile(r"[!-~]+")


def opening(name: str) -> str:
    """``<name>``."""
    return f"<{name}>"


def closing(name: str) -> str:
    """``</name>``."""
    return f"</{name}>"


class Fault(StrEnum):
    """Why a generation is refused; says nothing of what it held."""

    MISSING_TAG = "missing_tag"
    STRAY_TEXT = "stray_text"
    STRAY_TAG = "stray_tag"
    QUOTED_THINKING = "quoted_thinking"
    UNFINISHED = "unfinished"
    EMPTY = "empty"


@dataclass
class ThinkStream:
    """Takes a generation piece by piece and gives out what of ``<final>`` may leave.

    Args:
        query: what the caller asked; to repeat it is no quotation of the thinking.
        quote_bytes: a run of so many bytes of letters (UTF-8) in common with the thinking is a quotation.
        hold_letters: so many visible letters are held back, so that a tag is seen before its first sign
            leaves; at least twice ``quote_bytes``.

    Attributes:
        fault: set once, for good; `feed` gives nothing out from then on.
        thinking: the closed segments. They stay in this object.
        final: all text of the answer so far, also what is held back.
    """

    query: str = ""
    quote_bytes: int = 40
    hold_letters: int = 112
    fault: Fault | None = None
    thinking: dict[str, str] = field(default_factory=dict)
    final: str = ""
    complete: bool = False
    _buffer: str = ""
    _segment: int = 0
    _inside: bool = False
    _released: int = 0
    _checked: int = 0
    _ended: bool = False
    _keys: set[bytes] = field(default_factory=set)

    @property
    def in_final(self) -> bool:
        """``<final>`` is open, or was."""
        return self._segment == len(THINKING) and (self._inside or self.complete)

    def feed(self, piece: str) -> str:
        """The text that may leave now; empty while there is none, and after a fault."""
        if self.fault is not None or not piece:
            return ""
        self._buffer += piece
        while self.fault is None and self._advance():
            pass
        return self._release()

    def finish(self) -> str:
        """The generation has ended: the last text that may leave. `fault` says whether it was whole."""
        if self.fault is None and not self.complete:
            self._fail(Fault.UNFINISHED if self._inside else Fault.MISSING_TAG)
        if self.fault is None and not self.final.strip():
            self._fail(Fault.EMPTY)
        self._ended = True
        return self._release()

    def _fail(self, fault: Fault) -> None:
        self.fault = self.fault or fault
        self._buffer = ""

    def _advance(self) -> bool:
        """Take one tag or one stretch of text from the buffer; False when more must come first."""
        if self.complete:
            if self._buffer.strip():
                self._fail(Fault.STRAY_TEXT)
            self._buffer = ""
            return False
        return self._take_text() if self._inside else self._take_opening()

    def _take_opening(self) -> bool:
        tag = opening(SEGMENTS[self._segment])
        self._buffer = self._buffer.lstrip()
        if self._buffer.startswith(tag):
            self._buffer = self._buffer[len(tag) :]
            self._inside = True
            return True
        if not tag.startswith(self._buffer):
            self._fail(Fault.MISSING_TAG if self._buffer.startswith("<") else Fault.STRAY_TEXT)
        return False

    def _take_text(self) -> bool:
        name = SEGMENTS[self._segment]
        end = self._buffer.find(closing(name))
        if end < 0:
            if name == "final":
                self._grow_final(self._buffer[: self._safe_length(closing(name))])
            return False
        text = self._buffer[:end]
        self._buffer = self._buffer[end + len(closing(name)) :]
        self._inside = False
        if name == "final":
            self.final += text
            self.complete = True
            self._judge(self.final)
        elif looks_like_tag(text):
            self._fail(Fault.STRAY_TAG)
        else:
            self._close_thinking(name, text)
        return self.fault is None

    def _close_thinking(self, name: str, text: str) -> None:
        self.thinking[name] = text
        self._segment += 1
        if self.quote_bytes:
            asked = quotation_keys(self.query, self.quote_bytes)
            self._keys |= quotation_keys(text, self.quote_bytes) - asked

    def _safe_length(self, tag: str) -> int:
        """How much of the buffer cannot be the beginning of ``tag``."""
        for length in range(min(len(tag) - 1, len(self._buffer)), 0, -1):
            if tag.startswith(self._buffer[-length:]):
                return len(self._buffer) - length
        return len(self._buffer)

    def _grow_final(self, text: str) -> None:
        self.final += text
        self._buffer = self._buffer[len(text) :]
        if len(self.final) - self._checked >= STEP:
            self._judge(self.final[-TAIL:])

    def _judge(self, text: str) -> None:
        self._checked = len(self.final)
        if looks_like_tag(text):
            self._fail(Fault.STRAY_TAG)
        elif quotes(text, self._keys, self.quote_bytes):
            self._fail(Fault.QUOTED_THINKING)

    def _release(self) -> str:
        if self.fault is not None:
            return ""
        limit = len(self.final) if self._ended else self._held_from()
        if limit <= self._released:
            return ""
        text = self.final[self._released : limit]
        self._released = limit
        return text

    def _held_from(self) -> int:
        """Up to where the checked text may leave: whole letters, never inside an unbroken run."""
        left = self.hold_letters
        at = self._checked
        while at > 0 and left > 0:
            at -= 1
            # Stretching by white space or by what cannot be seen does not use the reserve up.
            left -= self.final[at].isalnum() or self.final[at] in "<>/%&+=\\"
        if left > 0:
            return 0
        before = _RUN_BEFORE.search(self.final, 0, at)
        after = _RUN_AFTER.match(self.final, at)
        start = before.start() if before else at
        return start if (after.end() if after else at) - start >= LONG_RUN else at


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole generation: ``final`` is None exactly when there is a ``fault``. `thinking` never leaves."""

    final: str | None
    fault: Fault | None
    thinking: dict[str, str]


def parse(text: str, query: str = "", quote_bytes: int = 40) -> Parsed:
    """The answer in a whole generation, or why it is refused; by the parser that streams."""
    stream = ThinkStream(query=query, quote_bytes=quote_bytes)
    stream.feed(text)
    stream.finish()
    return Parsed(stream.final.strip() if stream.fault is None else None, stream.fault, stream.thinking)
