"""Resuming on a card: bit for bit with deterministic kernels, and how much differs without them.

    python tests/gpu/test_resume_cuda.py

prints the figures; pytest runs the same with its assertions.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from so8t_engine.training.checkpoint import checkpoints, publish_folder  # noqa: E402
from so8t_engine.training.checkpoint_state import OPTIMIZER, WEIGHTS, Snapshot, capture_weights  # noqa: E402
from so8t_engine.training.optimizer_state import capture_optimizer, restore_optimizer  # noqa: E402
from so8t_engine.training.run_directory import RunDirectory  # noqa: E402
from tests.faults.harness import last_weights, losses, same, tiny_run_config, train, write_sources  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card"),
]


def resume_on_a_card(folder: Path, quantization: str, deterministic: bool) -> dict[str, Any]:
    """A run and its continuation from the middle. Returns how far apart they end."""
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    model, rows = write_sources(folder)
    config = tiny_run_config(
        model,
        rows,
        folder / "runs",
        model={"device": "cuda", "quantization": quantization},
        training={"optimizer": "paged_adamw_8bit"},
        checkpoints={"keep": 1000},
    )
    whole = folder / "whole"
    assert train(config, whole) == 0
    chosen = checkpoints(whole / "checkpoints")[4]
    part = RunDirectory.create(config, folder / "part")
    shutil.copytree(chosen, part.checkpoints / chosen.name)
    assert train(config, part.path) == 0
    one, other = last_weights(whole), last_weights(part.path)
    told, again = losses(whole), losses(part.path)
    torch.use_deterministic_algorithms(False)
    return {
        "quantization": quantization,
        "deterministic": deterministic,
        "equal": same(one, other) and all(told[step] == again[step] for step in again),
        "max_weight_difference": max(float((one[n].double() - other[n].double()).abs().max()) for n in one),
        "max_loss_difference": max(abs(told[step] - again[step]) for step in again),
    }


def _optimizer(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.nn.Parameter], Any]:
    import bitsandbytes as bnb

    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in weights.items()}
    groups = [{"name": "all", "params": list(parameters.values()), "lr": 1e-3}]
    # It knows parameters by id(), which Python gives to others once a run is gone.
    bnb.optim.GlobalOptimManager.get_instance().initialize()
    return parameters, bnb.optim.PagedAdamW8bit(groups)


def _step(parameters: dict[str, torch.nn.Parameter], optimizer: Any, seed: int) -> None:  # noqa: ANN401
    generator = torch.Generator("cuda").manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator, device="cuda")
    optimizer.step()


def paged_state(folder: Path) -> dict[str, Any]:
    """Phi-3.5-mini's LoRA with paged 8-bit moments: what a copy takes, and whether it comes back paged."""
    shapes = [(16, 3072), (9216, 16), (3072, 16), (16384, 16), (16, 8192), (3072, 16)] * 32
    weights = {f"w{number}": torch.randn(shape, device="cuda") for number, shape in enumerate(shapes)}
    parameters, optimizer = _optimizer(weights)
    for seed in range(3):
        _step(parameters, optimizer, seed)
    names = {id(parameter): name for name, parameter in parameters.items()}
    torch.cuda.synchronize()
    seconds = []
    for seed in range(3, 8):
        _step(parameters, optimizer, seed)  # the card has its pages again, as between two steps of a run
        torch.cuda.synchronize()
        began = time.perf_counter()
        tensors, content = capture_optimizer(optimizer, names)
        copied = capture_weights(parameters, torch.zeros(()))
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    by_host = {
        f"{names[id(parameter)]}/{key}": state[key].clone().cpu()
        for parameter, state in optimizer.state.items()
        for key in ("state1", "state2", "absmax1", "absmax2")
    }
    by_host_s = time.perf_counter() - began
    snapshot = Snapshot(3, {WEIGHTS: copied, OPTIMIZER: tensors}, {"state.json": "{}"})
    began = time.perf_counter()
    publish_folder(folder / "phi", snapshot.write, needed_bytes=snapshot.nbytes)
    written = time.perf_counter() - began
    again, other = _optimizer({name: parameter.detach() for name, parameter in parameters.items()})
    restore_optimizer(other, {id(p): name for name, p in again.items()}, tensors, copy.deepcopy(content))
    paged = [getattr(state["state1"], "is_paged", False) for state in optimizer.state.values()]
    paged_again = [getattr(state["state1"], "is_paged", False) for state in other.state.values()]
    for seed in (17, 18):
        _step(parameters, optimizer, seed)
        _step(again, other, seed)
    torch.cuda.synchronize()
    return {
        "parameters": sum(p.numel() for p in parameters.values()),
        "megabytes": snapshot.nbytes / 1e6,
        "copy_s": sorted(seconds)[2],
        "longest_copy_s": max(seconds),
        "read_by_the_host_s": by_host_s,
        "as_the_host_reads": all(torch.equal(tensors[name], value) for name, value in by_host.items()),
        "publish_s": written,
        "paged_before": sum(paged),
        "paged_after": sum(paged_again),
        "equal": all(torch.equal(parameters[name], again[name]) for name in parameters),
    }


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_with_deterministic_kernels_a_resumed_run_is_the_same_to_the_bit(
    tmp_path: Path, quantization: str
) -> None:
    assert resume_on_a_card(tmp_path, quantization, True)["equal"]


def test_paged_state_comes_back_paged_and_equal(tmp_path: Path) -> None:
    found = paged_state(tmp_path)
    assert found["paged_after"] == found["paged_before"] > 0
    assert found["as_the_host_reads"]
    assert found["equal"]


if __name__ == "__main__":
    import tempfile

    print(torch.cuda.get_device_name(), torch.__version__)  # noqa: T201
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(paged_state(Path(place))))  # noqa: T201
        for number, kind in enumerate(("nf4", "int8", "none")):
            for deterministic in (True, False):
                where = Path(place) / f"{number}{deterministic}"
                print(json.dumps(resume_on_a_card(where, kind, deterministic)))  # noqa: T201
