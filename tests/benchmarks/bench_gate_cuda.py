"""The gate on an NVIDIA card against a plain copy of the hidden states, in one run.

Every figure is the median GPU time of one call inside a CUDA graph of many calls over rotating buffers, so
that neither launch gaps nor the L2 cache decide. Prints one JSON object, times in microseconds::

    python tests/benchmarks/bench_gate_cuda.py --tokens 2048 --hidden 3072
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from so8t_engine.so8t import fused
from so8t_engine.so8t.blocks import apply_blocks
from so8t_engine.so8t.gate import gate_matrix
from so8t_engine.so8t.rotation import generators_to_matrices, skew_from_generators

Call = Callable[[int], object]


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
    times = []
    for _replay in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _side in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / buffers)
    return statistics.median(times)


def peak_extra_mib(call: Call) -> float:
    """Memory that one call needs at its peak beyond what exists before, in MiB."""
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


def measure(tokens: int, hidden: int, dtype: torch.dtype, buffers: int) -> dict[str, float]:
    random = torch.Generator().manual_seed(0)
    theta_2B28 = (0.02 * torch.randn((2, hidden // 8, 28), generator=random)).cuda()
    states = [torch.randn((tokens, hidden), generator=random).to(dtype).cuda() for _one in range(buffers)]
    grads = [torch.randn((tokens, hidden), generator=random).to(dtype).cuda() for _one in range(buffers)]
    outs = [torch.empty_like(state) for state in states]
    gate = torch.tensor(0.3, device="cuda")
    safe_B88, cmd_B88 = generators_to_matrices(theta_2B28.double()).float()
    total_B88 = (cmd_B88 @ safe_B88).requires_grad_()
    learned = gate.clone().requires_grad_()
    leaves = theta_2B28.clone().requires_grad_()

    def build_and_gate(index: int) -> Tensor:
        built_B88 = fused.fused_rotations(theta_2B28[0], theta_2B28[1])[2]
        return fused.fused_gate(states[index], built_B88, gate, "residual")

    def gate_step(index: int) -> object:
        state = states[index].detach().requires_grad_()
        out = fused.fused_gate(state, total_B88, learned, "residual")
        return torch.autograd.grad(out, (state, total_B88, learned), grads[index])

    def whole_step(index: int) -> object:
        state = states[index].detach().requires_grad_()
        built_B88 = fused.fused_rotations(leaves[0], leaves[1])[2]
        out = fused.fused_gate(state, built_B88, learned, "residual")
        return torch.autograd.grad(out, (state, leaves, learned), grads[index])

    def build_step(index: int) -> object:
        built = fused.fused_rotations(leaves[0], leaves[1])
        return torch.autograd.grad(built, leaves, [torch.ones_like(one) for one in built])

    def reference_step(index: int) -> object:
        state = states[index].detach().requires_grad_()
        return torch.autograd.grad(reference(state, leaves, learned), (state, leaves, learned), grads[index])

    def torch_step(index: int) -> object:
        state = states[index].detach().requires_grad_()
        out = apply_blocks(state, gate_matrix(total_B88, learned))
        return torch.autograd.grad(out, (state, total_B88, learned), grads[index])

    with torch.no_grad():
        found = {
            "copy": graph_time_us(lambda i: outs[i].copy_(states[i]), buffers),
            "gate forward": graph_time_us(
                lambda i: fused.fused_gate(states[i], total_B88, gate, "residual"), buffers
            ),
            "build + gate forward": graph_time_us(build_and_gate, buffers),
            "build forward": graph_time_us(
                lambda _i: fused.fused_rotations(theta_2B28[0], theta_2B28[1]), buffers
            ),
        }
    found["gate forward + backward"] = graph_time_us(gate_step, buffers)
    found["build forward + backward"] = graph_time_us(build_step, buffers)
    found["build + gate forward + backward"] = graph_time_us(whole_step, buffers)
    found["extra MiB of the forward"] = peak_extra_mib(build_and_gate)
    found["extra MiB of forward + backward"] = peak_extra_mib(whole_step)
    found["one hidden tensor MiB"] = states[0].nbytes / 2**20
    found["torch path, gate forward + backward"] = graph_time_us(torch_step, buffers)
    # matrix_exp reads a number back from the card, which a graph cannot hold: timed by events.
    found["reference forward + backward (with launch gaps)"] = event_time_us(reference_step)
    found["build + gate forward + backward (with launch gaps)"] = event_time_us(whole_step)
    return {name: round(value, 2) for name, value in found.items()}


def event_time_us(call: Call, repeats: int = 30) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--buffers", type=int, default=12)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    options = parser.parse_args()
    result: dict[str, object] = {
        **vars(options), "card": torch.cuda.get_device_name(), "torch": torch.__version__,
        "tiles": {"forward": fused.FORWARD, "backward": fused.BACKWARD},
    }  # fmt: skip
    for name in options.dtypes:
        found = measure(options.tokens, options.hidden, getattr(torch, name), options.buffers)
        ratios = {key: round(found[key] / found["copy"], 2) for key in found if "MiB" not in key}
        result[name] = {"us": found, "times a copy": ratios}
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
