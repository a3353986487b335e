"""Answers from a trained model: prefill, heads, decision, and the token loop for several rows at once.

The heads read the prompt's last token before a single token is written. Only an ALLOW is generated at all.
"""

from __future__ import annotations

import inspect
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from so8t_engine.config.serving import ServingConfig
from so8t_engine.data.tokenize import quoted
from so8t_engine.serving.constraint import AFTER_DIRECT, BEFORE_DIRECT, TagConstraint, Vocabulary
from so8t_engine.serving.decision import Decision, HeadReading, decide
from so8t_engine.serving.grammar import Fault, ThinkStream
from so8t_engine.serving.loading import Speaker
from so8t_engine.so8t.attach import attach_from_placement, lm_head_of

#: Thinking of a run whose rows had the tags, and of one whose rows had none.
THINKING_TRAINED, THINKING_UNTRAINED = 96, 0

SHORTEST_ANSWER = 16


@dataclass
class Job:
    """One request on its way through the model.

    Args:
        messages: the conversation as (role, content), the question last.
        query: the last question, for quotations and the language of a refusal.
        on_text: called in the worker's thread with text that may leave.
        cancelled: set when nobody waits for the answer any more.

    Attributes:
        prompt: its token ids, once the worker has made them.
        problem: ``too_long`` when the prompt leaves no room for an answer, ``failed`` when the model did.
        heads, decision: known after the prefill.
        stream: holds the generation; its thinking stays there.
        tokens: of the answer alone, without thinking.
    """

    messages: Sequence[tuple[str, str]]
    query: str
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    on_text: Callable[[str], None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    prompt: list[int] = field(default_factory=list)
    problem: str = ""
    heads: HeadReading | None = None
    decision: Decision | None = None
    stream: ThinkStream = field(default_factory=ThinkStream)
    tokens: int = 0
    cut: bool = False

    @property
    def final(self) -> str | None:
        """The model's answer; None unless it was allowed and whole."""
        whole = self.stream.fault is None and self.stream.complete
        return self.stream.final.strip() if whole and not self.cancelled.is_set() else None

    @property
    def fault(self) -> Fault | None:
        return self.stream.fault


class _Row:
    """A job in the token loop."""

    def __init__(self, job: Job, constraint: TagConstraint | None, limit: int, device: torch.device) -> None:
        self.job, self.constraint, self.limit = job, constraint, limit
        self.generator = torch.Generator().manual_seed(secrets.randbits(63) if job.seed is None else job.seed)
        self.ids: list[int] = []
        self._prefix = self._read = 0

    def pick(self, logits_V: Tensor) -> int | None:
        """The next token by the job's temperature and top-p, within the grammar; None at the end."""
        scores_V = logits_V.float().cpu()
        if self.constraint is not None:
            scores_V = self.constraint(scores_V)
            self.job.cut = self.constraint.cut
            if self.constraint.done:
                return None
            if self.constraint.forced:
                return self.constraint.forced[0]
        return sample(scores_V, self.job.temperature, self.job.top_p, self.generator)

    def take(self, token: int, tokenizer: Any, ends: set[int]) -> bool:  # noqa: ANN401
        """Add a token; whether the row is finished."""
        job, constraint = self.job, self.constraint
        if constraint is None and token in ends:
            return True
        inside = job.stream.in_final
        self.ids.append(token)
        if constraint is not None:
            free = constraint.in_final and not constraint.forced
            constraint.accept(token)
            job.tokens += free
        else:
            job.tokens += inside
        text = job.stream.feed(self._new_text(tokenizer))
        if text and job.on_text is not None:
            job.on_text(text)
        if job.stream.fault is not None or (constraint is not None and constraint.done):
            return True
        return job.cancelled.is_set() or len(self.ids) >= self.limit

    def _new_text(self, tokenizer: Any) -> str:  # noqa: ANN401
        """What the new token adds. Decoded with its left neighbours: tokens join in ways of their own."""
        before = tokenizer.decode(self.ids[self._prefix : self._read])
        now = tokenizer.decode(self.ids[self._prefix :])
        if now.endswith("\ufffd") and len(self.ids) - self._read < 8:
            return ""  # a sign whose bytes are not complete yet
        self._prefix, self._read = self._read, len(self.ids)
        return str(now[len(before) :])


def sample(scores_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """The likeliest token at temperature 0, else one drawn from the smallest set that holds ``top_p``."""
    if temperature <= 0.0:
        return int(scores_V.argmax())
    probabilities_V = torch.softmax(scores_V.double() / temperature, dim=-1)
    if top_p < 1.0:
        ordered_V, order_V = probabilities_V.sort(descending=True)
        outside_V = ordered_V.cumsum(0) - ordered_V >= top_p  # the token that crosses top_p stays
        probabilities_V[order_V[outside_V]] = 0.0
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


class Answerer:
    """Answers batches of jobs in the calling thread; owns the model and its attached gate."""

    def __init__(self, speaker: Speaker, settings: ServingConfig) -> None:
        self.speaker, self.settings = speaker, settings
        self.vocabulary = Vocabulary(speaker.tokenizer, _vocabulary_size(speaker.peft))
        self._gate = attach_from_placement(speaker.peft, speaker.so8t, speaker.placement)
        # transformers renamed it on the way from 5.17 to 5.40.
        accepted = inspect.signature(self._body().forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in accepted else "cache"
        thinking = settings.thinking_tokens
        if thinking is None:
            thinking = THINKING_TRAINED if speaker.thinks else THINKING_UNTRAINED
        self.thinking_tokens = thinking

    def prompt(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Token ids of a conversation of (role, content) that ends with the user's question.

        As a training row is encoded: template marks inside a message are broken up.
        """
        tokenizer = self.speaker.tokenizer
        told = [{"role": role, "content": quoted(content)} for role, content in messages]
        text = tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def room(self, prompt: Sequence[int]) -> int:
        """Tokens that a prompt leaves to the answer, tags and thinking taken off."""
        tags = 96 + 4 * self.thinking_tokens if self.thinking_tokens else 0
        return self.speaker.positions - len(prompt) - tags

    @torch.inference_mode()
    def answer(self, jobs: Sequence[Job]) -> None:
        """Fill each job's heads, decision and, where allowed, its generation."""
        dtype = self.speaker.autocast_dtype
        ready = [job for job in jobs if self._encode(job)]
        if not ready:
            return
        with torch.autocast(self.speaker.device.type, dtype=dtype, enabled=dtype is not None):
            self._answer(ready)

    def _encode(self, job: Job) -> bool:
        job.prompt = self.prompt(job.messages)
        room = self.room(job.prompt)
        if room < min(job.max_new_tokens, SHORTEST_ANSWER):
            # Nothing is cut from a question: it would be decided about something else than was asked.
            job.problem = "too_long"
            return False
        job.max_new_tokens = min(job.max_new_tokens, room)
        return True

    def _answer(self, jobs: list[Job]) -> None:
        cache, mask_NT, hidden_NH = self._prefill(jobs)
        self._read_heads(jobs, hidden_NH)
        alive = [
            i for i, job in enumerate(jobs) if job.decision is not None and job.decision.label == "ALLOW"
        ]
        alive = [i for i in alive if not jobs[i].cancelled.is_set()]
        if not alive:
            return
        rows = [self._row(jobs[i]) for i in alive]
        if len(alive) < len(jobs):
            cache, mask_NT, hidden_NH = _keep(cache, mask_NT, hidden_NH, alive)
        logits_NV = lm_head_of(self.speaker.peft)(self.for_head(hidden_NH))
        every = list(rows)
        self._write(rows, cache, mask_NT, logits_NV)
        for row in every:
            if row.constraint is not None and row.constraint.direct:
                row.job.stream.feed(AFTER_DIRECT)
            text = "" if row.job.cancelled.is_set() else row.job.stream.finish()
            if text and row.job.on_text is not None:
                row.job.on_text(text)

    def _row(self, job: Job) -> _Row:
        settings = self.settings
        # Without thinking there is nothing to quote, and only tags to be seen before they leave.
        quote = settings.quote_bytes if self.thinking_tokens or not settings.constrained else 0
        hold = max(112, 2 * quote + 32) if quote else 48
        job.stream = ThinkStream(query=job.query, quote_bytes=quote, hold_letters=hold)
        constraint = (
            TagConstraint(self.vocabulary, self.thinking_tokens, job.max_new_tokens)
            if settings.constrained
            else None
        )
        if constraint is not None and constraint.direct:
            job.stream.feed(BEFORE_DIRECT)
        limit = min(
            self.speaker.positions - len(job.prompt), 96 + 4 * self.thinking_tokens + job.max_new_tokens
        )
        return _Row(job, constraint, limit, self.speaker.device)

    def for_head(self, hidden_NH: Tensor) -> Tensor:
        weight = next(lm_head_of(self.speaker.peft).parameters())
        return hidden_NH.to(weight.dtype)

    def _body(self) -> Any:  # noqa: ANN401
        return self.speaker.peft.get_decoder() if hasattr(self.speaker.peft, "get_decoder") else None

    def _prefill(self, jobs: list[Job]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Left-padded prompts through the body: cache, mask (N, T), last hidden states (N, H)."""
        device = self.speaker.device
        width = max(len(job.prompt) for job in jobs)
        pad = int(self.speaker.tokenizer.pad_token_id or 0)
        ids = [[pad] * (width - len(job.prompt)) + job.prompt for job in jobs]
        mask = [[0] * (width - len(job.prompt)) + [1] * len(job.prompt) for job in jobs]
        cache = DynamicCache()
        mask_NT = torch.tensor(mask, device=device)
        hidden_NH = self.forward(torch.tensor(ids, device=device), mask_NT, cache)
        return cache, mask_NT, hidden_NH

    def forward(self, ids_NT: Tensor, mask_NT: Tensor, cache: DynamicCache) -> Tensor:
        positions_NT = (mask_NT.cumsum(-1) - 1).clamp(min=0)[:, -ids_NT.shape[1] :]
        output = self._body()(
            input_ids=ids_NT,
            attention_mask=mask_NT,
            position_ids=positions_NT,
            use_cache=True,
            **{self._cache_name: cache},
        )
        hidden_NH: Tensor = output.last_hidden_state[:, -1]
        return hidden_NH

    def _read_heads(self, jobs: list[Job], hidden_NH: Tensor) -> None:
        so8t = self.speaker.so8t
        rotations = so8t.current_rotations()
        logits = so8t.heads(hidden_NH, rotations.safe_B88, rotations.total_B88)
        task = logits.task_N4.double().softmax(-1).tolist()
        safety = logits.safety_N2.double().softmax(-1).tolist()
        dual = logits.dual_N22.double().softmax(-1).tolist()
        for job, t, s, d in zip(jobs, task, safety, dual, strict=True):
            job.heads = HeadReading(tuple(t), tuple(s), tuple(tuple(one) for one in d))
            job.decision = decide(job.heads, self.settings)

    def _write(self, rows: list[_Row], cache: DynamicCache, mask_NT: Tensor, logits_NV: Tensor) -> None:
        tokenizer, ends = self.speaker.tokenizer, self.vocabulary.ends
        while rows:
            chunks = [self._next_tokens(row, logits_NV[i]) for i, row in enumerate(rows)]
            length = min((len(chunk) for chunk in chunks if chunk), default=0)
            chunks = [chunk[:length] for chunk in chunks]
            going: list[int] = []
            for i, row in enumerate(rows):
                ended = [row.take(token, tokenizer, ends) for token in chunks[i]]
                if ended and not any(ended):
                    going.append(i)
            if not going:
                return
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                chunks = [chunks[i] for i in going]
                cache, mask_NT, logits_NV = _keep(cache, mask_NT, logits_NV, going)
            ids_NL = torch.tensor(chunks, device=self.speaker.device)
            mask_NT = torch.cat((mask_NT, torch.ones_like(ids_NL)), dim=1)
            hidden_NH = self.forward(ids_NL, mask_NT, cache)
            logits_NV = lm_head_of(self.speaker.peft)(self.for_head(hidden_NH))

    def _next_tokens(self, row: _Row, logits_V: Tensor) -> list[int]:
        """The token that comes next, or all that are certain to; empty at the row's end."""
        first = row.pick(logits_V)
        if first is None:
            return []
        forced = row.constraint.forced if row.constraint is not None else []
        return list(forced) if forced and forced[0] == first else [first]


def _keep(
    cache: DynamicCache, mask_NT: Tensor, rows_NX: Tensor, kept: list[int]
) -> tuple[DynamicCache, Tensor, Tensor]:
    """The rows ``kept`` of everything that grows with the batch."""
    index_N = torch.tensor(kept, device=mask_NT.device)
    cache.batch_select_indices(index_N)
    return cache, mask_NT[index_N], rows_NX[index_N]


def _vocabulary_size(model: Any) -> int:  # noqa: ANN401
    return int(getattr(lm_head_of(model), "out_features", model.config.vocab_size))
