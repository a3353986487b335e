"""Training the projector with everything else frozen: LLaVA's first stage, behind the trained gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from so8t_engine.evaluation.intervals import bootstrap
from so8t_engine.evaluation.outputs import TunedModel
from so8t_engine.files import move
from so8t_engine.so8t.attach import attach_site_gates, lm_head_of
from so8t_engine.vision.joined import JoinedBatch, Sample, batches, caption_losses, join
from so8t_engine.vision.projector import Projector

SAVE_EVERY = 25


@dataclass(frozen=True)
class ProjectorTraining:
    """Optimisation of the projector: AdamW, warm-up of 3 %, half a cosine to 0."""

    steps: int = 200
    batch_size: int = 8
    learning_rate: float = 1e-3
    seed: int = 42


@dataclass
class PairData:
    """Encoded pairs: the frozen features (N, P, D), computed once, and the ids around them."""

    features_NPD: Tensor  # noqa: N815
    samples: list[Sample]


def gates_in_layers(tuned: TunedModel) -> AbstractContextManager[Any]:
    """The run's gates inside layers, attached for a block; the one before the head acts in the loss."""
    place = tuned.placement
    return (
        attach_site_gates(tuned.causal_lm, tuned.so8t, place.layers, place.site)
        if place.layers
        else nullcontext()
    )


def embedding_scale(tuned: TunedModel) -> float:
    """Root mean square of the base model's token embeddings."""
    weight = tuned.causal_lm.get_input_embeddings().weight
    return float(weight.detach().float().square().mean().sqrt())


def train_projector(
    tuned: TunedModel,
    projector: Projector,
    data: PairData,
    settings: ProjectorTraining,
    *,
    state_file: Path | None = None,
    proceed: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train and return the loss (nats a caption token) of each step.

    Args:
        state_file: projector, optimizer and losses every 25 steps; a later call goes on from there and
            ends with the same numbers.
        proceed: called after each step; it may raise to stop.
    """
    tuned.so8t.requires_grad_(False)
    device = tuned.so8t.theta_safe.device
    projector.to(device).train()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    losses = _restore(state_file, projector, optimizer)
    embedding = tuned.causal_lm.get_input_embeddings()
    with gates_in_layers(tuned), _mixed(tuned):
        for step in range(len(losses), settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _rate(step, settings.steps)
            rows = _rows_of_step(step, len(data.samples), settings)
            patches_NPH = projector(data.features_NPD[rows].to(device))
            batch = join(embedding, [data.samples[r] for r in rows], patches_NPH)
            sums_N, counts_N = caption_losses(tuned, batch)
            loss = sums_N.sum() / counts_N.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            if state_file is not None and (step + 1) % SAVE_EVERY == 0:
                _save(state_file, projector, optimizer, losses)
            proceed(step + 1, losses[-1])
    projector.eval()
    return losses


def _mixed(tuned: TunedModel) -> AbstractContextManager[Any]:
    weight = next(lm_head_of(tuned.causal_lm).parameters())
    mixed = weight.is_cuda and weight.dtype != torch.float32
    return torch.autocast("cuda", dtype=weight.dtype) if mixed else nullcontext()


def _rate(step: int, steps: int) -> float:
    warm = max(1, math.ceil(0.03 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _rows_of_step(step: int, count: int, settings: ProjectorTraining) -> list[int]:
    """The rows of a step: a function of seed and step alone, each row once in a pass."""
    wanted = range(step * settings.batch_size, (step + 1) * settings.batch_size)
    orders: dict[int, Sequence[int]] = {}
    found = []
    for place in wanted:
        epoch, index = divmod(place, count)
        if epoch not in orders:
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
            orders[epoch] = torch.randperm(count, generator=generator).tolist()
        found.append(int(orders[epoch][index]))
    return found


def _save(file: Path, projector: Projector, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    partial = file.with_name(file.name + ".tmp")
    state = {"projector": projector.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
    torch.save(state, partial)
    move(partial, file, over=True)


def _restore(file: Path | None, projector: Projector, optimizer: torch.optim.Optimizer) -> list[float]:
    if file is None or not file.exists():
        return []
    state = torch.load(file, map_location="cpu", weights_only=True)
    projector.load_state_dict(state["projector"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["losses"])


@torch.no_grad()
def held_out_losses(
    tuned: TunedModel, projector: Projector, data: PairData, *, seed: int, batch_size: int = 8
) -> dict[str, Any]:
    """Caption loss on pairs that were not trained on: with the right picture and with another row's.

    Only the difference says that the model reads the picture: a projector can also learn what captions
    look like. Nats a token; the interval of the difference is a bootstrap over rows.
    """
    count = len(data.samples)
    if count < 2:
        return {"rows": count, "right": None, "wrong": None, "difference": None}
    shift = np.random.default_rng(seed).permutation(count)
    wrong = np.empty(count, dtype=np.int64)
    wrong[shift] = np.roll(shift, 1)  # one cycle: no row keeps its own picture
    sums: dict[str, list[float]] = {"right": [], "wrong": []}
    counts: list[int] = []
    device = tuned.so8t.theta_safe.device
    embedding = tuned.causal_lm.get_input_embeddings()
    projector.eval()
    with gates_in_layers(tuned), _mixed(tuned):
        for name, order in (("right", np.arange(count)), ("wrong", wrong)):
            for part in batches(count, batch_size):
                chosen = torch.from_numpy(order[list(part)])
                batch: JoinedBatch = join(
                    embedding,
                    [data.samples[r] for r in part],
                    projector(data.features_NPD[chosen].to(device)),
                )
                sums_N, counts_N = caption_losses(tuned, batch)
                sums[name] += sums_N.tolist()
                counts += counts_N.tolist() if name == "right" else []
    tokens, right, other = np.array(counts), np.array(sums["right"]), np.array(sums["wrong"])
    change = bootstrap(lambda r: float((other[r] - right[r]).sum() / tokens[r].sum()), count, seed=seed)
    return {
        "rows": count,
        "right": float(right.sum() / tokens.sum()),
        "wrong": float(other.sum() / tokens.sum()),
        "difference": asdict(change),
    }
