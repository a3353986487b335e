"""Evaluating a model on held-out rows: language-model loss, heads, confusion."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from so8t_engine.data.tokenize import Collator, Encoded
from so8t_engine.evaluation.metrics import accuracy, confusion_matrix, danger_to_allow_rate, macro_f1
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.so8t.adapter import AdapterOutput
from so8t_engine.so8t.losses import IGNORE


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results on ``rows`` rows; a metric whose labels are missing is left out.

    Attributes:
        loss: mean cross-entropy per response token in nats; None without response tokens.
        metrics: ``task_accuracy``, ``task_macro_f1``, ``safety_accuracy``, ``danger_to_allow``, and the
            number of rows behind each.
        confusion: 4×4 counts of the task head, rows true; None without task labels.
    """

    rows: int
    loss: float | None
    metrics: dict[str, float]
    confusion: list[list[int]] | None
    seconds: float


@torch.no_grad()
def evaluate(
    model: SO8TModel,
    rows: Sequence[Encoded],
    collate: Collator,
    max_tokens: int,
    *,
    autocast_dtype: torch.dtype | None = None,
    proceed: Callable[[int], bool] = lambda done: True,
    see: Callable[[Sequence[int], AdapterOutput], None] = lambda rows, out: None,
) -> Evaluation | None:
    """Run the model over ``rows`` in evaluation mode; draws no random numbers.

    Args:
        max_tokens: of a batch, padding included; a longer row forms a batch alone.
        autocast_dtype: bf16 or fp16 on a card, None computes in the weights' own type.
        proceed: called with the number of rows done; False abandons the evaluation.
        see: called with the places of a batch's rows in ``rows``, and what came of them.

    Returns:
        The results, or None when abandoned.
    """
    began = time.perf_counter()
    was_training = model.training
    model.eval()
    device = model.so8t.theta_safe.device
    # Rows of like length together: the result does not depend on the order, the time does.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].input_ids))
    batches = _by_tokens(order, [len(row.input_ids) for row in rows], max_tokens)
    loader: DataLoader[Encoded] = DataLoader(list(rows), batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]
    loss_sum, tokens, done = 0.0, 0, 0
    found: dict[str, list[int]] = {"task": [], "task_p": [], "safety": [], "safety_p": [], "s_task_p": []}
    try:
        with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
            for indices, cpu_batch in zip(batches, loader, strict=True):
                batch = {name: value.to(device) for name, value in cpu_batch.items()}
                _hidden, out = model.adapt(batch)
                lm_sum, count = model.lm_loss(out.hidden_NTH, batch["labels_NT"])
                loss_sum += float(lm_sum)
                tokens += int(count)
                _collect(
                    found,
                    cpu_batch["task_N"].tolist(),
                    cpu_batch["safety_N"].tolist(),
                    out.task_logits_N4.argmax(-1).tolist(),
                    out.safety_logits_N2.argmax(-1).tolist(),
                )
                see(indices, out)
                done += len(cpu_batch["task_N"])
                if not proceed(done):
                    return None
    finally:
        model.train(was_training)
    confusion = confusion_matrix(found["task"], found["task_p"]) if found["task"] else None
    metrics: dict[str, float] = {}
    if confusion is not None:
        metrics["task_accuracy"] = accuracy(found["task"], found["task_p"])
        metrics["task_macro_f1"] = macro_f1(confusion)
        metrics["task_rows"] = float(len(found["task"]))
    if found["safety"]:
        metrics["safety_accuracy"] = accuracy(found["safety"], found["safety_p"])
        metrics["safety_rows"] = float(len(found["safety"]))
        if any(found["safety"]):
            metrics["danger_to_allow"] = danger_to_allow_rate(found["safety"], found["s_task_p"])
    return Evaluation(
        rows=len(rows),
        loss=loss_sum / tokens if tokens else None,
        metrics=metrics,
        confusion=confusion,
        seconds=time.perf_counter() - began,
    )


def _by_tokens(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Consecutive rows of ``order``, ascending in length, so that rows × longest ≤ ``max_tokens``."""
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[row] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _collect(
    found: dict[str, list[int]], task: list[int], safety: list[int], task_p: list[int], safety_p: list[int]
) -> None:
    for true, guess in zip(task, task_p, strict=True):
        if true != IGNORE:
            found["task"].append(true)
            found["task_p"].append(guess)
    for true, guess, task_guess in zip(safety, safety_p, task_p, strict=True):
        if true != IGNORE:
            found["safety"].append(true)
            found["safety_p"].append(guess)
            found["s_task_p"].append(task_guess)
