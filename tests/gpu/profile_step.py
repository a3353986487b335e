"""Where the time of one training pass goes on the card, and what each part would cost at the card's limits.

``PYTHONPATH=. python tests/gpu/profile_step.py --length 2048 --length 4096 [--out FILE]``: the shape of
Phi-3.5-mini with random nf4 weights, SO8T parts on, forward and backward pass. Kernels are grouped by what
they do; beside each group stands a floor: counted operations over the rate of a large bf16 product, and
counted bytes over the rate of a large copy, both measured in the same process. ``--try NAME=VALUE,…`` sets
settings (repeat it); passes recorded as CUDA graphs are timed beside ordinary ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel

from so8t_engine.benchmark.random_base import SharedBase
from so8t_engine.config import Config
from so8t_engine.memory.allocator import prefer_expandable_segments
from so8t_engine.memory.fit import with_changes
from so8t_engine.model.gradients import FlatGradients
from so8t_engine.model.so8t_model import SO8TModel, StepTotals
from so8t_engine.training.recorded import RecordedPasses

RANK = 16
#: What a kernel's name holds → its group; the first that matches counts.
GROUPS = (
    ("dequanti", "dequantisation"),
    ("flash", "attention"), ("fmha", "attention"), ("cudnn_generated", "attention"), ("cudnn", "attention"),
    ("norm_", "norms"), ("rotate", "rotary"), ("gated_", "activation"), ("loss_rows", "loss rows"),
    ("keep_elements", "dropout"), ("gate_", "SO8T gate"), ("Memcpy", "copies"), ("Memset", "clears"),
    ("gemm", "products"), ("nvjet", "products"), ("cutlass", "products"), ("splitK", "products"),
    ("optimizer", "optimizer"),
)  # fmt: skip


def card_limits() -> dict[str, float]:
    """Measured operations a second of a bf16 product and bytes a second of a copy (read and written)."""

    def best(run: Any, count: int) -> float:  # noqa: ANN401
        times = []
        for _each in range(4):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _one in range(count):
                run()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - began) / count)
        return min(times)

    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _side in range(2))
    product = best(lambda: left @ right, 10)
    source, target = (torch.empty(2**31, dtype=torch.uint8, device="cuda") for _side in range(2))
    copy = best(lambda: target.copy_(source), 5)
    return {"flop_per_s": 2 * 8192**3 / product, "bytes_per_s": 2 * 2**31 / copy}


def floors(length: int, limits: dict[str, float], layers: int = 32, hidden: int = 3072) -> dict[str, float]:
    """Seconds at the card's limits; all but an MLP's last product is computed twice."""
    weights = {
        "qkv": 3 * hidden * hidden,
        "out": hidden * hidden,
        "up": 2 * hidden * 8192,
        "down": hidden * 8192,
    }
    recomputed = sum(weights.values()) - weights["down"]
    passes = 2 * sum(weights.values()) + recomputed
    head = 2 * 32064 * hidden
    products = 2 * length * (layers * passes + head) / limits["flop_per_s"]
    # Causal: half of the square. Forward twice (2 products of each), backward once (5 products).
    attention = layers * (2 * 2 + 5) * length * length * hidden / limits["flop_per_s"]
    dequantised = layers * (passes + weights["qkv"] + weights["out"] - recomputed + weights["up"]) * 2.53
    return {
        "products": products, "attention": attention, "dequantisation": dequantised / limits["bytes_per_s"],
    }  # fmt: skip


def group_of(name: str) -> str:
    return next((group for part, group in GROUPS if part.lower() in name.lower()), "elementwise and rest")


def batch_of(length: int, vocabulary: int, seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    ids_NT = torch.randint(3, vocabulary, (1, length), generator=random).cuda()
    return {
        "input_ids_NT": ids_NT, "labels_NT": ids_NT, "attention_mask_NT": torch.ones_like(ids_NT),
        "pool_index_N": torch.full((1,), length - 1, device="cuda"),
        "task_N": torch.zeros(1, dtype=torch.long, device="cuda"),
        "safety_N": torch.zeros(1, dtype=torch.long, device="cuda"),
    }  # fmt: skip


def times_of(run: Any, count: int = 8) -> float:  # noqa: ANN401
    """Median seconds of a call, the card's work included."""
    times = []
    for index in range(count + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if index >= 2:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


@contextmanager
def attending(kind: str | None) -> Iterator[None]:
    """Attention by cuDNN where it can; None is PyTorch's own choice."""
    if kind is None:
        yield
        return
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(order, set_priority=True):
        yield


def measure(
    base: SharedBase, length: int, settings: dict[str, Any], limits: dict[str, float]
) -> dict[str, Any]:
    places = {
        "data.max_length": length, "lora.dropout": 0.0, "training.accumulation": 1,
        "so8t.alpha_schedule": "learned", "training.recorded_passes": "on",
    }  # fmt: skip
    config = with_changes(Config(), places | settings)
    model = SO8TModel(base.get("phi35", "nf4", True, "sdpa"), config).train()
    model.gradients = FlatGradients.for_training(list(model.trainable().values()))
    assert model.gradients is not None
    batch, totals = batch_of(length, 32064, 1), StepTotals(length - 1, 1, 1, 1, 1)

    def ordinary() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            report = model(batch, totals, alpha_target=0.0, pet_weight=0.05)
        report.loss.backward()

    result: dict[str, Any] = {"length": length, "settings": settings}
    torch.cuda.reset_peak_memory_stats()
    result["ordinary_s"] = times_of(ordinary, 4)
    result["peak_allocated"] = torch.cuda.max_memory_allocated()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiled:
        ordinary()
        torch.cuda.synchronize()
    kernels: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    groups: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        if event.device_type == torch.autograd.DeviceType.CUDA and event.self_device_time_total:
            kernels[event.key][0] += event.self_device_time_total / 1e6
            kernels[event.key][1] += event.count
            groups[group_of(event.key)] += event.self_device_time_total / 1e6
    shapes: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in profiled.key_averages(group_by_input_shape=True):
        if event.device_type == torch.autograd.DeviceType.CPU and event.self_device_time_total:
            key = f"{event.key} {event.input_shapes[:4]}"
            shapes[key][0] += event.self_device_time_total / 1e6
            shapes[key][1] += event.count
    top = sorted(kernels.items(), key=lambda item: -item[1][0])
    result |= {
        "card_s": sum(groups.values()),
        "groups_s": dict(sorted(groups.items(), key=lambda item: -item[1])),
        "floors_s": floors(length, limits),
        "kernels": [[round(1e3 * s, 3), int(count), name[:110]] for name, (s, count) in top[:24]],
        "operators": [
            [round(1e3 * s, 3), int(count), name[:150]]
            for name, (s, count) in sorted(shapes.items(), key=lambda item: -item[1][0])[:44]
        ],
    }
    del profiled
    why = RecordedPasses.impossible(model, config)
    if why is None:
        torch.cuda.empty_cache()
        recorded = RecordedPasses(model, length, 0, limit=100 * 2**30, always=True)
        torch.cuda.reset_peak_memory_stats()

        def replayed() -> None:
            recorded.replay(batch, totals, 0.0, 0.05, gradients_are_zero=True)

        result["recorded_s"] = times_of(replayed)
        result["recorded_allocated"] = torch.cuda.max_memory_allocated()
        result["recorded_reserved"] = torch.cuda.max_memory_reserved()
        recorded.release()
    else:
        result["not_recorded"] = why
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, action="append", required=True)
    parser.add_argument("--try", dest="tried", action="append", default=[], metavar="NAME=VALUE,NAME=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prefer_expandable_segments()
    limits = card_limits()
    torch.cuda.empty_cache()
    base = SharedBase(torch.device("cuda"), torch.bfloat16)
    found: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "limits": limits,
    }
    found["profiles"] = profiles = []
    for one in options.tried or [""]:
        settings = {
            name: yaml.safe_load(value)
            for name, _is, value in (p.partition("=") for p in one.split(",") if p)
        }
        for length in options.length:
            try:
                with attending(settings.get("attention")):
                    own = {name: value for name, value in settings.items() if name != "attention"}
                    profiles.append(measure(base, length, own, limits) | {"settings": settings})
            except Exception as error:  # noqa: BLE001  (the others are still worth their time)
                profiles.append({"length": length, "settings": settings, "error": repr(error)[:500]})
            last = profiles[-1]
            short = {k: v for k, v in last.items() if k not in ("kernels", "operators")}
            sys.stdout.write(json.dumps(short) + "\n")
            sys.stdout.flush()
            if options.out:
                options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
