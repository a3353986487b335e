"""What the section ``so8t`` of a configuration means for a model: loss weights, and where the gate acts."""

from __future__ import annotations

from torch import Tensor

from so8t_engine.config.training import SO8TConfig
from so8t_engine.so8t.losses import LossWeights
from so8t_engine.so8t.placement import Placement


def loss_weights(config: SO8TConfig, pet: float | Tensor) -> LossWeights:
    """The specification's weights from the configuration, with PET's λ at the current step."""
    return LossWeights(
        lm=config.lm_weight,
        orthogonality=config.orthogonality_weight,
        alpha=config.alpha_weight,
        consistency=config.consistency_weight,
        safety=config.safety_weight,
        task=config.task_weight,
        dual=config.dual_weight,
        commutator=config.commutator_weight,
        pet=pet,
        commutator_margin=config.commutator_margin,
        focal_gamma=config.focal_gamma,
        task_class_weights=(
            config.class_weights[0],
            config.class_weights[1],
            config.class_weights[2],
            config.class_weights[3],
        ),
    )


def gate_placement(config: SO8TConfig, layers: int) -> Placement:
    """Where the configuration puts the gate in a model of so many layers. Raises `ModelError`."""
    return Placement(config.gate_final, tuple(config.gate_layers), config.gate_site).resolved(layers)
