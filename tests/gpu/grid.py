"""Predicted against measured memory over a grid of configurations, on an NVIDIA card.

``python tests/gpu/grid.py run --minutes 8 --jobs 4`` measures what is not yet in ``grid_results.jsonl``
(repeat it until all is done), each configuration in a process of its own by the engine's own probe, with
random weights in the shapes of published models. ``python tests/gpu/grid.py report`` compares with the
estimate as it is now: half of the configurations (by a hash of their name) may be used to calibrate the
constants, the other half is held out.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from so8t_engine.config import Config
from so8t_engine.memory.budget import estimate
from so8t_engine.memory.fit import with_changes
from so8t_engine.paths import resources_dir

RESULTS = Path(__file__).with_name("grid_results.jsonl")
Settings = dict[str, Any]

#: Shapes from the models' config.json on the Hub; the weights are random.
SHAPES: dict[str, Settings] = {
    "phi35": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 131072,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    },
    "llama32_1b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "qwen25_15b": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
}  # fmt: skip


def grid() -> dict[str, Settings]:
    """Name → settings that differ from the preset for 8 GB; ``shape`` is taken out before use."""
    found: dict[str, Settings] = {}

    def add(shape: str, kind: str, length: int, **more: Any) -> None:  # noqa: ANN401
        settings = {"shape": shape, "model.quantization": kind, "data.max_length": length} | more
        name = "-".join([shape, kind, str(length), *(f"{k.rpartition('.')[2]}={v}" for k, v in more.items())])
        found[name] = settings

    for kind, length in itertools.product(("nf4", "int8"), (256, 512, 1024, 2048, 4096, 8192)):
        add("phi35", kind, length)
    for length, batch in itertools.product((256, 512, 1024, 2048), (2, 4, 8)):
        add("phi35", "nf4", length, **{"training.batch_size": batch})
    for rank, kind in itertools.product((4, 64, 128), ("nf4", "int8")):
        add("phi35", kind, 1024, **{"lora.r": rank})
    for length in (256, 512, 1024, 2048):
        add("phi35", "nf4", length, **{"training.gradient_checkpointing": False})
    for optimizer, length in itertools.product(("adamw_8bit", "adamw"), (512, 2048)):
        add("phi35", "nf4", length, **{"training.optimizer": optimizer})
    for chunk, length in itertools.product((64, 1024, 65536), (2048, 8192)):
        add("phi35", "nf4", length, **{"memory.loss_chunk": chunk})
    for layers in ([0], [8, 16, 24], list(range(32))):
        add("phi35", "nf4", 2048, **{"so8t.gate_layers": layers})
    for shape, kind, length in itertools.product(
        ("llama32_1b", "qwen25_15b"), ("nf4", "int8"), (512, 2048, 8192)
    ):
        add(shape, kind, length)
    for shape, batch in itertools.product(("llama32_1b", "qwen25_15b"), (2, 8)):
        add(shape, "nf4", 1024, **{"training.batch_size": batch})
    return found


def held_out(name: str) -> bool:
    """Half of the grid is never used to choose a constant."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def make_model(shape: str, folder: Path) -> None:
    """Random bf16 weights of a shape, with the embedded tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if (folder / "config.json").exists():
        return
    values = dict(SHAPES[shape])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(resources_dir() / "base_model" / name, partial / name)
    partial.rename(folder)


def write_rows(folder: Path, length: int) -> Path:
    """Rows that fill the sequence length: each answer is longer than the limit."""
    folder.mkdir(parents=True, exist_ok=True)
    source = resources_dir() / "data" / "four_class" / "train.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    for name, count in (("train", 80), ("validation", 4)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                words = " ".join(rows[(index * 7 + k) % len(rows)]["prompt"] for k in range(length // 8 + 8))
                file.write(json.dumps(rows[index] | {"response": words}, ensure_ascii=False) + "\n")
    return folder


def configuration(settings: Settings, cache: Path) -> Config:
    """The run's configuration on this machine."""
    changes = {key: value for key, value in settings.items() if key != "shape"}
    rows = cache / f"rows-{settings['data.max_length']}"
    places = {
        "model.path": str(cache / settings["shape"]), "model.device": "cuda", "data.train": str(rows),
        "memory.limit_gib": 100.0, "memory.cap_allocator": False, "training.accumulation": 1,
    }  # fmt: skip
    return with_changes(Config(), places | changes)


def measure_one(name: str, cache: Path) -> None:
    """Probe one configuration in this process; prints one JSON object."""
    from dataclasses import asdict

    import torch
    import transformers

    from so8t_engine.memory.probe import probe

    config = configuration(grid()[name], cache)
    predicted = estimate(config)
    result = probe(config)
    record = {
        "name": name, "settings": grid()[name], "phases": {k: asdict(v) for k, v in result.phases.items()},
        "context": result.context, "step_s": result.step_s, "predicted": predicted.to_json(),
        "card": result.device, "torch": torch.__version__, "transformers": transformers.__version__,
        "date": result.measured_at,
    }  # fmt: skip
    sys.stdout.write(json.dumps(record) + "\n")


def done(results: Path) -> dict[str, Settings]:
    """What is measured already."""
    if not results.exists():
        return {}
    records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {record["name"]: record for record in records}


def run(arguments: argparse.Namespace) -> None:
    """Measure what is missing, until it is done or the time is up."""
    cache: Path = arguments.cache
    begun = time.monotonic()
    missing = [name for name in grid() if name not in done(arguments.results)]
    for shape in dict.fromkeys(grid()[name]["shape"] for name in missing):
        make_model(shape, cache / shape)
    for length in {grid()[name]["data.max_length"] for name in missing}:
        write_rows(cache / f"rows-{length}", length)

    def one(name: str) -> None:
        if time.monotonic() - begun > 60 * arguments.minutes:
            return
        with tempfile.TemporaryDirectory() as own:
            command = [sys.executable, __file__, "one", name, "--cache", str(cache)]
            ended = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | {"XDG_CACHE_HOME": own}
            )
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        if ended.returncode == 0 and lines:
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write(lines[-1] + "\n")
        else:
            sys.stderr.write(f"{name}: {ended.stderr.strip()[-400:]}\n")

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one, missing))
    sys.stdout.write(f"{len(done(arguments.results))} of {len(grid())} measured\n")


def report(arguments: argparse.Namespace) -> None:
    """Errors of the present estimate: peak reserved against the largest phase's."""
    cache: Path = arguments.cache
    rows = []
    for name, record in done(arguments.results).items():
        folder = cache / record["settings"]["shape"]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").exists():
            (folder / "config.json").write_text(json.dumps(SHAPES[record["settings"]["shape"]]))
        predicted = estimate(configuration(record["settings"], cache))
        measured = max(phase["reserved"] for phase in record["phases"].values())
        rows.append((name, predicted.peak_reserved_bytes, measured, held_out(name)))
    sys.stdout.write(
        "| configuration | predicted GB | measured GB | error | held out |\n|---|---|---|---|---|\n"
    )
    for name, predicted_bytes, measured, out in sorted(rows, key=lambda row: row[2]):
        error = predicted_bytes / measured - 1
        sys.stdout.write(
            f"| {name} | {predicted_bytes / 1e9:.3f} | {measured / 1e9:.3f} | {error:+.1%} "
            f"| {'yes' if out else ''} |\n"
        )
    for title, wanted in (("calibration", False), ("held out", True)):
        errors = [p / m - 1 for _name, p, m, out in rows if out == wanted]
        if errors:
            mean = sum(map(abs, errors)) / len(errors)
            sys.stdout.write(
                f"{title}: {len(errors)}, MAPE {mean:.2%}, worst {max(errors, key=abs):+.2%}, "
                f"largest underestimate {min(errors):+.2%}\n"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("run", "one", "report", "list"))
    parser.add_argument("name", nargs="?")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "so8t-grid")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--jobs", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.action == "list":
        sys.stdout.write("\n".join(grid()) + f"\n{len(grid())} configurations\n")
    elif arguments.action == "one":
        measure_one(arguments.name, arguments.cache)
    else:
        {"run": run, "report": report}[arguments.action](arguments)


if __name__ == "__main__":
    main()
