"""transformers' TrainingArguments for a run of ours: theirs is the loop, ours whatever it would write."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.utils import logging as their_logging

from so8t_engine.config import Config
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training.shares import RankBatches


def training_arguments(
    config: Config, model: SO8TModel, scratch: Path, shares: RankBatches | None = None
) -> TrainingArguments:
    training = config.training
    device = model.so8t.theta_safe.device
    compute = model.causal_lm.lm_head.weight.dtype
    # It warns of a process group that it did not make: what goes between processes is in `world`.
    level = their_logging.get_verbosity()
    their_logging.set_verbosity_error()
    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation if shares is None else shares.passes,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        max_grad_norm=training.max_grad_norm,
        bf16=device.type == "cuda" and compute == torch.bfloat16,
        fp16=device.type == "cuda" and compute == torch.float16,
        use_cpu=device.type == "cpu",
        seed=training.seed,
        data_seed=training.seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels_NT"],
        dataloader_pin_memory=device.type == "cuda",
    )
    their_logging.set_verbosity(level)
    if device.type == "cuda":
        arguments._n_gpu = 1  # further cards belong to other processes, not to a DataParallel
    return arguments
