"""Rows to tokens: Phi-3's chat template, labels on the answer alone, and batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from so8t_engine.data.rows import Row
from so8t_engine.errors import DataError
from so8t_engine.i18n import _

if TYPE_CHECKING:
    import torch

IGNORED = -100
END = "<|end|>"
ASSISTANT = "<|assistant|>\n"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row in tokens.

    Args:
        input_ids: prompt (with the chat template), response and ``<|end|>``.
        labels: the same length; -100 on the prompt, the token itself on response and end.
        prompt_end: index of the last prompt token, the end of ``<|assistant|>\\n``. The heads read the
            hidden state there: the decision comes before the answer and cannot see it. For plain text,
            which has no prompt, the last token.
        task: a task number, or None.
        safety: a safety number, or None.
        truncated: whether tokens were cut.
    """

    input_ids: list[int]
    labels: list[int]
    prompt_end: int
    task: int | None
    safety: int | None
    truncated: bool


def _ids(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401  (transformers' tokenizers share no typed base)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def quoted(text: str) -> str:
    """``text`` with the template's own marks broken up, so that a row cannot pose as another speaker."""
    for mark in (END, "<|assistant|>", "<|user|>", "<|system|>", "<|endoftext|>"):
        text = text.replace(mark, f"<| {mark[2:]}")
    return text


def prompt_ids(tokenizer: Any, row: Row) -> list[int]:  # noqa: ANN401
    """The prompt's tokens under the chat template, up to and including ``<|assistant|>\\n``."""
    messages = [{"role": "system", "content": quoted(row.system)}] if row.system else []
    messages.append({"role": "user", "content": quoted(row.prompt)})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return _ids(tokenizer, text)


def _cut_prompt(prompt: list[int], keep_end: int, limit: int) -> list[int]:
    """``prompt`` shortened to ``limit`` tokens from its middle, the last ``keep_end`` always kept."""
    if len(prompt) <= limit:
        return prompt
    head = (limit - keep_end) // 2
    tail = limit - head
    return prompt[:head] + prompt[len(prompt) - tail :]


def encode_row(tokenizer: Any, row: Row, max_length: int) -> Encoded:  # noqa: ANN401
    """``row`` as tokens and labels, at most ``max_length`` of them.

    A row that is too long loses the middle of its prompt first: its beginning (with the system message)
    and its end (with ``<|assistant|>``) stay. Only when the response alone leaves less than a quarter of
    the room to the prompt is the response cut too, at its end; ``<|end|>`` is then left out, because the
    answer does not end there.

    Raises:
        DataError: the tokenizer lacks ``<|end|>``, or ``max_length`` is below 16.
    """
    if max_length < 16:
        raise DataError(
            _("A sequence length of %(length)d tokens is too short for any row.") % {"length": max_length},
            _("Set data.max_length to at least 16."),
        )
    end_id = tokenizer.convert_tokens_to_ids(END)
    if end_id is None or end_id == getattr(tokenizer, "unk_token_id", None):
        raise DataError(
            _("The tokenizer has no token %(token)s.") % {"token": END},
            _("Choose a Phi-3 model, or one with its special tokens."),
        )
    response = _ids(tokenizer, quoted(row.response)) if row.response else []
    ending = [int(end_id)] if response else []
    if not row.prompt and not row.system:
        whole = response + ending
        kept = whole[:max_length]
        # The first token has no context to be predicted from; the shift in the loss passes over it.
        return Encoded(
            kept, list(kept), len(kept) - 1, row.task, row.safety, truncated=len(kept) < len(whole)
        )
    prompt = prompt_ids(tokenizer, row)
    keep_end = min(len(_ids(tokenizer, f"{END}\n{ASSISTANT}")), len(prompt))
    answer = response + ending
    room = max(max_length - len(answer), min(len(prompt), max(max_length // 4, keep_end + 2)))
    cut = _cut_prompt(prompt, keep_end, room)
    answer_kept = answer[: max_length - len(cut)]
    truncated = len(cut) < len(prompt) or len(answer_kept) < len(answer)
    return Encoded(
        input_ids=cut + answer_kept,
        labels=[IGNORED] * len(cut) + answer_kept,
        prompt_end=len(cut) - 1,
        task=row.task,
        safety=row.safety,
        truncated=truncated,
    )


class Collator:
    """Batches of `Encoded` rows as tensors, padded on the right.

    Args:
        pad_token_id: fills the padding; masked in the attention and never a label.
        pad_to_multiple_of: the batch's length is rounded up to it.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int = 8) -> None:
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """int64 tensors: ``input_ids_NT``, ``attention_mask_NT``, ``labels_NT``, ``pool_index_N``, ``task_N``
        and ``safety_N``; -100 stands for "no label".
        """
        import torch

        step = self.pad_to_multiple_of
        width = -(-max(len(row.input_ids) for row in rows) // step) * step

        def padded(values: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([one + [fill] * (width - len(one)) for one in values], dtype=torch.int64)

        def labels(values: list[int | None]) -> torch.Tensor:
            return torch.tensor([IGNORED if one is None else one for one in values], dtype=torch.int64)

        return {
            "input_ids_NT": padded([row.input_ids for row in rows], self.pad_token_id),
            "attention_mask_NT": padded([[1] * len(row.input_ids) for row in rows], 0),
            "labels_NT": padded([row.labels for row in rows], IGNORED),
            "pool_index_N": torch.tensor([row.prompt_end for row in rows], dtype=torch.int64),
            "task_N": labels([row.task for row in rows]),
            "safety_N": labels([row.safety for row in rows]),
        }
