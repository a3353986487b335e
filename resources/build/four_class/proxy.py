"""Measures whether a small transformer learns the rows: ``python proxy.py [--model DIR] [--lora] …``.

Without ``--model`` a Phi-3 of 4 layers and hidden size 256 starts from random weights, with a byte-level
BPE of the rows' own text: a lower bound. The class is read by linear heads from the last hidden state of
the prompt, before any token of the answer. This is a check on the data, not the program's trainer.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config, Phi3ForCausalLM

DATA = Path(__file__).resolve().parents[2] / "data" / "four_class"
TASKS = ("ALLOW", "ESCALATION", "DENY", "REFUSE")
Encoded = tuple[list[int], int, int, int]
Record = dict[str, Any]


def load(data: Path, name: str) -> list[Record]:
    with (data / f"{name}.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def chat(record: Record) -> tuple[str, str]:
    return f"<|user|>\n{record['prompt']}<|end|>\n<|assistant|>\n", f"{record['response']}<|end|>"


def fresh_tokenizer(rows: list[Record]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator((r["prompt"] + "\n" + r["response"] for r in rows), trainer)
    return tokenizer


class Classifier(nn.Module):
    """A causal LM with two linear heads on the prompt's last hidden state."""

    def __init__(self, lm: nn.Module, hidden: int) -> None:
        super().__init__()
        self.lm = lm
        self.task, self.safety = nn.Linear(hidden, 4), nn.Linear(hidden, 2)
        for head in (self.task, self.safety):  # the LM's hidden states are normalised to unit scale
            nn.init.normal_(head.weight, std=0.02)

    def forward(
        self, ids_NT: torch.Tensor, mask_NT: torch.Tensor, end_N: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        out = self.lm(input_ids=ids_NT, attention_mask=mask_NT, output_hidden_states=True)
        pooled_NH = out.hidden_states[-1][torch.arange(len(end_N)), end_N].float()
        return out.logits, self.task(pooled_NH), self.safety(pooled_NH)


def collate(rows: list[Encoded]) -> tuple[torch.Tensor, ...]:
    width = max(len(row[0]) for row in rows)
    ids_NT = torch.zeros(len(rows), width, dtype=torch.long)
    mask_NT = torch.zeros(len(rows), width, dtype=torch.long)
    for n, row in enumerate(rows):
        ids_NT[n, : len(row[0])] = torch.tensor(row[0])
        mask_NT[n, : len(row[0])] = 1
    end_N, task_N, safety_N = (torch.tensor([row[k] for row in rows]) for k in (1, 2, 3))
    return ids_NT, mask_NT, end_N, task_N, safety_N


@torch.no_grad()
def evaluate(model: Classifier, rows: list[Encoded], records: list[Record]) -> dict[str, float]:
    model.eval()
    hits: defaultdict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(rows), 64):
        ids_NT, mask_NT, end_N, task_N, safety_N = collate(rows[start : start + 64])
        _logits, task_N4, safety_N2 = model(ids_NT, mask_NT, end_N)
        right = (task_N4.argmax(-1) == task_N).tolist()
        safe = (safety_N2.argmax(-1) == safety_N).tolist()
        for record, hit, safe_hit in zip(records[start : start + 64], right, safe, strict=True):
            for key in (
                "task",
                record["language"],
                f"{record['language']}/{record['family']}",
                record["task"],
            ):
                hits[key].append(hit)
            hits["safety"].append(safe_hit)
    model.train()
    return {key: round(sum(values) / len(values), 3) for key, values in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path)
    parser.add_argument(
        "--lora", action="store_true", help="freeze the model, train LoRA of rank 16 and heads"
    )
    parser.add_argument("--rows", type=int, default=0, help="train on this many rows only")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lm-weight", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=256, help="without --model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    splits = {name: load(args.data, name) for name in ("train", "validation", "test")}
    rng = random.Random(args.seed)
    train = splits["train"]
    if args.rows:
        train = rng.sample(train, args.rows)
    lm: Any
    if args.model:
        fast = AutoTokenizer.from_pretrained(args.model)
        lm = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)

        def encode(text: str) -> list[int]:
            return list(fast(text, add_special_tokens=False)["input_ids"])
    else:
        tokenizer = fresh_tokenizer(splits["train"])
        config = Phi3Config(
            vocab_size=2048, hidden_size=args.hidden, intermediate_size=3 * args.hidden, num_hidden_layers=4,
            num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512,
            tie_word_embeddings=True, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        lm = Phi3ForCausalLM(config)

        def encode(text: str) -> list[int]:
            return list(tokenizer.encode(text).ids)

    def rows_of(records: list[Record]) -> list[Encoded]:
        out: list[Encoded] = []
        for record in records:
            prompt, answer = (encode(text) for text in chat(record))
            out.append(
                (
                    prompt + answer,
                    len(prompt) - 1,
                    TASKS.index(record["task"]),
                    int(record["safety"] != "safe"),
                )
            )
        return out

    hidden = int(lm.config.hidden_size)
    if args.lora:
        from peft import LoraConfig, get_peft_model

        targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
        lm = get_peft_model(lm, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets))
    model = Classifier(lm, hidden)
    parameters = [p for p in model.parameters() if p.requires_grad]
    data, held = rows_of(train), {name: rows_of(splits[name]) for name in ("validation", "test")}
    parameters_count = sum(p.numel() for p in parameters)
    sys.stdout.write(
        f"{len(data)} rows, {sum(len(r[0]) for r in data) / len(data):.0f} tokens a row, "
        f"{parameters_count} trained parameters\n"
    )
    steps = args.epochs * -(-len(data) // args.batch)
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, steps, pct_start=0.1)
    began, cross = time.monotonic(), nn.functional.cross_entropy
    for epoch in range(args.epochs):
        rng.shuffle(data)
        sums = [0.0, 0.0]
        pool = [sorted(data[i : i + 512], key=lambda r: len(r[0])) for i in range(0, len(data), 512)]
        batches = [part[i : i + args.batch] for part in pool for i in range(0, len(part), args.batch)]
        rng.shuffle(batches)
        for batch in batches:
            ids_NT, mask_NT, end_N, task_N, safety_N = collate(batch)
            logits_NTV, task_N4, safety_N2 = model(ids_NT, mask_NT, end_N)
            answer_NT = (torch.arange(ids_NT.shape[1]) > end_N[:, None]) & (mask_NT == 1)
            target_NT = ids_NT.masked_fill(~answer_NT, -100)
            lm_loss = cross(logits_NTV[:, :-1].flatten(0, 1), target_NT[:, 1:].flatten())
            task_loss = cross(task_N4, task_N)
            (args.lm_weight * lm_loss + task_loss + cross(safety_N2, safety_N)).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            sums[0] += float(lm_loss.detach())
            sums[1] += float(task_loss.detach())
        scores = evaluate(model, held["validation"], splits["validation"])
        sys.stdout.write(
            f"epoch {epoch + 1}: lm {sums[0] / len(batches):.3f} task {sums[1] / len(batches):.3f} "
            f"validation {scores['task']} safety {scores['safety']} en {scores['en']} ja {scores['ja']} "
            f"after {time.monotonic() - began:.0f} s\n"
        )
        sys.stdout.flush()
    report: dict[str, Any] = {
        name: evaluate(model, held[name], splits[name]) for name in ("validation", "test")
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if args.report:
        what = (
            f"{args.model.name} with LoRA of rank 16" if args.model and args.lora else str(args.model or "")
        )
        report["what"] = (
            f"{what or 'A Phi-3 from random weights'}: {parameters_count} trained parameters, "
            f"{len(data)} rows, {args.epochs} epochs, batches of {args.batch}, "
            f"learning rate {args.lr:g}, seed {args.seed} "
            f"(`proxy.py`, {time.monotonic() - began:.0f} s on {args.threads} thread)."
        )
        args.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
