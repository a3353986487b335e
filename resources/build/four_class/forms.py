"""The grammar's shapes, shared by both languages."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = ("ALLOW", "ESCALATION", "DENY", "REFUSE")


@dataclass(frozen=True, slots=True)
class Cue:
    """A phrase that means one class wherever it stands, and the words an answer uses for it.

    Args:
        text: as it stands in the prompt; may hold ``{slot}`` names of the lexicon.
        topic: the noun phrase by which the answer names it.
        help: for ALLOW acts, the answer itself.
    """

    text: str
    topic: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """One relational rule: two cues stand in every row, and a frame says which of them counts.

    Args:
        name: the family's name, as in the data's field ``family``.
        frames: templates with ``{A}`` for the cue that counts and ``{B}`` for the other, ``{f}`` and
            ``{g}`` for class-free fillers and further slots. Each is followed by its mirror image,
            where the cues stand in the opposite order or the markers are exchanged.
        cues: class name -> phrases.
        answers: class name -> (first sentences, second sentences).
    """

    name: str
    frames: tuple[str, ...]
    cues: dict[str, tuple[Cue, ...]]
    answers: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Language:
    """A language's families, its class-free lexicon and what may stand before and after the core.

    ``filler`` is the form in which a class-free adverbial is put into a frame.
    """

    code: str
    families: tuple[Family, ...]
    lexicon: dict[str, tuple[str, ...]]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    space: str
    filler: str
