"""This program beside Unsloth and transformers + peft on one card, in alternation, on the same rows.

``PYTHONPATH=. python tests/gpu/peers.py --out FILE [--rounds 2]``: the shape of Phi-3.5-mini, nf4 with double
quantisation, LoRA r 16 on the four fused modules without dropout, batch 1, checkpointing, paged 8-bit AdamW,
rows of full length. Each stack is a process of its own that goes through the lengths, and stacks take turns.
Unsloth loads weights from disk, so a random checkpoint is written first; the others make theirs on the card.
Its process keeps its model from length to length, and each length goes on from the weights of the one before.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STACKS = ("so8t", "unsloth", "plain", "liger")
SHOWN = ("stack", "length", "tokens_per_s", "peak_allocated", "peak_reserved", "device_used", "round")
TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_checkpoint(folder: Path) -> None:
    """A checkpoint in bf16 with random weights, and a tokenizer that only has to load."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from so8t_engine.benchmark.random_base import SHAPES
    from so8t_engine.paths import resources_dir

    folder.mkdir(parents=True, exist_ok=True)
    values = dict(SHAPES["phi35"])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config.architectures, config.dtype = ["Phi3ForCausalLM"], torch.bfloat16
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    generator = torch.Generator("cuda").manual_seed(0)
    tensors, where, shard, size = {}, {}, 1, 0
    for name, parameter in model.named_parameters():
        made = torch.empty(parameter.shape, dtype=torch.bfloat16, device="cuda")
        made.fill_(1.0) if "norm" in name else made.normal_(std=0.02, generator=generator)
        tensors[name], where[name] = made.cpu(), f"model-{shard:05d}.safetensors"
        size += made.nbytes
        if sum(t.nbytes for t in tensors.values()) > 2**31:
            save_file(tensors, folder / f"model-{shard:05d}.safetensors", metadata={"format": "pt"})
            tensors, shard = {}, shard + 1
    save_file(tensors, folder / f"model-{shard:05d}.safetensors", metadata={"format": "pt"})
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(next(resources_dir().rglob("tokenizer.json")).parent)
    tokenizer.save_pretrained(folder)


def unsloth_model(folder: Path, longest: int) -> Any:  # noqa: ANN401
    import torch
    from unsloth import FastLanguageModel

    model, _tokenizer = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=longest, dtype=torch.bfloat16, load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=0.0, bias="none", target_modules=TARGETS,
        use_gradient_checkpointing="unsloth", random_state=42, max_seq_length=longest,
    )  # fmt: skip
    return FastLanguageModel.for_training(model) or model


def at_length(text: str) -> tuple[int, dict[str, Any]]:
    """Settings of this program for one length."""
    length, _is, settings = text.partition("=")
    return int(length), json.loads(settings)


def worker(options: argparse.Namespace) -> int:
    """One stack, length after length. One JSON object a line."""
    if options.worker == "unsloth":
        import unsloth  # noqa: F401  (it patches transformers, so it comes first)
    from so8t_engine.memory.allocator import prefer_expandable_segments

    if options.worker == "so8t":
        prefer_expandable_segments()
    from so8t_engine.benchmark.train import Job, prepare_steps, run_steps

    own = unsloth_model(options.base, max(options.length)) if options.worker == "unsloth" else None
    for length in options.length:
        gc.collect()  # what the length before made
        settings = json.loads(options.settings) | dict(options.at).get(length, {})
        job = Job(
            options.worker, "phi35", "nf4", length, steps=options.steps, warm=options.warm, settings=settings
        )
        say(json.dumps(run_steps(job, prepare_steps(job, own))))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", choices=STACKS)
    parser.add_argument("--write", action="store_true", help="write the checkpoint, and that alone")
    parser.add_argument("--stack", action="append", choices=STACKS)
    parser.add_argument("--length", type=int, action="append")
    parser.add_argument("--settings", default="{}", help="JSON, of this program")
    parser.add_argument("--at", action="append", default=[], type=at_length, metavar="LENGTH=JSON")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "so8t-peers-base")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=4.0, help="of one process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.length = options.length or [512, 1024, 2048, 4096]
    if options.write:
        write_checkpoint(options.base)
        return 0
    if options.worker:
        return worker(options)
    if "unsloth" in (options.stack or STACKS) and not (options.base / "config.json").exists():
        began = time.perf_counter()
        # In a process of its own: this one must not hold a context on the card.
        subprocess.run([sys.executable, __file__, "--write", "--base", str(options.base)], check=True)
        say(f"checkpoint written in {time.perf_counter() - began:.0f} s")
    for turn in range(options.rounds):
        for stack in options.stack or STACKS:
            command = [sys.executable, __file__, "--worker", stack, "--base", str(options.base)]
            command += ["--steps", str(options.steps), "--warm", str(options.warm)]
            command += [part for n in options.length for part in ("--length", str(n))]
            if stack == "so8t":
                command += ["--settings", options.settings]
                command += [p for n, own in options.at for p in ("--at", f"{n}={json.dumps(own)}")]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=60 * options.minutes
                )
                text, said = done.stdout, done.stderr
            except subprocess.TimeoutExpired as late:
                text, said = (late.stdout or b"").decode(), "took too long"
            lines = [line for line in text.splitlines() if line.startswith('{"stack"')]
            for line in lines:
                one = json.loads(line) | {"round": turn}
                short = {key: one[key] for key in SHOWN}
                say(f"{json.dumps(short)} last loss {one['losses'][-1]:.5f}")
                if options.out:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(one) + "\n")
            if len(lines) < len(options.length):
                say(f"{stack} broke off: {said[-2500:]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
