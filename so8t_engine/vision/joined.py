"""Pictures and text as one sequence of embeddings, and the loss of a caption behind them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.data.tokenize import END, IGNORED, _ids, quoted
from so8t_engine.errors import DataError
from so8t_engine.evaluation.outputs import TunedModel
from so8t_engine.i18n import _
from so8t_engine.so8t.attach import lm_head_of

#: Stands in the chat template where the patches come. No text can hold it: it is replaced before encoding.
MARK = "\ue000image\ue000"
QUESTIONS = {"en": "What is in the picture?", "ja": "この画像には何がありますか。"}
#: The largest picture that is opened, in pixels: a small file can unpack to gigabytes.
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Pair:
    """A picture, its caption and the language of both question and caption."""

    image: Any
    caption: str
    language: str


@dataclass(frozen=True)
class Sample:
    """Token ids around a picture: template before it, question and template after it, the answer."""

    before: list[int]
    after: list[int]
    answer: list[int]


def read_pairs(file: Path, split: str, limit: int | None = None) -> list[Pair]:
    """Rows of a Parquet file: ``image`` (bytes), ``caption``; where they are, ``language`` and ``split``.

    Raises:
        DataError: a column is missing or a picture cannot be opened; names file and row.
    """
    import pyarrow.parquet as pq

    pairs: list[Pair] = []
    for number, row in enumerate(_rows(pq.ParquetFile(file), file), start=1):
        if row.get("split", split) != split or not row["caption"] or not row["image"]:
            continue
        data = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        pairs.append(
            Pair(open_image(data, f"{file}, row {number}"), row["caption"], row.get("language") or "en")
        )
        if limit is not None and len(pairs) >= limit:
            break
    return pairs


def _rows(opened: Any, file: Path) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    names = [n for n in ("image", "caption", "language", "split") if n in opened.schema_arrow.names]
    if not {"image", "caption"} <= set(names):
        raise DataError(
            _("%(path)s has no columns image and caption.") % {"path": str(file)},
            _("Give a Parquet file of pictures and captions."),
        )
    for batch in opened.iter_batches(batch_size=64, columns=names):
        yield from batch.to_pylist()


def open_image(data: bytes, where: str) -> Any:  # noqa: ANN401
    """A decoded picture in RGB. Raises `DataError` where it is none or too large."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise DataError(_("%(where)s: the picture is too large.") % {"where": where})
            return opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            _("%(where)s: the picture cannot be read.") % {"where": where}, _("Remove the row.")
        ) from error


def encode_pair(tokenizer: Any, pair: Pair, limit: int = 128) -> Sample:  # noqa: ANN401
    """The ids around a picture; the caption is cut at ``limit`` tokens and then has no end token."""
    question = QUESTIONS.get(pair.language, QUESTIONS["en"])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{MARK}\n{question}"}], tokenize=False, add_generation_prompt=True
    )
    before, _mark, after = text.partition(MARK)
    caption = _ids(tokenizer, quoted(pair.caption))
    ending = [int(tokenizer.convert_tokens_to_ids(END))] if len(caption) <= limit else []
    return Sample(_ids(tokenizer, before), _ids(tokenizer, after), caption[:limit] + ending)


@dataclass(frozen=True)
class JoinedBatch:
    """Embeddings (N, T, H), mask and labels (N, T); padding on the right."""

    embeds_NTH: Tensor  # noqa: N815
    mask_NT: Tensor  # noqa: N815
    labels_NT: Tensor  # noqa: N815


def join(embedding: nn.Module, samples: Sequence[Sample], patches_NPH: Tensor) -> JoinedBatch:
    """Each picture's projected patches between the text before and after it."""
    device = patches_NPH.device
    weight = next(embedding.parameters())
    rows, labels = [], []
    for sample, patches_PH in zip(samples, patches_NPH, strict=True):
        ids = torch.tensor(sample.before + sample.after + sample.answer, device=device)
        text_tH = embedding(ids)
        cut = len(sample.before)
        rows.append(torch.cat((text_tH[:cut], patches_PH.to(weight.dtype), text_tH[cut:])))
        silent = cut + len(patches_PH) + len(sample.after)
        labels.append(torch.tensor([IGNORED] * silent + sample.answer, device=device))
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask_NT = torch.arange(int(lengths.max()), device=device)[None] < lengths[:, None]
    return JoinedBatch(
        nn.utils.rnn.pad_sequence(rows, batch_first=True),
        mask_NT.long(),
        nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )


def caption_losses(tuned: TunedModel, batch: JoinedBatch) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and number of caption tokens of each row, (N,) and (N,).

    The gate acts on the joined sequence: on the patches as on the text. Gates inside layers must be
    attached by the caller.
    """
    model, so8t = tuned.causal_lm, tuned.so8t
    head = lm_head_of(model)
    hidden_NTH = model.model(
        inputs_embeds=batch.embeds_NTH, attention_mask=batch.mask_NT, use_cache=False
    ).last_hidden_state
    if tuned.placement.final:
        hidden_NTH = so8t.gated(hidden_NTH)
    next_NT = batch.labels_NT[:, 1:]
    labelled_NT = next_NT != IGNORED
    logits_tV = head(hidden_NTH[:, :-1][labelled_NT].to(next(head.parameters()).dtype)).float()
    losses_t = nn.functional.cross_entropy(logits_tV, next_NT[labelled_NT], reduction="none")
    sums_N = torch.zeros(len(next_NT), device=losses_t.device)
    return sums_N.index_add(0, labelled_NT.nonzero()[:, 0], losses_t), labelled_NT.sum(1)


def batches(count: int, size: int) -> Iterable[range]:
    """Consecutive row numbers, at most ``size`` at a time."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))
