"""Build and apply 384 rotations, forward and backward, against torch.matrix_exp + einsum.

Both sides run in alternation in one process, so that a busy machine slows both. Prints one JSON object
with times in milliseconds::

    python tests/benchmarks/bench_core.py --threads 2 --repeats 15
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from so8t_engine.so8t.rotation import apply_rotation, generators_to_matrices, skew_from_generators

Step = Callable[[], tuple[Tensor, Tensor, Tensor]]


def reference_build(theta_B28: Tensor) -> Tensor:
    return torch.matrix_exp(skew_from_generators(theta_B28))


def reference_apply(hidden_TH: Tensor, rotation_B88: Tensor) -> Tensor:
    blocks_TB8 = hidden_TH.view(hidden_TH.shape[0], -1, 8)
    return torch.einsum("bij,tbj->tbi", rotation_B88, blocks_TB8).reshape(hidden_TH.shape)


def make_steps(tokens: int, hidden: int, std: float, device: str) -> dict[str, dict[str, Step]]:
    """Named pairs of steps: ours and the reference, on the same inputs."""
    generator = torch.Generator().manual_seed(0)
    theta_B28 = (torch.randn(hidden // 8, 28, generator=generator) * std).to(device).requires_grad_()
    hidden_TH = torch.randn(tokens, hidden, generator=generator).to(device).requires_grad_()
    weight_TH = torch.randn(tokens, hidden, generator=generator).to(device)
    weight_B88 = torch.randn(hidden // 8, 8, 8, generator=generator).to(device)

    def whole(build: Callable[[Tensor], Tensor], apply: Callable[[Tensor, Tensor], Tensor]) -> Step:
        def step() -> tuple[Tensor, Tensor, Tensor]:
            out_TH = apply(hidden_TH, build(theta_B28))
            grads = torch.autograd.grad(out_TH, (hidden_TH, theta_B28), weight_TH)
            return out_TH.detach(), *grads

        return step

    def build_only(build: Callable[[Tensor], Tensor]) -> Step:
        def step() -> tuple[Tensor, Tensor, Tensor]:
            rotation_B88 = build(theta_B28)
            (gradient,) = torch.autograd.grad(rotation_B88, theta_B28, weight_B88)
            return rotation_B88.detach(), gradient, gradient

        return step

    return {
        "build_and_apply": {
            "so8t": whole(generators_to_matrices, apply_rotation),
            "reference": whole(reference_build, reference_apply),
        },
        "build": {"so8t": build_only(generators_to_matrices), "reference": build_only(reference_build)},
    }


def timed(step: Step, device: str) -> float:
    """One step in milliseconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def compare(pair: dict[str, Step], repeats: int, device: str) -> dict[str, object]:
    """Times of both sides in alternation, their ratio, and the largest relative difference of results."""
    ours, theirs = pair["so8t"](), pair["reference"]()
    difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
    times: dict[str, list[float]] = {name: [] for name in pair}
    for _round in range(repeats):
        for name, step in pair.items():
            times[name].append(timed(step, device))
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "median_ms": {name: round(value, 3) for name, value in median.items()},
        "min_ms": {name: round(min(values), 3) for name, values in times.items()},
        "times_faster": round(median["reference"] / median["so8t"], 2),
        "times_faster_per_round": [
            round(b / a, 2) for a, b in zip(times["so8t"], times["reference"], strict=True)
        ],
        "max_relative_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--std", type=float, default=0.02, help="standard deviation of the generators")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    steps = make_steps(options.tokens, options.hidden, options.std, options.device)
    result = {
        **vars(options),
        "blocks": options.hidden // 8,
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "load_average_before": load,
        **{name: compare(pair, options.repeats, options.device) for name, pair in steps.items()},
    }
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
