"""Parameter groups and optimizers, built from module handles and never from parts of names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from so8t_engine.config import Config
from so8t_engine.model.gradients import FlatGradients
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training.schedules import rate_factor

LORA, HEADS, ROTATIONS, BIASES, ALPHA = "lora", "heads", "rotations", "head_biases", "alpha"


def parameter_groups(model: SO8TModel, config: Config) -> list[dict[str, Any]]:
    """LoRA, heads, rotations, head biases and α, each with its rate and weight decay.

    Weight decay acts on LoRA and head weights only. Every trainable parameter is in exactly one group.
    """
    so8t = model.so8t
    linears = [module for module in so8t.heads.modules() if isinstance(module, nn.Linear)]
    head_weights = [linear.weight for linear in linears]
    head_biases = [linear.bias for linear in linears]
    # An ablation holds one factor, or both, at the identity.
    rotations = [theta for theta in (so8t.theta_safe, so8t.theta_cmd) if theta.requires_grad]
    own = {id(p) for p in so8t.parameters()}
    lora = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    rate, decay = config.so8t.learning_rate, config.training.weight_decay
    groups: list[dict[str, Any]] = [
        {"name": LORA, "params": lora, "lr": config.training.learning_rate, "weight_decay": decay},
        {"name": HEADS, "params": head_weights, "lr": rate, "weight_decay": decay},
        *([{"name": ROTATIONS, "params": rotations, "lr": rate, "weight_decay": 0.0}] if rotations else []),
        {"name": BIASES, "params": head_biases, "lr": rate, "weight_decay": 0.0},
    ]
    if so8t.gate_learned:
        groups.append(
            {
                "name": ALPHA,
                "params": [so8t.alpha],
                "lr": config.so8t.alpha_learning_rate,
                "weight_decay": 0.0,
            }
        )
    placed = [id(p) for group in groups for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert len(placed) == len(set(placed)), "a parameter is in two groups"
    assert set(placed) == trainable, "a trainable parameter is in no group"
    return groups


def make_optimizer(model: SO8TModel, config: Config) -> torch.optim.Optimizer:
    """AdamW of the configured kind. SO8T's own parameters keep 32-bit moments in every kind."""
    groups = parameter_groups(model, config)
    on_card = model.so8t.theta_safe.device.type == "cuda"
    if config.training.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    import bitsandbytes as bnb

    from so8t_engine.training.adamw_8bit import AdamW8bit, PagedAdamW8bit

    paged = config.training.optimizer == "paged_adamw_8bit" and on_card
    manager = bnb.optim.GlobalOptimManager.get_instance()
    # It knows parameters by id(), which Python gives to others once a run is gone.
    manager.initialize()
    for parameter in model.so8t.parameters():
        manager.register_parameters([parameter])
        manager.override_config(parameter, "optim_bits", 32)
    optimizer = (PagedAdamW8bit if paged else AdamW8bit)(groups, betas=(0.9, 0.999), eps=1e-8)
    gradients = model.gradients
    if gradients is None and not on_card:
        # Passes go on making gradients of their own; copied side by side they cost one update and not one
        # for each matrix: measured 16 instead of 38 ms for the demonstration's 32.
        gradients = FlatGradients.of_one_kind(groups[0]["params"])
    if gradients is not None:
        optimizer.join(groups[0]["params"], gradients)
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, config: Config, total_steps: int) -> LambdaLR:
    """Warm-up and decay for all groups but α, whose rate is constant so that it can follow its target."""
    factor = rate_factor(config, total_steps)

    def constant(step: int) -> float:
        return 1.0

    factors: list[Callable[[int], float]] = [
        constant if group.get("name") == ALPHA else factor for group in optimizer.param_groups
    ]
    return LambdaLR(optimizer, factors)
