"""Errors a person can act on: one sentence that says what is wrong, one that says how to mend it."""

from __future__ import annotations

from so8t_engine.redaction import redact


class SO8TError(Exception):
    """A failure with its mend.

    Args:
        sentence: what is wrong, naming file, line and field where there are any. Already translated.
        mend: what to do about it; may be empty where nothing can be done.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, sentence: str, mend: str = "") -> None:
        sentence, mend = redact(sentence), redact(mend)  # a library's words may quote an address with a token
        super().__init__(f"{sentence} {mend}".strip())
        self.sentence = sentence
        self.mend = mend


class ConfigError(SO8TError):
    """The configuration cannot be used; nothing was started and nothing written."""

    exit_code = 2
    kind = "config"

    def __init__(self, sentence: str, mend: str = "", field: str = "") -> None:
        super().__init__(sentence, mend)
        self.field = field


class DataError(SO8TError):
    """Rows cannot be read or used. The sentence names file, line and field."""

    kind = "data"


class ModelError(SO8TError):
    """A model, tokenizer or adapter cannot be loaded or does not match."""

    kind = "model"


class RunError(SO8TError):
    """A run directory cannot be written, read or controlled."""

    kind = "run"


class NoRoomError(RunError):
    """The disk is full: the same may work once there is room."""


class DivergedError(SO8TError):
    """The loss or its gradient is no finite number any more, and neither are the weights."""

    kind = "diverged"


class MemoryLimitError(SO8TError):
    """A run cannot go on within its memory limit."""

    kind = "oom"
