"""Source ``checkpoint``: what a trained run recorded, block by block. Nothing is invented or repeated."""

# ruff: noqa: N815  (fields of the dataclass carry their shapes)

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from so8t_engine.errors import DataError
from so8t_engine.i18n import _
from so8t_engine.so8t.schedule import PHASES, phase_at
from so8t_engine.soul_dataset.records import SoulRecords
from so8t_engine.soul_dataset.rotations import BLOCK, commutator_norm, orthogonality_error
from so8t_engine.soul_dataset.settings import SoulDatasetSettings
from so8t_engine.soul_dataset.splitting import proportional
from so8t_engine.training.checkpoint import checkpoint_path, verify_folder
from so8t_engine.training.events import GateEvent, RotationEvent, StepEvent
from so8t_engine.training.run_directory import RunDirectory

Arrays = dict[str, NDArray[Any]]
#: What float32 leaves of an exact map; a ``free`` run's matrices are not rotations.
ORTHOGONAL = 1e-4


@dataclass
class _Snapshot:
    """One recorded step: rotations of every block, and what else is known of it."""

    gate: GateEvent
    step: StepEvent | None
    safe_B88: NDArray[np.float32]
    cmd_B88: NDArray[np.float32]
    heads: Arrays = field(default_factory=dict)
    lora: dict[str, Any] | None = None


def checkpoint_records(settings: SoulDatasetSettings) -> SoulRecords:
    """Records of the steps at which the run stored its rotations, one a step and block.

    Head values are the norms of each class's weights on the block, where a checkpoint or ``final/`` of
    that step holds the heads; they are missing elsewhere. LoRA likewise.

    Raises:
        DataError: the run stored no rotations, or they are damaged or no rotations.
        RunError: no run folder.
    """
    run = RunDirectory.open(settings.run or "")
    snapshots = _snapshots(run)
    if not snapshots:
        raise DataError(
            _("The run in %(path)s has recorded no rotations.") % {"path": str(run.path)},
            _("Choose a run that has trained at least one step."),
        )
    blocks = len(snapshots[0].safe_B88)
    every = [(s, block) for s in range(len(snapshots)) for block in range(blocks)]
    total_steps = max(s.step.of for s in snapshots if s.step) if any(s.step for s in snapshots) else 1
    phase_of = [PHASES.index(phase_at(max(s.gate.step - 1, 0), total_steps)) for s in snapshots]
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    if settings.records < len(every):
        phases = np.array([phase_of[s] for s, _block in every])
        kept = proportional(phases, settings.records, generator)
        every = [every[i] for i in np.sort(kept)]
    return _collect(run, snapshots, every, phase_of, total_steps, blocks)


def _collect(
    run: RunDirectory,
    snapshots: list[_Snapshot],
    every: list[tuple[int, int]],
    phase_of: list[int],
    total_steps: int,
    blocks: int,
) -> SoulRecords:
    which = np.array([s for s, _block in every])
    block_N = np.array([block for _s, block in every])
    safe_N88 = np.stack([snapshots[s].safe_B88[block] for s, block in every]).astype(np.float32)
    cmd_N88 = np.stack([snapshots[s].cmd_B88[block] for s, block in every]).astype(np.float32)
    wide_safe, wide_cmd = safe_N88.astype(np.float64), cmd_N88.astype(np.float64)
    norms = {s: _block_norms(snapshots[s].heads, blocks) for s in set(which.tolist())}
    heads = [norms[s] for s in which]
    nan2, nan4, nan22 = np.full(2, np.nan), np.full(4, np.nan), np.full((2, 2), np.nan)
    per_step_lora = {s: snapshots[s].lora for s in set(which.tolist())}
    gates = [s.gate for s in snapshots]
    raw_pet = [s.step.raw.get("pet", np.nan) if s.step else np.nan for s in snapshots]
    return SoulRecords(
        source="checkpoint",
        sample_id=[f"{run.id}-s{gates[s].step:08d}-b{block:04d}" for s, block in every],
        timestamp=[_iso(gates[s].time) for s in which],
        step_N=np.array([gates[s].step for s in which]),
        of=total_steps,
        phase_N=np.array([phase_of[s] for s in which]),
        alpha_N=np.array([gates[s].alpha for s in which]),
        gate_N=np.array([gates[s].g for s in which]),
        alpha_source=gates[0].source,
        commutator_N=commutator_norm(wide_cmd, wide_safe),
        safe_N88=safe_N88,
        cmd_N88=cmd_N88,
        total_N88=(wide_cmd @ wide_safe).astype(np.float32),
        safety_N2=np.stack(
            [h["safety"][b] if h else nan2 for h, b in zip(heads, block_N, strict=True)]
        ).astype(np.float32),
        task_N4=np.stack([h["task"][b] if h else nan4 for h, b in zip(heads, block_N, strict=True)]).astype(
            np.float32
        ),
        dual_N22=np.stack([h["dual"][b] if h else nan22 for h, b in zip(heads, block_N, strict=True)]).astype(
            np.float32
        ),
        heads_source=["weight_norm" if h else "missing" for h in heads],
        pet_N=np.array([raw_pet[s] for s in which]),
        pet_source="measured",
        lora=[per_step_lora[s] for s in which],
        block_N=block_N,
        notes={
            "synthetic": False,
            "run": run.id,
            "config_digest": run.config().digest(),
            "recorded_steps": len(snapshots),
            "blocks": blocks,
            "available": len(snapshots) * blocks,
            "explanation": (
                "Read from a run. Head values are norms of the class's weights on the record's block, "
                "where a checkpoint of that step was kept, and missing elsewhere."
            ),
        },
    )


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def _snapshots(run: RunDirectory) -> list[_Snapshot]:
    gates: dict[int, GateEvent] = {}
    steps: dict[int, StepEvent] = {}
    files: dict[int, str] = {}
    for event in run.read_events():
        if isinstance(event, GateEvent):
            gates[event.step] = event
        elif isinstance(event, StepEvent):
            steps[event.step] = event
        elif isinstance(event, RotationEvent) and event.file:
            files[event.step] = event.file
    last = max(steps, default=0)
    found = []
    for step, name in sorted(files.items()):
        if step not in gates:  # before the first step there is no α yet
            continue
        stored = _read(run.path / name)
        if not {"r_safe", "r_cmd"} <= set(stored):
            raise DataError(_("%(path)s holds no rotations.") % {"path": str(run.path / name)})
        for matrix in ("r_safe", "r_cmd"):
            error = float(orthogonality_error(stored[matrix]).max())
            if not error <= ORTHOGONAL:
                raise DataError(
                    _("%(path)s: %(name)s is not orthogonal (max|RᵀR − I| = %(error).3g).")
                    % {"path": str(run.path / name), "name": matrix, "error": error},
                    _("The soul dataset takes runs with the exp or Cayley map."),
                )
        snapshot = _Snapshot(gates[step], steps.get(step), stored["r_safe"], stored["r_cmd"])
        weights = _weights(run, step, step == last)
        snapshot.heads = _heads(weights)
        snapshot.lora = _lora(weights, run.config().lora.alpha)
        found.append(snapshot)
    return found


def _weights(run: RunDirectory, step: int, final: bool) -> Arrays:
    """LoRA and heads as they were after ``step``; empty where the run kept no copy."""
    folder = checkpoint_path(run.checkpoints, step)
    if folder.is_dir():
        verify_folder(folder)
        return _read(folder / "trainable.safetensors")
    if final and run.final.is_dir():
        verify_folder(run.final)
        return _read(run.final / "adapter" / "adapter_model.safetensors") | _read(
            run.final / "soul.safetensors"
        )
    return {}


def _read(path: Path) -> Arrays:
    try:
        with safe_open(path, framework="np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise DataError(
            _("%(path)s cannot be read: %(reason)s") % {"path": str(path), "reason": error},
            _("Choose another run."),
        ) from error


def _heads(weights: Arrays) -> Arrays:
    found = {}
    for name in ("safety_head", "task_head", "dual_heads.0", "dual_heads.1"):
        for prefix in ("so8t.heads.", "heads."):
            if (key := f"{prefix}{name}.weight") in weights:
                found[name] = weights[key]
    return found if len(found) == 4 else {}


def _block_norms(heads: Arrays, blocks: int) -> dict[str, NDArray[np.float64]] | None:
    """Norm of each class's weights on each block: safety (B, 2), task (B, 4), dual (B, 2, 2)."""
    if not heads:
        return None

    def norms(weight_CH: NDArray[Any]) -> NDArray[np.float64]:
        blocked = weight_CH.astype(np.float64).reshape(len(weight_CH), blocks, BLOCK)
        found: NDArray[np.float64] = np.linalg.norm(blocked, axis=-1).T
        return found

    return {
        "safety": norms(heads["safety_head"]),
        "task": norms(heads["task_head"]),
        "dual": np.stack((norms(heads["dual_heads.0"]), norms(heads["dual_heads.1"])), axis=1),
    }


def _lora(weights: Arrays, alpha: float) -> dict[str, Any] | None:
    """Module → shape (out, in), rank, and ‖(α/r) B A‖_F, without forming the product."""
    found: dict[str, Any] = {}
    for name, a_RI in weights.items():
        if ".lora_A." not in name:
            continue
        b_OR = weights.get(name.replace(".lora_A.", ".lora_B."))
        if b_OR is None:
            continue
        a64, b64 = a_RI.astype(np.float64), b_OR.astype(np.float64)
        squared = float(np.sum((b64.T @ b64) * (a64 @ a64.T)))
        rank = a_RI.shape[0]
        module = name.split(".lora_A.")[0].split("base_model.model.", 1)[-1]
        found[module] = {
            "shape": [int(b_OR.shape[0]), int(a_RI.shape[1])],
            "rank": int(rank),
            "norm": alpha / rank * max(squared, 0.0) ** 0.5,
        }
    return found or None
