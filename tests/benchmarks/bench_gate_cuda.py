"""The gate on an NVIDIA card against a plain copy of the hidden states, in one run of about a minute.

Every figure is the median GPU time of one call inside a CUDA graph of many calls over rotating buffers, so
that neither launch gaps nor the L2 cache decide. First the tiles of each kernel are swept and checked
against each other, then the results are checked against float64, then the fastest tiles are measured
together. Prints tables and, with ``--out``, writes all of it as JSON; times in microseconds::

    python tests/benchmarks/bench_gate_cuda.py --seconds 55 --out gate.json
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t_engine.so8t import fused
from so8t_engine.so8t.blocks import apply_blocks
from so8t_engine.so8t.fused import Tile
from so8t_engine.so8t.gate import gate_matrix
from so8t_engine.so8t.rotation import generators_to_matrices, skew_from_generators

Call = Callable[[int], object]
RESIDUAL = fused._FORMS["residual"]

# Tokens, blocks, warps, rounds; the most promising first, since the time may end the sweep.
FORWARD = [
    Tile(16, 16, 4, 1), Tile(32, 16, 8, 1), Tile(32, 8, 4, 1), Tile(16, 8, 2, 1), Tile(8, 16, 2, 1),
    Tile(8, 16, 4, 1), Tile(16, 16, 4, 2), Tile(16, 8, 4, 2),
]  # fmt: skip
BACKWARD = [
    Tile(8, 4, 1, 16), Tile(16, 4, 2, 16), Tile(4, 8, 1, 16), Tile(16, 2, 1, 16), Tile(8, 4, 1, 8),
    Tile(8, 4, 1, 32), Tile(8, 8, 2, 16), Tile(16, 4, 2, 8),
]  # fmt: skip
BACKWARD_HALF = [
    Tile(64, 4, 4, 4), Tile(64, 2, 2, 4), Tile(128, 4, 4, 2), Tile(64, 4, 2, 4), Tile(128, 2, 4, 2),
    Tile(128, 4, 4, 1), Tile(64, 4, 4, 2), Tile(64, 4, 4, 8), Tile(128, 4, 8, 2), Tile(32, 4, 2, 8),
    Tile(64, 8, 4, 4), Tile(128, 8, 8, 2), Tile(64, 8, 8, 4), Tile(128, 2, 2, 2), Tile(64, 2, 4, 4),
    Tile(128, 2, 4, 4), Tile(128, 8, 4, 1), Tile(256, 4, 8, 1),
]  # fmt: skip
REDUCE = [Tile(16, 2, 1, 1), Tile(16, 4, 2, 1), Tile(32, 1, 1, 1), Tile(16, 4, 4, 1), Tile(32, 2, 2, 1)]


def graph_time_us(call: Call, buffers: int, replays: int = 30) -> float:
    """Median microseconds of ``call(i)``, captured once for every buffer."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _warm in range(3):
            call(0)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    kept: list[object] = []
    with torch.cuda.graph(graph):
        kept.extend(call(index) for index in range(buffers))
    for _warm in range(3):
        graph.replay()
    times = []
    for _replay in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _side in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / buffers)
    return statistics.median(times)


def event_time_us(call: Call, repeats: int = 20) -> float:
    """Median microseconds of one call as Python launches it."""
    call(0)
    times = []
    for _repeat in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _side in range(2))
        begin.record()
        call(0)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def peak_extra_mib(call: Call) -> float:
    """Memory that one call needs at its peak beyond what exists before, its results included, in MiB."""
    call(0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call(0)
    torch.cuda.synchronize()
    del kept
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def reference(hidden_TH: Tensor, theta_2B28: Tensor, gate: Tensor) -> Tensor:
    """torch.matrix_exp and einsum, in the dtype of the hidden states: what one would write first."""
    safe_B88, cmd_B88 = torch.matrix_exp(skew_from_generators(theta_2B28))
    total_B88 = (cmd_B88 @ safe_B88).to(hidden_TH.dtype)
    blocks_TB8 = hidden_TH.view(hidden_TH.shape[0], -1, 8)
    turned_TH = torch.einsum("bij,tbj->tbi", total_B88, blocks_TB8).reshape(hidden_TH.shape)
    return hidden_TH + gate.to(hidden_TH.dtype) * (turned_TH - hidden_TH)


class Bench:
    """Tensors of one dtype, rotating so that the second-level cache holds none of them, and the calls."""

    def __init__(self, tokens: int, hidden: int, dtype: torch.dtype, buffers: int) -> None:
        random = torch.Generator().manual_seed(0)
        shape = (tokens, hidden)
        self.buffers = buffers
        self.states = [torch.randn(shape, generator=random).to("cuda", dtype) for _one in range(buffers)]
        self.grads = [torch.randn(shape, generator=random).to("cuda", dtype) for _one in range(buffers)]
        self.outs = [torch.empty_like(state) for state in self.states]
        self.gate = torch.tensor(0.3, device="cuda")
        thetas = [0.02 * torch.randn((hidden // 8, 28), generator=random) for _one in range(2)]
        self.theta_safe, self.theta_cmd = (theta.cuda() for theta in thetas)
        self.leaves = [theta.clone().requires_grad_() for theta in (self.theta_safe, self.theta_cmd)]
        self.safe_B88, self.cmd_B88, self.total_B88 = fused.fused_rotations(self.theta_safe, self.theta_cmd)
        self.learned = self.gate.clone().requires_grad_()

    def time(self, call: Call, replays: int = 30) -> float:
        return round(graph_time_us(call, self.buffers, replays), 2)

    @torch.no_grad()
    def forward(self, index: int) -> Tensor:
        return fused.fused_gate(self.states[index], self.total_B88, self.gate, "residual")

    @torch.no_grad()
    def backward(self, index: int) -> tuple[Tensor | None, ...]:
        return fused.gate_gradients(
            self.grads[index], self.states[index], self.total_B88, self.gate, RESIDUAL
        )

    @torch.no_grad()
    def build(self, _index: int) -> tuple[Tensor, ...]:
        return fused.fused_rotations(self.theta_safe, self.theta_cmd)

    def build_step(self, _index: int) -> object:
        total_B88 = fused.fused_rotations(*self.leaves)[2]
        return torch.autograd.grad(total_B88, self.leaves, self.total_B88)

    def step(self, index: int) -> tuple[Tensor, ...]:
        """Build, gate, and the gradients of the hidden states, of both rotations and of g."""
        state = self.states[index].detach().requires_grad_()
        built_B88 = fused.fused_rotations(*self.leaves)[2]
        out = fused.fused_gate(state, built_B88, self.learned, "residual")
        return torch.autograd.grad(out, (state, *self.leaves, self.learned), self.grads[index])

    def torch_step(self, index: int) -> object:
        state = self.states[index].detach().requires_grad_()
        total_B88 = self.total_B88.detach().requires_grad_()
        out = apply_blocks(state, gate_matrix(total_B88, self.learned))
        return torch.autograd.grad(out, (state, total_B88, self.learned), self.grads[index])

    def reference_step(self, index: int) -> object:
        state = self.states[index].detach().requires_grad_()
        out = reference(state, torch.stack(self.leaves), self.learned)
        return torch.autograd.grad(out, (state, *self.leaves, self.learned), self.grads[index])


def difference(one: Tensor, other: Tensor) -> float:
    """The greatest difference, relative to the greatest value."""
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


def sweep(
    bench: Bench, name: str, tiles: Iterable[Any], call: Call, until: float, same: float
) -> tuple[Any, dict[str, float | str]]:
    """The fastest value of ``fused.<name>`` and the times of all; one that fails or differs is named so."""
    times: dict[str, float | str] = {}
    best, least, first = getattr(fused, name), float("inf"), None
    for tile in tiles:
        if time.monotonic() > until and first is not None:
            times[str(tile)] = "not reached"
            continue
        setattr(fused, name, tile)
        try:
            found = call(0)
            results = [one for one in (found if isinstance(found, tuple) else (found,)) if one is not None]
            first = first or [one.clone() for one in results]
            worst = max(difference(one, other) for one, other in zip(results, first, strict=True))
            taken = bench.time(call, 15)
        except Exception as error:  # noqa: BLE001  (a tile that does not compile is a result of the sweep)
            times[str(tile)] = f"{type(error).__name__}: {str(error)[:80]}"
            continue
        times[str(tile)] = taken if worst <= same else f"{taken} but differs by {worst:.1e}"
        if worst <= same and taken < least:
            best, least = tile, taken
    setattr(fused, name, best)
    return best, times


def check(bench: Bench) -> dict[str, float | bool]:
    """The errors against float64 of all that one step gives, and whether again it gives the same bits."""
    index = 0
    ours = bench.step(index)
    again = bench.step(index)
    state = bench.states[index].double().requires_grad_()
    leaves = [leaf.detach().double().requires_grad_() for leaf in bench.leaves]
    gate = bench.gate.double().requires_grad_()
    safe_B88, cmd_B88 = (generators_to_matrices(leaf) for leaf in leaves)
    out = apply_blocks(state, gate_matrix(cmd_B88 @ safe_B88, gate))
    exact = torch.autograd.grad(out, (state, *leaves, gate), bench.grads[index].double())
    names = ("grad hidden", "grad theta_safe", "grad theta_cmd", "grad g")
    found: dict[str, float | bool] = {
        "R_safe": difference(bench.safe_B88, safe_B88.detach()),
        "M": difference(bench.total_B88, (cmd_B88 @ safe_B88).detach()),
        "gated": difference(bench.forward(index), out.detach()),
    }
    found |= {name: difference(a, b) for name, a, b in zip(names, ours, exact, strict=True)}
    found["same bits again"] = all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    return found


def totals(bench: Bench) -> dict[str, float]:
    """Times of the parts and of the whole with the present tiles, and the peak of extra memory."""
    return {
        "copy": bench.time(lambda i: bench.outs[i].copy_(bench.states[i])),
        "gate forward": bench.time(bench.forward),
        "gate backward": bench.time(bench.backward),
        "build forward": bench.time(bench.build),
        "build forward + backward": bench.time(bench.build_step),
        "build + gate, forward + backward": bench.time(bench.step),
        "copy again": bench.time(lambda i: bench.outs[i].copy_(bench.states[i])),
        "one hidden tensor, MiB": bench.states[0].nbytes / 2**20,
        "extra of the forward with its output, MiB": round(peak_extra_mib(bench.forward), 2),
        "extra of the backward with its gradients, MiB": round(peak_extra_mib(bench.backward), 2),
    }


def measure(options: argparse.Namespace, name: str, until: float) -> dict[str, Any]:
    bench = Bench(options.tokens, options.hidden, getattr(torch, name), options.buffers)
    left = until - time.monotonic()
    now = time.monotonic()
    found: dict[str, Any] = {"sweep": {}}
    half = bench.states[0].dtype != torch.float32
    for kernel, tiles, call, share in (
        ("FORWARD", FORWARD, bench.forward, 0.3),
        *([("BACKWARD_HALF", BACKWARD_HALF, bench.backward, 0.75)] if half else []),
        *([] if half else [("BACKWARD", BACKWARD, bench.backward, 0.75)]),
        ("REDUCE", REDUCE, bench.backward, 0.85),
        ("BUILD_WARPS", [(2, 2), (1, 2), (4, 2), (2, 1), (1, 1), (2, 4)], bench.build_step, 1.0),
    ):
        # Sums in another order may round to the neighbouring value of the hidden type.
        best, times = sweep(bench, kernel, tiles, call, now + share * left, 4e-3 if half else 1e-5)
        found["sweep"][kernel] = times
        found[kernel] = best
        print(f"\n{name} {kernel}: {best}")
        for tile, taken in times.items():
            print(f"  {tile:52} {taken}")
    found["errors"], found["us"] = check(bench), totals(bench)
    copy = min(found["us"]["copy"], found["us"]["copy again"])
    print(f"\n{name}: {json.dumps(found['errors'])}")
    for what, value in found["us"].items():
        print(f"  {what:48} {value:9.2f}" + ("" if "MiB" in what else f"  {value / copy:6.2f} copies"))
    found["torch path, gate forward + backward"] = bench.time(bench.torch_step, 10)
    # matrix_exp reads a number back from the card, which a graph cannot hold: timed by events.
    found["matrix_exp + einsum, forward + backward, with launch gaps"] = event_time_us(bench.reference_step)
    found["build + gate, forward + backward, with launch gaps"] = event_time_us(bench.step)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--buffers", type=int, default=12)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--seconds", type=float, default=55.0, help="for the sweeps of all dtypes together")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    import triton

    result: dict[str, Any] = {
        "tokens": options.tokens, "hidden": options.hidden, "buffers": options.buffers,
        "card": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
    }  # fmt: skip
    print(json.dumps(result))
    assert fused.triton_works(torch.device("cuda", torch.cuda.current_device())), "the kernels do not work"
    for number, name in enumerate(options.dtypes, start=1):
        until = start + options.seconds * number / len(options.dtypes)
        result[name] = measure(options, name, until)
        result["seconds"] = round(time.monotonic() - start, 1)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{result['seconds']} s")


if __name__ == "__main__":
    main()
