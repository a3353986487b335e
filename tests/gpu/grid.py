"""Predicted against measured memory over a grid of configurations, on an NVIDIA card.

``PYTHONPATH=. python tests/gpu/grid.py run --minutes 8`` measures what is not yet in ``grid_results.jsonl``
(repeat it until all is done): one process, the frozen base with random weights made on the card and shared
by the configurations of its shape and quantisation, each run by the engine's own trainer. Configurations
near the cap are run once more with the allocator capped, to see whether they fit.
``report`` compares with the estimate as it is now: half of the configurations (by a hash of their name) may
be used to calibrate constants, the other half is held out. ``own NAME`` measures one configuration by
``so8t probe`` in a process of its own, from weights on disk, to check the shared process against.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from so8t_engine.benchmark.random_base import SHAPES
from so8t_engine.config import Config
from so8t_engine.memory.allocator import prefer_expandable_segments
from so8t_engine.memory.fit import with_changes
from so8t_engine.paths import resources_dir

RESULTS = Path(__file__).with_name("grid_results.jsonl")
CAP_GIB = 7.2
Settings = dict[str, Any]
#: Keys of a grid entry that are no settings; ``row_tokens``: of each row, where they do not fill the length.
OWN = ("shape", "evaluation", "row_tokens")

OFF = {"training.gradient_checkpointing": False, "memory.layers": "plain"}
PLAIN = {"memory.layers": "plain"}
OFFLOADED = {"memory.offload_activations": True}
ATTENTION = {"memory.keep_attention": True}
EVERYTHING = {"memory.offload_everything": "on"}
FULL = {"memory.loss_path": "full"}
#: Rows of the demonstration's length, laid end to end.
PACKED = {"training.packing": True, "row_tokens": 108}


def grid() -> dict[str, Settings]:
    """Name → settings that differ from the preset for 8 GB, with `OWN` keys among them."""
    found: dict[str, Settings] = {}

    def add(shape: str, kind: str, length: int, *parts: Settings, **more: Any) -> None:  # noqa: ANN401
        settings: Settings = {"shape": shape, "model.quantization": kind, "data.max_length": length}
        changes: Settings = {}
        for part in (*parts, {key.replace("__", "."): value for key, value in more.items()}):
            changes |= part
        short = "-".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in changes.items())
        found["-".join(filter(None, (shape, kind, str(length), short)))] = settings | changes

    for kind, length in itertools.product(("nf4", "int8"), (256, 512, 1024, 2048, 4096, 8192)):
        add("phi35", kind, length)
    for length in (16384, 32768):
        add("phi35", "nf4", length, training__accumulation=1)
        add("phi35", "nf4", length, OFFLOADED, training__accumulation=1)
    for kind, length in (("nf4", 2048), ("nf4", 4096), ("nf4", 8192), ("int8", 2048), ("int8", 4096)):
        add("phi35", kind, length, OFFLOADED)
    add("phi35", "nf4", 40960, OFFLOADED, training__accumulation=1)
    for length, batch in ((256, 2), (256, 8), (512, 4), (1024, 2), (1024, 8), (2048, 2), (2048, 4)):
        add("phi35", "nf4", length, training__batch_size=batch)
    add("phi35", "int8", 1024, training__batch_size=4)
    for rank, kind in itertools.product((4, 64, 128), ("nf4", "int8")):
        add("phi35", kind, 1024, lora__r=rank)
    add("phi35", "nf4", 2048, lora__dropout=0.0)
    add("phi35", "nf4", 1024, lora__targets=["o_proj", "down_proj"])
    for length in (256, 512, 1024, 2048):
        add("phi35", "nf4", length, OFF)
    for kind, length in (("nf4", 512), ("nf4", 2048), ("int8", 2048)):
        add("phi35", kind, length, training__gradient_checkpointing=False)
    add("phi35", "nf4", 2048, memory__kept_layers=8)
    for length, layers, weights in ((512, 32, 8), (1024, 32, 2), (4096, 8, 0)):
        add("phi35", "nf4", length, memory__kept_layers=layers, memory__kept_weights=weights)
    add("phi35", "int8", 1024, memory__kept_layers=16, memory__kept_weights=2)
    for length, layers, weights in ((512, 32, 8), (2048, 20, 0)):
        kept = {"memory.kept_layers": layers, "memory.kept_weights": weights}
        add("phi35", "nf4", length, kept, training__recorded_passes="on")
    for kind, length in (("nf4", 512), ("nf4", 2048), ("int8", 2048), ("nf4", 4096)):
        add("phi35", kind, length, PLAIN)
    for length in (512, 2048, 4096, 8192):
        add("phi35", "nf4", length, FULL)
    for chunk, length in ((64, 2048), (1024, 2048), (1024, 8192)):
        add("phi35", "nf4", length, memory__loss_chunk=chunk)
    for tile in (512, 4096):
        add("phi35", "nf4", 4096, memory__mlp_tile=tile)
    for optimizer, rank in itertools.product(("adamw_8bit", "adamw"), (16, 128)):
        add("phi35", "nf4", 512, training__optimizer=optimizer, lora__r=rank)
    for kind, length in (("nf4", 512), ("nf4", 2048), ("nf4", 4096), ("nf4", 8192), ("int8", 2048)):
        add("phi35", kind, length, OFFLOADED, ATTENTION)
    add("phi35", "nf4", 32768, OFFLOADED, ATTENTION, training__accumulation=1)
    add("phi35", "nf4", 40960, OFFLOADED, ATTENTION, training__accumulation=1)
    for length in (2048, 4096):
        add("phi35", "nf4", length, OFFLOADED, ATTENTION, training__recorded_passes="on")
        add("phi35", "nf4", length, ATTENTION)
    add("phi35", "nf4", 4096, OFFLOADED, ATTENTION, memory__kept_layers=8)
    add("phi35", "nf4", 2048, OFFLOADED, ATTENTION, so8t__gate_layers=[16], so8t__gate_site="mlp")
    for shape in ("llama32_1b", "qwen25_15b"):
        add(shape, "nf4", 8192, OFFLOADED, ATTENTION)
        add(shape, "nf4", 2048, OFFLOADED, EVERYTHING)
    for kind, length in (("nf4", 512), ("nf4", 2048), ("nf4", 4096), ("nf4", 8192), ("int8", 2048)):
        add("phi35", kind, length, OFFLOADED, ATTENTION, EVERYTHING)
    add("phi35", "nf4", 2048, OFFLOADED, EVERYTHING, training__recorded_passes="on")
    add("phi35", "nf4", 4096, OFFLOADED, ATTENTION, EVERYTHING, memory__kept_layers=8)
    add("phi35", "nf4", 2048, OFFLOADED, EVERYTHING, so8t__gate_layers=[16], so8t__gate_site="mlp")
    add("phi35", "nf4", 2048, PACKED, OFFLOADED, EVERYTHING)
    for layers, site in (([16], "mlp"), ([8, 16, 24], "attention"), (list(range(32)), "mlp")):
        add("phi35", "nf4", 2048, so8t__gate_layers=layers, so8t__gate_site=site)
    add("phi35", "nf4", 2048, so8t__gate_layers=[16], so8t__gate_final=False)
    for length in (512, 4096):
        add("phi35", "nf4", length, evaluation=False)
    for length in (512, 2048, 4096):
        add("phi35", "nf4", length, OFFLOADED, training__recorded_passes="on")
    add("phi35", "nf4", 2048, training__recorded_passes="on")
    add("phi35", "nf4", 2048, model__double_quant=False)
    add("phi35", "nf4", 1024, training__accumulation=1)
    for kind, length in (("nf4", 1024), ("nf4", 2048), ("nf4", 4096), ("int8", 2048)):
        add("phi35", kind, length, PACKED)
        add("phi35", kind, length, PACKED, OFFLOADED, training__recorded_passes="on")
    add("phi35", "nf4", 2048, PACKED, row_tokens=32)
    add("phi35", "nf4", 1024, PACKED, training__batch_size=4, row_tokens=500)
    add("phi35", "nf4", 2048, PACKED, memory__kept_layers=16)
    for shape in ("llama32_1b", "qwen25_15b"):
        add(shape, "nf4", 2048, PACKED)
    for shape, kind, length in itertools.product(
        ("llama32_1b", "qwen25_15b"), ("nf4", "int8"), (512, 2048, 8192)
    ):
        add(shape, kind, length)
    for shape in ("llama32_1b", "qwen25_15b"):
        add(shape, "nf4", 1024, training__batch_size=8)
        add(shape, "nf4", 2048, FULL)
        add(shape, "nf4", 1024, OFF)
    return found


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)}x" if len(value) > 3 else "+".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def tiny_grid() -> dict[str, Settings]:
    """A few small configurations that run anywhere, to try the grid itself."""
    return {
        f"tiny-none-{length}-batch={batch}": {
            "shape": "tiny", "model.quantization": "none", "data.max_length": length,
            "training.batch_size": batch,
        }
        for length, batch in ((64, 1), (64, 2))
    }  # fmt: skip


def held_out(name: str) -> bool:
    """Half of the grid is never used to choose a constant."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def write_config(shape: str, cache: Path) -> Path:
    """A folder with the shape's config.json, which is all that the estimate reads."""
    folder = cache / shape
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps(SHAPES[shape]), encoding="utf-8")
    return folder


def configuration(settings: Settings, cache: Path, device: str = "cuda") -> Config:
    """The run's configuration on this machine. Raises `ValueError` for a setting that does not exist."""
    changes = {key: value for key, value in settings.items() if key not in OWN}
    places = {
        "model.path": str(write_config(settings["shape"], cache)), "model.device": device,
        "memory.limit_gib": 1000.0, "memory.cap_allocator": False, "training.accumulation": 2,
        "training.max_steps": 2, "checkpoints.every_minutes": None,
    }  # fmt: skip
    return with_changes(Config(), places | changes)


def supported(settings: Settings, cache: Path) -> bool:
    """Whether this version of the program knows all of the entry's settings and values."""
    try:
        configuration(settings, cache)
    except ValueError:
        return False
    return True


def done(results: Path) -> dict[str, Settings]:
    """What is measured already; later lines add to earlier ones of the same name."""
    found: dict[str, Settings] = {}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            if line.strip():
                record = json.loads(line)
                found[record["name"]] = found.get(record["name"], {}) | record
    return found


def reserved(record: Settings) -> int:
    """The largest phase's peak of what the allocator reserved."""
    return max(int(phase.get("reserved", 0)) for phase in record["phases"].values())


def _order(item: tuple[str, Settings]) -> tuple[str, str, bool, int]:
    """Configurations of one base together, short ones first."""
    settings = item[1]
    return (
        settings["shape"], settings["model.quantization"], settings.get("model.double_quant", True),
        settings["data.max_length"],
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Measure what is missing, until it is done or the time is up."""
    import torch
    from transformers import AutoTokenizer

    from so8t_engine.benchmark.random_base import SharedBase
    from so8t_engine.memory.nvml import read_memory
    from tests.gpu.grid_measure import environment, measure

    begun = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = tiny_grid() if arguments.tiny else grid()
    wanted = {name: settings for name, settings in wanted.items() if arguments.only in name}
    place, _slash, shards = arguments.shard.partition("/")
    wanted = dict(list(wanted.items())[int(place) :: int(shards)])
    unknown = [name for name, settings in wanted.items() if not supported(settings, arguments.cache)]
    for name in unknown:
        sys.stderr.write(f"{name}: this version does not know its settings\n")
        del wanted[name]
    tokenizer = AutoTokenizer.from_pretrained(resources_dir() / "base_model")
    bases = SharedBase(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    facts = environment()
    read_memory()  # the driver's library is loaded before anything is measured

    def one(name: str, cap: float | None) -> None:
        settings, started = wanted[name], time.monotonic()
        config = configuration(settings, arguments.cache, device.type)
        evaluation = settings.get("evaluation", True)
        try:
            found = measure(
                config, settings["shape"], bases, tokenizer, evaluation=evaluation, cap_gib=cap,
                row_tokens=settings.get("row_tokens"),
            )  # fmt: skip
        except Exception:  # noqa: BLE001  (the others are measured all the same)
            sys.stderr.write(f"{name}: {traceback.format_exc(limit=-6)}\n")
            return
        record: Settings = {"name": name}
        if cap is None:
            record |= {"settings": settings, "date": datetime.now(UTC).isoformat(timespec="seconds")}
            record |= facts | found
        else:
            record["capped"] = {"gib": cap, "fits": not found["oom"] and not found["failed"]}
        with arguments.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        peak = reserved(found) / 1e9 if found["phases"] else float("nan")
        sys.stderr.write(f"{time.monotonic() - started:5.1f} s  {peak:6.3f} GB  {cap or ''} {name}\n")

    def in_time() -> bool:
        return time.monotonic() - begun < 60 * arguments.minutes

    for name, settings in sorted(wanted.items(), key=_order):
        known = done(arguments.results)
        if name not in known and in_time():
            one(name, None)
        record = done(arguments.results).get(name)
        near = record is not None and 0.7 < reserved(record) / (CAP_GIB * 2**30) < 1.35
        if near and record is not None and "capped" not in record and in_time():
            one(name, CAP_GIB)
        del settings
    known = done(arguments.results)
    sys.stdout.write(f"{sum(name in known for name in wanted)} of {len(wanted)} measured\n")


def own(arguments: argparse.Namespace) -> None:
    """Measure one configuration by the probe, from weights on disk; prints one JSON object."""
    import dataclasses

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from so8t_engine.memory.probe import probe

    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    settings = grid()[arguments.only]
    folder = arguments.cache / "weights" / settings["shape"]
    if not (folder / "config.json").exists():
        values = dict(SHAPES[settings["shape"]])
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(values.pop("model_type"), **values), dtype=torch.bfloat16
            )
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(resources_dir() / "base_model" / name, folder / name)
        del model
        torch.cuda.empty_cache()
    rows = _write_rows(arguments.cache / f"rows-{settings['data.max_length']}", settings["data.max_length"])
    changes = {"model.path": str(folder), "data.train": str(rows), "training.max_steps": None}
    result = probe(with_changes(configuration(settings, arguments.cache), changes))
    sys.stdout.write(json.dumps({"name": arguments.only} | dataclasses.asdict(result)) + "\n")


def _write_rows(folder: Path, length: int) -> Path:
    """Rows of text that are longer than the limit."""
    folder.mkdir(parents=True, exist_ok=True)
    source = resources_dir() / "data" / "four_class" / "train.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    for name, count in (("train", 80), ("validation", 4)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                words = " ".join(rows[(index * 7 + k) % len(rows)]["prompt"] for k in range(length // 8 + 8))
                file.write(json.dumps(rows[index] | {"response": words}, ensure_ascii=False) + "\n")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("run", "report", "own", "list"))
    parser.add_argument("only", nargs="?", default="", help="names that contain this; for own the whole name")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "so8t-grid")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--shard", default="0/1", help="every n-th of them, to run several at a time: 1/3")
    parser.add_argument("--native", action="store_true", help="segments of fixed size, as on Windows")
    parser.add_argument("--tiny", action="store_true", help="a few small configurations, also on the CPU")
    arguments = parser.parse_args()
    if arguments.action == "list":
        names = {name: supported(settings, arguments.cache) for name, settings in grid().items()}
        sys.stdout.write(
            "".join(f"{name}{'' if known else '  (unknown)'}\n" for name, known in names.items())
        )
        sys.stdout.write(f"{len(names)} configurations, {sum(map(held_out, names))} held out\n")
    elif arguments.action == "report":
        from tests.gpu.grid_report import report

        sys.stdout.write(report(arguments.results, arguments.cache))
    else:
        if arguments.native:
            os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:False"
        prefer_expandable_segments()  # as the engine's own process does, before the first tensor
        {"run": run, "own": own}[arguments.action](arguments)


if __name__ == "__main__":
    main()
