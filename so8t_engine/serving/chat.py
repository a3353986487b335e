"""One's own model to talk to: base and tuned token by token, with what the gate does to each token.

This is the owner's view, beside the training: no audit, and the text of an answer whatever the heads say.
Thinking in tags is shown to nobody here either: an answer that opens with the tags passes `ThinkStream`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from so8t_engine.config.serving import ServingConfig
from so8t_engine.serving.decision import Decision, HeadReading, decide
from so8t_engine.serving.generate import Answerer, sample
from so8t_engine.serving.grammar import ThinkStream, opening
from so8t_engine.serving.loading import Speaker
from so8t_engine.so8t.attach import lm_head_of

TAG = opening("think-task")


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How one answer is made.

    Args:
        adapter: with LoRA. g: of the gate, 0 to 1; None takes the trained one.
    """

    adapter: bool = True
    g: float | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ChatToken:
    """One token.

    Attributes:
        shift: ‖K h − h‖ / ‖h‖ of the final hidden state it was chosen from; None where no gate acts there.
        kl: KL divergence, in nats, of the next-token distribution without the gate from the one with it.
        other: what the likeliest token would be without the gate, where it is another one.
    """

    text: str
    shift: float | None = None
    kl: float | None = None
    other: str | None = None


class ChatModel:
    """A loaded run, base and tuned from the same weights."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        # Answerer attaches the gate and knows how the conversation and the heads are read.
        self._answerer = Answerer(speaker, ServingConfig(thinking_tokens=0))
        self._trained_alpha = float(speaker.so8t.alpha.detach())

    @property
    def trained_g(self) -> float:
        return 1.0 / (1.0 + math.exp(-self._trained_alpha))

    def _set(self, adapter: bool, g: float | None) -> Any:  # noqa: ANN401
        """Set g, and return the context in which LoRA is on or off."""
        alpha = self._trained_alpha
        if g is not None:
            alpha = math.inf if g >= 1 else -math.inf if g <= 0 else math.log(g / (1 - g))
        with torch.no_grad():
            self.speaker.so8t.alpha.fill_(alpha)
        disable = getattr(self.speaker.peft, "disable_adapter", None)
        return nullcontext() if adapter or disable is None else disable()

    @torch.inference_mode()
    def heads(self, prompt: str, settings: ChatSettings) -> tuple[HeadReading, Decision]:
        """The heads at the prompt's last token, and what `serve` would decide."""
        with self._set(settings.adapter, settings.g), self._autocast():
            hidden_1H, _cache = self._prefill(self._answerer.prompt([("user", prompt)]))
            so8t = self.speaker.so8t
            rotations = so8t.current_rotations()
            logits = so8t.heads(hidden_1H, rotations.safe_B88, rotations.total_B88)
        reading = HeadReading(
            tuple(logits.task_N4[0].double().softmax(-1).tolist()),
            tuple(logits.safety_N2[0].double().softmax(-1).tolist()),
            tuple(tuple(one) for one in logits.dual_N22[0].double().softmax(-1).tolist()),
        )
        return reading, decide(reading, self.speaker.config.serving)

    def _autocast(self) -> torch.autocast:
        dtype = self.speaker.autocast_dtype
        return torch.autocast(self.speaker.device.type, dtype=dtype, enabled=dtype is not None)

    def _prefill(self, ids: list[int]) -> tuple[Tensor, DynamicCache]:
        cache = DynamicCache()
        ids_1T = torch.tensor([ids], device=self.speaker.device)
        return self._answerer.forward(ids_1T, torch.ones_like(ids_1T), cache), cache

    def speak(self, prompt: str, settings: ChatSettings) -> Iterator[ChatToken]:
        """The answer token by token. Several such iterators may be taken in turns.

        Raises:
            ValueError: the prompt leaves no room for an answer.
        """
        ids = self._answerer.prompt([("user", prompt)])
        room = self.speaker.positions - len(ids)
        if room < 1:
            raise ValueError(prompt)
        vocabulary = self._answerer.vocabulary
        generator = torch.Generator().manual_seed(settings.seed)
        cache: DynamicCache | None = None
        written: list[int] = []
        shown = 0
        filter_ = _TagFilter(prompt)
        length = len(ids)
        for _i in range(min(settings.max_new_tokens, room)):
            with torch.inference_mode(), self._set(settings.adapter, settings.g), self._autocast():
                if cache is None:
                    hidden_1H, cache = self._prefill(ids)
                else:
                    ids_11 = torch.tensor([[written[-1]]], device=self.speaker.device)
                    length += 1
                    hidden_1H = self._answerer.forward(ids_11, ids_11.new_ones((1, length)), cache)
                logits_V, effect = self._look(hidden_1H)
            never_V = vocabulary.never_V[: len(logits_V)] & ~self._is_end(len(logits_V))
            logits_V = logits_V.clone().masked_fill(never_V, -math.inf)
            token = sample(logits_V, settings.temperature, settings.top_p, generator)
            if token in vocabulary.ends:
                break
            written.append(token)
            text = self.speaker.tokenizer.decode(written)
            if text.endswith("\ufffd"):
                continue
            piece, shown = text[shown:], len(text)
            if (allowed := filter_.feed(piece)) is not None:
                yield ChatToken(allowed, *effect)
        if (rest := filter_.finish()) is not None:
            yield ChatToken(rest)

    def _is_end(self, size: int) -> Tensor:
        end_V = torch.zeros(size, dtype=torch.bool)
        end_V[[i for i in self._answerer.vocabulary.ends if i < size]] = True
        return end_V

    def _look(self, hidden_1H: Tensor) -> tuple[Tensor, tuple[float | None, float | None, str | None]]:
        """The logits (V,) to choose from, and the gate's effect on them."""
        head = lm_head_of(self.speaker.peft)
        state_1H = self._answerer.for_head(hidden_1H)
        gated_V = head(state_1H)[0].float().cpu()
        if not self.speaker.placement.final:
            return gated_V, (None, None, None)
        plain_V = _without_hooks(head, state_1H)[0].float().cpu()
        moved_1H = self.speaker.so8t.gated(hidden_1H).float()
        norm = hidden_1H.float().norm()
        shift = float((moved_1H - hidden_1H.float()).norm() / norm.clamp(min=1e-12))
        log_p, log_q = gated_V.double().log_softmax(-1), plain_V.double().log_softmax(-1)
        kl = float((log_p.exp() * (log_p - log_q)).sum())
        best, other = int(gated_V.argmax()), int(plain_V.argmax())
        return gated_V, (
            shift,
            max(kl, 0.0),
            None if best == other else self._answerer.vocabulary.texts[other],
        )


def _without_hooks(head: nn.Module, state_1H: Tensor) -> Tensor:
    logits_1V: Tensor = head.forward(state_1H)  # not head(…): that runs the gate's hook
    return logits_1V


class _TagFilter:
    """Passes ordinary text through, and of an answer in tags only what `ThinkStream` lets leave."""

    def __init__(self, query: str) -> None:
        self._stream: ThinkStream | None = None
        self._query = query
        self._start = ""
        self._decided = False

    def feed(self, piece: str) -> str | None:
        if self._stream is not None:
            return self._stream.feed(piece) or None
        if self._decided:
            return piece
        self._start += piece
        begun = self._start.lstrip()
        if begun.startswith(TAG):
            self._stream = ThinkStream(query=self._query)
            return self._stream.feed(self._start) or None
        if TAG.startswith(begun):
            return None
        self._decided = True
        return self._start

    def finish(self) -> str | None:
        if self._stream is not None:
            return self._stream.finish() or None
        return None if self._decided or not self._start else self._start
