"""Constrained decoding: a logits processor by which every generation follows the tag grammar.

Tags are put in where the grammar wants one; inside a segment the model writes freely, closes the segment
itself or wants to end (then its tag is closed for it), and cannot write anything else that reads as a tag.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from so8t_engine.data.tokenize import END
from so8t_engine.serving.folding import fold, tag_in_folded
from so8t_engine.serving.grammar import SEGMENTS, THINKING, closing, opening

#: Put around the answer of a model that writes no tags.
BEFORE_DIRECT = "".join(opening(name) + closing(name) for name in THINKING) + opening("final")
AFTER_DIRECT = closing("final")
#: Letters behind the last bracket that a tag could still grow from, and how many such are remembered.
REACH = 16
REMEMBERED = 512


class Vocabulary:
    """What of a tokenizer the constraint needs; shared by all generations.

    Args:
        tokenizer: transformers' tokenizer.
        size: width of the logits.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:  # noqa: ANN401
        self.tokenizer = tokenizer
        self.size = size
        known = min(size, len(tokenizer))
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)]
        self.ends = {int(i) for i in ends if isinstance(i, int) and i >= 0 and i != tokenizer.unk_token_id}
        texts = tokenizer.batch_decode([[i] for i in range(known)])
        self.texts = [*texts, *[""] * (size - known)]
        self._folded = [fold(text) for text in self.texts]
        # Template marks, padding and rows beyond the tokenizer's own never belong into a segment.
        self.never_V = torch.zeros(size, dtype=torch.bool)
        self.never_V[[i for i in range(size) if i >= known or i in special]] = True
        self._starting_V = self._completing("")
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._encoded: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Tokens of ``text`` as they stand behind other text, without special ones."""
        if text not in self._encoded:
            # A SentencePiece tokenizer puts a space before the first word; behind a line break it does not.
            start = list(self.tokenizer("\n", add_special_tokens=False)["input_ids"])
            ids = list(self.tokenizer("\n" + text, add_special_tokens=False)["input_ids"])
            whole = ids[: len(start)] == start
            self._encoded[text] = (
                ids[len(start) :]
                if whole
                else list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            )
        return self._encoded[text]

    def _completing(self, tail: str) -> Tensor:
        bad_V = torch.zeros(self.size, dtype=torch.bool)
        hits = [i for i, text in enumerate(self._folded) if text and tag_in_folded(tail + text)]
        bad_V[hits] = True
        return bad_V

    def completes_tag(self, tail: str) -> Tensor:
        """Which tokens, shape (V,), make a tag of some kind out of folded ``tail``."""
        if not tail:
            return self._starting_V
        if tail not in self._cache:
            self._cache[tail] = self._completing(tail)
            while len(self._cache) > REMEMBERED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(tail)
        return self._cache[tail]


def _open_tail(text: str) -> str:
    """The end of ``text``, folded, from its last opening bracket on; empty when none is near."""
    folded = fold(text[-4 * REACH :])
    at = max(folded.rfind(sign) for sign in "<[({{")
    return folded[at:] if at >= 0 and len(folded) - at <= REACH + 8 else ""


class TagConstraint:
    """The grammar's state in one generation.

    Args:
        vocabulary: of the model's tokenizer.
        thinking_tokens: of each thinking segment at most; 0 leaves thinking and tags out: a model that
            never saw the tags answers as it learned to, and the caller puts the tags around it.
        final_tokens: of the answer at most.

    Attributes:
        done: the last tag is closed.
        in_final: the answer is being written.
        cut: the answer reached its limit.
    """

    def __init__(self, vocabulary: Vocabulary, thinking_tokens: int, final_tokens: int) -> None:
        self._vocabulary = vocabulary
        self._limits = [*[thinking_tokens] * len(THINKING), final_tokens]
        self._segment = 0
        self._ids: list[int] = []
        self._text = ""
        self._forced: list[int] = []
        self.done = False
        self.cut = False
        self.direct = thinking_tokens == 0
        if self.direct:
            self._segment = len(THINKING)
        else:
            self._force(opening(SEGMENTS[0]))

    @property
    def in_final(self) -> bool:
        return self._segment == len(THINKING)

    @property
    def forced(self) -> list[int]:
        """Tokens that come next whatever the model says."""
        return self._forced

    def _force(self, text: str) -> None:
        self._forced = list(self._vocabulary.encode(text)) if text else []

    def _close(self, rest: str) -> None:
        """Close the segment, ``rest`` being what is still missing of its tag, and open the next."""
        self._ids, self._text = [], ""
        if self.in_final:
            self._force("" if self.direct else rest)
            self._segment += 1
            self.done = not self._forced
            return
        self._segment += 1
        self._force(f"{rest}\n{opening(SEGMENTS[self._segment])}")

    def _begun(self) -> str:
        """The beginning of the closing tag that the segment ends with, or nothing."""
        tag = closing(SEGMENTS[self._segment])
        for length in range(min(len(tag) - 1, len(self._text)), 0, -1):
            if tag.startswith(self._text[-length:]):
                return tag[:length]
        return ""

    def __call__(self, scores_V: Tensor) -> Tensor:
        """The scores (V,) with −inf wherever a token would leave the grammar."""
        if self._forced:
            return self._only(scores_V, self._forced[0])
        vocabulary = self._vocabulary
        ends = [i for i in vocabulary.ends if i < len(scores_V)]
        full = len(self._ids) >= self._limits[self._segment]
        if full or (ends and int(scores_V.argmax()) in ends):
            self.cut = self.cut or (full and self.in_final)
            tag = closing(SEGMENTS[self._segment])
            rest = tag[len(self._begun()) :]
            self._close(rest)
            return self._only(scores_V, self._forced[0]) if self._forced else scores_V
        banned_V = vocabulary.never_V | vocabulary.completes_tag(_open_tail(self._text))
        for token in self._own_closing():
            banned_V[token] = False
        if bool(banned_V[: len(scores_V)].all()):
            self._close(closing(SEGMENTS[self._segment])[len(self._begun()) :])
            return self._only(scores_V, self._forced[0]) if self._forced else scores_V
        return scores_V.masked_fill(banned_V.to(scores_V.device), float("-inf"))

    def _own_closing(self) -> list[int]:
        """Tokens that lengthen the segment's own closing tag: the model may close it itself."""
        begun = self._begun()
        if not begun:
            return []
        rest = closing(SEGMENTS[self._segment])[len(begun) :]
        near = torch.nonzero(self._vocabulary.completes_tag(_open_tail(self._text))).flatten().tolist()
        return [i for i in near if self._vocabulary.texts[i] and _lengthens(self._vocabulary.texts[i], rest)]

    def _only(self, scores_V: Tensor, token: int) -> Tensor:
        alone_V = torch.full_like(scores_V, float("-inf"))
        alone_V[token] = 0.0
        return alone_V

    def accept(self, token: int) -> None:
        """The token that was taken."""
        if self._forced:
            assert token == self._forced[0]
            self._forced = self._forced[1:]
            self.done = self._segment == len(SEGMENTS) and not self._forced
            return
        self._ids.append(token)
        self._text = self._vocabulary.tokenizer.decode(self._ids)
        if self._text.rstrip().endswith(closing(SEGMENTS[self._segment])):
            self._close("")


def _lengthens(text: str, rest: str) -> bool:
    """Whether ``text`` is a beginning of ``rest``, or ``rest`` and white space."""
    return rest.startswith(text) or (text.startswith(rest) and not text[len(rest) :].strip())
