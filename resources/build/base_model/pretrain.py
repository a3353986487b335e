"""Pretrain the embedded base model: ``python pretrain.py CARRY TOKENIZER OUT --compiled --threads 1``.

``CARRY`` is the packed corpus written by ``tokenizer.py``, ``TOKENIZER`` the folder with the tokenizer,
``OUT`` receives the model in bfloat16, ``training.json`` and the model card.  The defaults suit a
processor; the shipped model was made on a graphics card with what its card says.  With ``--start FOLDER``
the run goes on from a model that this script wrote.  ``--steps 3 --batch 1`` shows that everything works.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from model_card import write_card
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, Phi3Config, Phi3ForCausalLM

log = logging.getLogger("pretrain")


@dataclass(frozen=True)
class Plan:
    """How the run is done; ``steps`` 0 means as many as fit ``minutes`` and ``max_epochs``.

    ``start`` is a folder to go on from.
    ``hidden`` is a multiple of 64: heads have 64 dimensions, and nf4 quantises blocks of 64 values.
    """

    seed: int = 8
    batch: int = 16
    sequence: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    warmup: int = 100
    minutes: float = 45.0
    max_epochs: float = 1.0
    steps: int = 0
    start: str = ""
    hidden: int = 192
    intermediate: int = 512
    layers: int = 4
    threads: int = 0
    compiled: bool = False


def phi3_config(plan: Plan, vocabulary: int, end_of_text: int) -> Phi3Config:
    """Phi-3's architecture in small: fused projections, an untied head; 3.3 M parameters by default."""
    return Phi3Config(
        vocab_size=vocabulary,
        hidden_size=plan.hidden,
        intermediate_size=plan.intermediate,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.hidden // 64,
        num_key_value_heads=plan.hidden // 64,
        max_position_embeddings=1024,
        original_max_position_embeddings=1024,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        tie_word_embeddings=False,
    )


def learning_rate(plan: Plan, step: int, done: float) -> float:
    """Linear warm-up over ``plan.warmup`` steps times a cosine to zero over ``done`` in [0, 1]."""
    warm = min(1.0, (step + 1) / plan.warmup)
    return plan.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Batches:
    """Windows of ``sequence + 1`` tokens in random order; each epoch cuts the stream at another offset."""

    def __init__(self, tokens_T: torch.Tensor, plan: Plan, device: torch.device) -> None:
        self.tokens_T = tokens_T.to(device)
        self.plan = plan
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._starts = torch.empty(0, dtype=torch.long)
        self._window = torch.arange(plan.sequence + 1, device=device)

    def next(self) -> torch.Tensor:
        """A batch of tokens, shape (batch, sequence + 1)."""
        plan = self.plan
        if len(self._starts) < plan.batch:
            offset = int(torch.randint(plan.sequence, (1,), generator=self._generator))
            count = (len(self.tokens_T) - 1 - offset) // plan.sequence
            self._starts = offset + plan.sequence * torch.randperm(count, generator=self._generator)
        chosen, self._starts = self._starts[: plan.batch], self._starts[plan.batch :]
        return self.tokens_T[chosen.to(self._window.device)[:, None] + self._window].long()


def loss_sum(model: Callable[..., Any], tokens_NT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, summed over all predicted tokens."""
    logits = model(input_ids=tokens_NT[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens_NT[:, 1:].flatten(), reduction="sum")


@torch.no_grad()
def evaluate(model: Phi3ForCausalLM, tokens_T: torch.Tensor, sequence: int) -> float:
    """Mean nats a token over a stream, in windows of ``sequence``; every token but the first is predicted."""
    total, count = 0.0, 0
    for start in range(0, len(tokens_T) - 1, sequence * 32):
        block = tokens_T[start : start + sequence * 32 + 1].long()
        whole = (len(block) - 1) // sequence * sequence
        pieces = [block[: whole + 1].unfold(0, sequence + 1, sequence)] if whole else []
        pieces += [block[whole:].unsqueeze(0)] if len(block) - whole > 1 else []
        for piece in pieces:
            total += float(loss_sum(model, piece))
            count += piece.shape[0] * (piece.shape[1] - 1)
    return total / count


def unigram_nats(train_T: np.ndarray, held_T: np.ndarray, vocabulary: int) -> float:
    """Mean nats a token of the training tokens' add-one unigram distribution: the reference to beat."""
    counts = np.bincount(train_T, minlength=vocabulary) + 1.0
    return float(-np.log(counts / counts.sum())[held_T[1:]].mean())


def train(
    model: Phi3ForCausalLM, batches: Batches, held: dict[str, torch.Tensor], plan: Plan
) -> dict[str, object]:
    """Run the pretraining; returns what the model card reports about it."""
    device = batches.tokens_T.device
    forward = torch.compile(model) if plan.compiled else model
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=plan.learning_rate, betas=plan.betas, fused=device.type == "cuda",
    )  # fmt: skip
    per_step = plan.batch * plan.sequence
    total = plan.steps or max(1, int(plan.max_epochs * len(batches.tokens_T) / per_step))
    history: list[dict[str, object]] = []
    begun = time.perf_counter()
    step = since = 0
    done = reported = 0.0
    running = torch.zeros((), device=device)
    while done < 1.0:
        rate = learning_rate(plan, step, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_sum(forward, batches.next()) / per_step
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running += loss.detach()
        step, since = step + 1, since + 1
        elapsed = time.perf_counter() - begun
        # The share of the run that is done: of the steps, or of the time where only that is given.
        done = max(step / total, 0.0 if plan.steps else elapsed / (60 * plan.minutes))
        if done >= min(1.0, reported + 0.1) and (since >= 10 or done >= 1.0):
            reported = done
            nats = {key: evaluate(model, tokens, plan.sequence) for key, tokens in held.items()}
            history.append({"step": step, "train": float(running) / since, "held_out": nats})
            log.info(
                "%.0f s, step %d (%.1f %%), %.3f M tokens/s, lr %.2e, train %.4f, held-out %s",
                elapsed, step, 100 * done, step * per_step / elapsed / 1e6, rate, float(running) / since,
                {key: round(value, 4) for key, value in nats.items()},
            )  # fmt: skip
            running.zero_()
            since = 0
    seconds = time.perf_counter() - begun
    return {
        "plan": asdict(plan),
        "steps": step,
        "train_tokens": len(batches.tokens_T),
        "seen_tokens": step * per_step,
        "epochs": step * per_step / len(batches.tokens_T),
        "seconds": seconds,
        "history": history,
    }


def of_both_stages(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The report of a model made in two runs: the first run's, the finished model's held-out figures.

    The unigram reference stays that of the corpus, not of the second stage's conversations.
    """
    held_out = {
        key: values | {"unigram_perplexity": first["held_out"][key]["unigram_perplexity"]}
        for key, values in second["held_out"].items()
    }
    kept = ("plan", "steps", "seen_tokens", "train_tokens", "seconds", "hardware", "versions", "selection")
    return first | {"held_out": held_out, "second_stage": {key: second[key] for key in kept if key in second}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("carry", "tokenizer", "out"):
        parser.add_argument(name, type=Path)
    for field in fields(Plan):
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(option, action="store_true")
        elif isinstance(field.default, int | float | str):
            parser.add_argument(option, type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = {f.name: getattr(arguments, f.name) for f in fields(Plan) if hasattr(arguments, f.name)}
    plan = Plan(**given)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(plan.seed)
    if plan.threads:
        torch.set_num_threads(plan.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    config = phi3_config(plan, len(tokenizer), tokenizer.eos_token_id)
    if plan.start:
        model = Phi3ForCausalLM.from_pretrained(plan.start, dtype=torch.float32).to(device)
    else:
        model = Phi3ForCausalLM(config).to(device)
    carry: Path = arguments.carry
    stream_T = np.load(carry / "train.npy")
    sizes: dict[str, int] = json.loads((carry / "held_out_bytes.json").read_text())
    streams = {key: np.load(carry / f"held_out {key}.npy") for key in sizes}
    short = 6_144 if device.type == "cpu" else 120_000  # what is watched during training
    held = {key: torch.from_numpy(s[:short].astype(np.int32)).to(device) for key, s in streams.items()}
    report = train(model, Batches(torch.from_numpy(stream_T.astype(np.int32)), plan, device), held, plan)

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids("<|end|>"), tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    # The figures are those of the written file, not of the float32 weights in memory.
    written = Phi3ForCausalLM.from_pretrained(out, dtype=torch.bfloat16).to(device).eval()
    if device.type == "cpu":
        written.float()  # many processors have no fast bfloat16
    final: dict[str, dict[str, float]] = {}
    for key, stream in streams.items():
        nats = evaluate(
            written,
            torch.from_numpy(stream.astype(np.int32)).to(device),
            plan.sequence,
        )
        final[key] = {
            "tokens": len(stream), "bytes": sizes[key], "perplexity": math.exp(nats),
            "bits_per_byte": nats / math.log(2) * len(stream) / sizes[key],
            "unigram_perplexity": math.exp(unigram_nats(stream_T, stream, len(tokenizer))),
        }  # fmt: skip
        log.info("%s: %s", key, final[key])
    cpu = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    report |= {
        "held_out": final,
        "parameters": sum(p.numel() for p in written.parameters()),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else cpu,
        "versions": {
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "corpus": json.loads((carry / "corpus.json").read_text(encoding="utf-8")),
    }  # fmt: skip
    if (carry / "selection.json").exists():
        report["selection"] = json.loads((carry / "selection.json").read_text())
    if plan.start:
        first = json.loads((Path(plan.start) / "training.json").read_text(encoding="utf-8"))
        report = of_both_stages(first, report)
    (out / "training.json").write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    write_card(out)


if __name__ == "__main__":
    main()
