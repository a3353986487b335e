"""Full checkpointing against spare memory put to use, under a cap of 7.2 GiB, on one card.

``PYTHONPATH=. python tests/gpu/keep_layers.py --out FILE``: the shape of Phi-3.5-mini with random nf4
weights, SO8T parts on, LoRA r 16 on the four fused modules, no dropout, batch 1, optimizer and clipping
included. Each pair of one length is measured in alternation (``--rounds``), each measurement in a process of
its own whose allocator is capped as the engine caps it. One JSON object a line, written as it comes: ``kept``
are layers that keep their activations and such with dequantised weights. ``--profile`` adds kernels' times
by group, of one step.

``--sms 12 --ordinary --kind attention --kind everything`` computes on so many of the card's multiprocessors
alone, beside a bus that is as fast as ever: what a desktop card gains by layers that wait in system memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_GIB = 7.2
WAITING = {"memory.offload_activations": True, "memory.keep_attention": True}
#: Settings by name.
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "spare": {"memory.use_spare": True},
    "activations": {"memory.kept_layers": 32},
    "weights": {"memory.kept_weights": 8},
    "attention": WAITING,
    "everything": WAITING | {"memory.offload_everything": "on"},
    "chosen": WAITING | {"memory.offload_everything": "auto"},
    "attention+spare": WAITING | {"memory.use_spare": True},
    "everything+spare": WAITING | {"memory.offload_everything": "on", "memory.use_spare": True},
    "chosen+spare": WAITING | {"memory.offload_everything": "auto", "memory.use_spare": True},
}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def worker(options: argparse.Namespace) -> int:
    """One measurement in this process."""
    from so8t_engine.memory.allocator import prefer_expandable_segments

    prefer_expandable_segments()
    import torch

    from so8t_engine.benchmark.train import Job, prepare_steps, run_steps
    from so8t_engine.training import waiting
    from so8t_engine.training.limit import cap_allocator

    settings = KINDS[options.worker] | {"memory.limit_gib": LIMIT_GIB, "memory.mlp_tile": options.tile}
    settings |= {"training.recorded_passes": "on" if options.recorded else "off"}
    job = Job(
        "so8t", "phi35", "nf4", options.length[0], steps=options.steps, warm=4, settings=settings,
        cap_gib=LIMIT_GIB,
    )  # fmt: skip
    torch.manual_seed(0)  # the same base in each process: losses can be compared
    few = multiprocessors(options.sms) if options.sms else None
    if few is not None:  # what is chosen by measuring is chosen for them
        own = waiting.measure
        waiting.measure = lambda lean: _on(few, lambda: own(lean))
    prepared = prepare_steps(job)
    torch.cuda.synchronize()
    cap_allocator(LIMIT_GIB)
    found = run_steps(job, prepared) if few is None else _on(few, lambda: run_steps(job, prepared))
    found |= {"kind": options.worker, "recorded": options.recorded, "sms": options.sms}
    if options.profile:
        found |= profiled(prepared, job.length)
    say(json.dumps(found))
    return 0


def multiprocessors(count: int) -> Any:  # noqa: ANN401
    """A stream whose kernels run on so many of the card's multiprocessors."""
    import torch
    from torch.cuda.green_contexts import GreenContext

    torch.empty(1, device="cuda")
    green: Any = GreenContext.create(num_sms=count, device_id=0)
    if hasattr(green, "Stream"):  # from torch 2.12 on
        return green.Stream()
    green.set_context()
    stream = torch.cuda.current_stream()
    green.pop_context()
    return stream


def _on(stream: Any, work: Callable[[], Any]) -> Any:  # noqa: ANN401
    import torch

    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        found = work()
        torch.cuda.synchronize()
    return found


def profiled(prepared: Any, length: int) -> dict[str, Any]:  # noqa: ANN401
    """Kernels of one step by group, milliseconds and how many, and the largest ones."""
    import torch

    from tests.gpu.profile_step import group_of

    ids_NT = torch.randint(3, 32000, (1, length), generator=torch.Generator().manual_seed(9)).cuda()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        prepared.step(ids_NT)
        torch.cuda.synchronize()
    groups: dict[str, list[float]] = {}
    kernels = []
    for event in profile.key_averages():
        if event.device_type == torch.autograd.DeviceType.CUDA and event.self_device_time_total:
            one = groups.setdefault(group_of(event.key), [0.0, 0])
            one[0] += event.self_device_time_total / 1e3
            one[1] += event.count
            kernels.append((event.self_device_time_total / 1e3, event.count, event.key[:100]))
    return {"groups_ms": groups, "kernels_ms": sorted(kernels, reverse=True)[:30]}


def run_one(kind: str, length: int, recorded: bool, options: argparse.Namespace, profile: bool) -> None:
    command = [sys.executable, __file__, "--worker", kind, "--length", str(length)]
    command += ["--steps", str(options.steps), "--tile", str(options.tile), "--sms", str(options.sms)]
    command += ["--recorded"] if recorded else []
    command += ["--profile"] if profile else []
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"stack"')]
    one = json.loads(lines[-1]) if lines else {"error": (done.stderr or done.stdout)[-1500:]}
    one |= {"kind": kind, "length": length, "recorded": recorded, "took_s": time.perf_counter() - began}
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(one) + "\n")
    if "error" in one:
        say(f"{kind} {length} recorded={recorded}: {one['error'][-400:]}")
        return
    way = "recorded" if recorded else "ordinary"
    say(
        f"{kind:<18}{length:>6} {way} {one['tokens_per_s']:>8.0f} tokens/s "
        f"kept {one['kept']} reserved {one['peak_reserved'] / 1e9:.3f} allocated "
        f"{one['peak_allocated'] / 1e9:.3f} last loss {one['losses'][-1]:.5f} ({one['took_s']:.0f} s)"
    )
    if profile:
        say(json.dumps(one["groups_ms"]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path("keep_layers.jsonl"))
    parser.add_argument("--length", type=int, action="append")
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--recorded", action="store_true", help="recorded passes alone")
    parser.add_argument("--ordinary", action="store_true", help="ordinary passes alone")
    parser.add_argument("--sms", type=int, default=0, help="multiprocessors; 0 is all; ordinary passes alone")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tile", type=int, default=1024, help="memory.mlp_tile")
    options = parser.parse_args()
    options.length = options.length or [512, 1024, 2048]
    if options.worker:
        return worker(options)
    ways = [True] if options.recorded else [False] if options.ordinary else [True, False]
    for turn in range(options.rounds):
        for recorded in ways:
            for length in options.length:
                for kind in options.kind or ("full", "spare"):
                    run_one(kind, length, recorded, options, options.profile and turn == 0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
