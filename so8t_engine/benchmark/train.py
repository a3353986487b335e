"""Training steps of this program against other ways to train the same adapters, on the same rows.

Each stack is a process of its own on a card that is otherwise empty, so that no peak is another's; stacks
alternate (``rounds``), because small batches are bound by the host and repeats differ. Every row is full
length and every token is a label.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.config import Config
from so8t_engine.training.optimizer import make_optimizer

STACKS = ("so8t", "plain", "liger")
TARGETS = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "other": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


@dataclass(frozen=True, slots=True)
class Job:
    """What one process measures.

    Attributes:
        settings: dotted settings of this program, for example ``memory.offload_activations``.
        cap_gib: of the allocator; 0 leaves it free.
    """

    stack: str
    shape: str
    quantization: str
    length: int
    batch: int = 1
    steps: int = 12
    warm: int = 4
    settings: dict[str, Any] | None = None
    cap_gib: float = 0.0


def _config(job: Job) -> Config:
    from so8t_engine.memory.fit import with_changes

    places = {
        "model.quantization": job.quantization, "data.max_length": job.length, "lora.dropout": 0.0,
        "training.batch_size": job.batch, "training.accumulation": 1, "so8t.alpha_schedule": "learned",
    }  # fmt: skip
    return with_changes(Config(), places | (job.settings or {}))


def _with_spare(job: Job, config: Config) -> Config:
    """What ``memory.use_spare`` comes to for this shape."""
    from so8t_engine.benchmark.random_base import SHAPES
    from so8t_engine.memory.budget import GIB, compute_bytes
    from so8t_engine.memory.geometry import geometry_from_config
    from so8t_engine.memory.machine import this_machine
    from so8t_engine.memory.spare import choose_spare, with_kept

    spare = choose_spare(
        config, geometry_from_config(SHAPES[job.shape]), this_machine(), cpu=False,
        compute=compute_bytes(config, cpu=False), budget=int(config.memory.limit_gib * GIB),
    )  # fmt: skip
    return with_kept(config, spare.layers, spare.weights)


def _so8t(job: Job, base: nn.Module, config: Config) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from so8t_engine.benchmark.random_base import SHAPES
    from so8t_engine.memory.geometry import geometry_from_config
    from so8t_engine.memory.machine import free_system_memory
    from so8t_engine.model.gradients import FlatGradients
    from so8t_engine.model.so8t_model import SO8TModel, StepTotals
    from so8t_engine.training.recorded import RecordedPasses
    from so8t_engine.training.waiting import choose_waiting

    if config.memory.use_spare:
        config = _with_spare(job, config)
    model = SO8TModel(base, config).train()
    if model.lean is not None:
        geometry = geometry_from_config(SHAPES[job.shape])
        choose_waiting(model.lean, config, geometry, free_system_memory())
    recorded = None
    if config.training.recorded_passes != "off" and RecordedPasses.impossible(model, config) is None:
        model.gradients = FlatGradients.for_training(list(model.trainable().values()))
        always = config.training.recorded_passes == "on"
        recorded = RecordedPasses(model, job.length, 0, limit=(job.cap_gib or 80.0) * 2**30, always=always)

    def one_pass(ids_NT: Tensor) -> Tensor:
        rows = len(ids_NT)
        batch = {
            "input_ids_NT": ids_NT, "labels_NT": ids_NT, "attention_mask_NT": torch.ones_like(ids_NT),
            "pool_index_N": torch.full((rows,), ids_NT.shape[1] - 1, device=ids_NT.device),
            "task_N": torch.arange(rows, device=ids_NT.device) % 4,
            "safety_N": torch.arange(rows, device=ids_NT.device) % 2,
        }  # fmt: skip
        totals = StepTotals(rows * (ids_NT.shape[1] - 1), rows, rows, rows, 1)
        report = None
        if recorded is not None:
            report = recorded.replay(batch, totals, 0.0, 0.05, gradients_are_zero=True)
        if report is None:

            def ordinary() -> Tensor:
                nonlocal report
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    report = model(batch, totals, alpha_target=0.0, pet_weight=0.05)
                report.loss.backward()
                return report.loss  # type: ignore[no-any-return]

            ordinary() if recorded is None else recorded.timed(ordinary)
        assert report is not None
        model.last_terms = report.terms  # type: ignore[assignment]
        return report.loss

    return model, one_pass


def _plain(job: Job, base: nn.Module, config: Config) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from peft import LoraConfig, get_peft_model

    base_any: Any = base
    targets = TARGETS.get(base_any.config.model_type, TARGETS["other"])
    torch.manual_seed(config.training.seed)
    lora = LoraConfig(r=config.lora.r, lora_alpha=config.lora.alpha, target_modules=targets)
    model: Any = get_peft_model(base_any, lora).train()
    if config.training.gradient_checkpointing:
        reentrant = job.quantization == "int8"
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()

    return model, _pass_of(model)


def _pass_of(model: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401
    """A pass of a model that computes its own loss."""

    def one_pass(ids_NT: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss: Tensor = model(input_ids=ids_NT, labels=ids_NT).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return one_pass


@dataclass(frozen=True, slots=True)
class Steps:
    """A model and its optimizer, ready for whole steps.

    Attributes:
        step: one optimizer step on ids (N, T); what it returns tells the LM loss when called.
        trainable: parameters that learn.
        kept: layers that keep their activations, and such with dequantised weights.
    """

    step: Callable[[Tensor], Callable[[], float]]
    trainable: int
    kept: tuple[int, int] = (0, 0)


def prepare_steps(job: Job, model: nn.Module | None = None) -> Steps:
    """Everything a step of ``job`` needs, on the card.

    Args:
        model: of a stack that makes its own; its forward pass takes ``input_ids`` and ``labels``.
    """
    from so8t_engine.benchmark.random_base import random_base
    from so8t_engine.model.loading import choose_dtype

    device, config = torch.device("cuda", 0), _config(job)
    if model is None:
        if job.stack == "liger":
            from liger_kernel.transformers import apply_liger_kernel_to_phi3

            apply_liger_kernel_to_phi3()
        base = random_base(
            job.shape, config.model.quantization, double_quant=config.model.double_quant,
            attention=config.model.attention, device=device,
            dtype=choose_dtype(config.model.compute_dtype, device),
        )  # fmt: skip
        model, one_pass = (_so8t if job.stack == "so8t" else _plain)(job, base, config)
    else:
        one_pass = _pass_of(model)
    optimizer, owner = _optimizer(model, config, job), model
    parameters = [p for p in model.parameters() if p.requires_grad]
    if job.cap_gib:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(job.cap_gib * 2**30 / total)

    def step(ids_NT: Tensor) -> Callable[[], float]:
        loss = one_pass(ids_NT)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        owner.zero_grad(set_to_none=True)
        terms = getattr(owner, "last_terms", None)
        return lambda: float(loss if terms is None else terms["lm"][0])

    lean: Any = getattr(owner, "lean", None)
    kept = (0, 0) if lean is None else (lean.kept_layers, lean.kept_weights)
    return Steps(step, sum(p.numel() for p in parameters), kept)


def run_steps(job: Job, prepared: Steps) -> dict[str, Any]:
    """Warm-up and measured steps on random rows; tokens/s is of the median step."""
    from so8t_engine.benchmark.random_base import SHAPES

    device, vocabulary = torch.device("cuda", 0), int(SHAPES[job.shape]["vocab_size"])
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    fixed = torch.cuda.memory_allocated()
    random = torch.Generator().manual_seed(1)
    times, losses = [], []
    for _step in range(job.warm + job.steps):
        ids_NT = torch.randint(3, vocabulary, (job.batch, job.length), generator=random).to(device)
        torch.cuda.synchronize()
        began = time.perf_counter()
        loss = prepared.step(ids_NT)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        losses.append(loss())
    median = statistics.median(times[job.warm :])
    return asdict(job) | {
        "tokens_per_s": job.batch * job.length / median, "step_s": median, "steps_s": times[job.warm :],
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
        "device_used": _device_used(device),
        "fixed": fixed, "losses": losses, "card": torch.cuda.get_device_name(device),
        "trainable": prepared.trainable, "kept": prepared.kept, "torch": torch.__version__,
    }  # fmt: skip


def measure(job: Job) -> dict[str, Any]:
    """Run one job in this process."""
    return run_steps(job, prepare_steps(job))


def _device_used(device: torch.device) -> int:
    """Bytes that are taken on the card, by whomever."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _optimizer(model: nn.Module, config: Config, job: Job) -> torch.optim.Optimizer:
    if job.stack == "so8t":
        return make_optimizer(model, config)  # type: ignore[arg-type]
    import bitsandbytes as bnb

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = bnb.optim.PagedAdamW8bit(
        parameters, lr=config.training.learning_rate, weight_decay=config.training.weight_decay
    )
    return optimizer


def available(stack: str) -> bool:
    """Whether what the stack needs is installed."""
    return stack != "liger" or find_spec("liger_kernel") is not None


def run_job(job: Job) -> dict[str, Any]:
    """`measure` in a process of its own; ``error`` where it failed."""
    command = [sys.executable, "-m", "so8t_engine.benchmark.train", json.dumps(asdict(job))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode == 0 and lines:
        result: dict[str, Any] = json.loads(lines[-1])
        return result
    return asdict(job) | {"error": (ended.stderr.strip().splitlines() or ["no output"])[-1][:300]}


if __name__ == "__main__":
    from so8t_engine.memory.allocator import prefer_expandable_segments

    prefer_expandable_segments()
    sys.stdout.write(json.dumps(measure(Job(**json.loads(sys.argv[1])))) + "\n")
