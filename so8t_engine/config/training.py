"""SO8T and training settings."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from so8t_engine.config.fields import Section, a_switch_in_yaml, setting
from so8t_engine.i18n import N_, _

# (1 + sqrt 5) / 2, the α gate's target; so8t.schedule holds the same value for the mathematics.
PHI = 1.618033988749895


class SO8TConfig(Section):
    """Rotations, gate, heads, and the weights of their losses."""

    rotation_map: Literal["exp", "cayley", "free"] = setting(
        "exp",
        N_("Rotation map"),
        N_("exp and cayley are exact rotations; free is an unconstrained 8×8 matrix, for comparison."),
    )
    variant: Literal["full", "safe_only", "cmd_only", "swapped", "no_rotation"] = setting(
        "full",
        N_("Variant"),
        N_(
            "full is SO8T: M = R_cmd R_safe, safety first. The others are ablations for comparison: one "
            "factor alone, the order swapped, or no rotation at all."
        ),
        advanced=True,
    )
    init_std: float = setting(
        0.02,
        N_("Initial spread of θ"),
        N_("Standard deviation of the generators. At exactly 0 the commutator has no gradient."),
        advanced=True,
        gt=0.0,
        le=1.0,
    )
    gate_form: Literal["residual", "additive", "geodesic"] = setting(
        "residual",
        N_("Gate form"),
        N_("residual: h + g(Mh − h). additive: h + gMh, which grows the norm. geodesic: exp(g log M) h."),
    )
    gate_layers: list[int] = setting(
        [],
        N_("Gate in layers"),
        N_(
            "The same rotations and α also act inside these decoder layers. Counted from 0, negative ones "
            "from the end; empty gates none."
        ),
    )
    gate_site: Literal["mlp", "attention"] = setting(
        "mlp",
        N_("Gate's place in a layer"),
        N_(
            "mlp: on the output of down_proj. attention: on the output of o_proj. Both before the residual "
            "stream, so that the gate can be baked into that linear."
        ),
        advanced=True,
    )
    gate_final: bool = setting(
        True,
        N_("Gate before the LM head"),
        N_("Gates the final hidden states. When off, the gate must act in at least one layer."),
    )
    alpha_schedule: Literal["sigmoid", "linear", "phases", "learned"] = setting(
        "learned",
        N_("α schedule"),
        N_("A scheduled α is assigned; only a learned α can converge, and only it is said to."),
    )
    alpha_start: float = setting(
        -5.0, N_("α at the start"), N_("g = σ(α); −5 gives g = 0.0067."), ge=-20.0, le=20.0
    )
    alpha_target: float = setting(
        PHI, N_("α's target"), N_("The golden ratio gives g = 0.8345."), ge=-20.0, le=20.0
    )
    anneal_fraction: float = setting(
        0.8, N_("Annealing part"), N_("Part of the run over which α* travels to its target."), gt=0.0, le=1.0
    )
    alpha_learning_rate: float = setting(
        0.05,
        N_("Learning rate of α"),
        N_("Step size of the learned α, which has far to travel and is a single number."),
        scale="log",
        advanced=True,
        gt=0.0,
        le=10.0,
    )
    learning_rate: float = setting(
        1e-3,
        N_("Learning rate of rotations and heads"),
        N_("Peak step size of θ_safe, θ_cmd and the heads; they start untrained, the base does not."),
        scale="log",
        gt=0.0,
        le=1.0,
    )
    orthogonality_weight: float = setting(
        0.01,
        N_("w orthogonality"),
        N_("Acts with the free map only; exact rotations need none."),
        advanced=True,
        ge=0.0,
    )
    alpha_weight: float = setting(0.1, N_("w α"), N_("Weight of (α − α*)² for a learned α."), ge=0.0)
    consistency_weight: float = setting(
        0.05, N_("w consistency"), N_("The heads must agree with each other."), ge=0.0
    )
    safety_weight: float = setting(1.0, N_("w safety"), N_("Weight of the safety head's loss."), ge=0.0)
    task_weight: float = setting(1.0, N_("w task"), N_("Weight of the task head's focal loss."), ge=0.0)
    dual_weight: float = setting(0.5, N_("w dual"), N_("Weight of the dual heads' loss."), ge=0.0)
    lm_weight: float = setting(1.0, N_("w language model"), N_("Weight of the next-token loss."), ge=0.0)
    focal_gamma: float = setting(
        2.0, N_("Focal γ"), N_("How strongly easy rows are discounted."), advanced=True, ge=0.0, le=10.0
    )
    class_weights: list[float] = setting(
        [1.0, 3.0, 5.0, 5.0],
        N_("Class weights"),
        N_("ALLOW, ESCALATION, DENY, REFUSE in the task loss."),
        advanced=True,
        min_length=4,
        max_length=4,
    )
    pet_weights: list[float] = setting(
        [0.01, 0.05, 0.1],
        N_("PET λ"),
        N_("Inertia penalty in the run's three phases."),
        min_length=3,
        max_length=3,
    )
    pet_fractions: list[float] = setting(
        [0.2, 0.4, 0.4],
        N_("PET phases"),
        N_("Parts of the run, adding up to 1."),
        advanced=True,
        min_length=3,
        max_length=3,
    )
    commutator_weight: float = setting(
        0.0,
        N_("w commutator"),
        N_("Weight of max(0, m − c)², which enforces that the order matters."),
        advanced=True,
        ge=0.0,
    )
    commutator_margin: float = setting(
        0.1, N_("Commutator margin m"), N_("The hinge acts below this."), advanced=True, ge=0.0, le=1.0
    )

    @model_validator(mode="after")
    def _phases_add_up(self) -> SO8TConfig:
        if abs(sum(self.pet_fractions) - 1.0) > 1e-6 or min(self.pet_fractions) < 0:
            raise ValueError(_("the three PET phases must be non-negative and add up to 1"))
        if min(self.class_weights) < 0 or min(self.pet_weights) < 0:
            raise ValueError(_("weights must not be negative"))
        if self.gate_form == "geodesic" and self.rotation_map == "free":
            raise ValueError(_("the geodesic gate needs an exact rotation map, exp or cayley"))
        if not self.gate_final and not self.gate_layers:
            raise ValueError(
                _("without the gate before the LM head, gate_layers must name at least one decoder layer")
            )
        return self


class TrainingConfig(Section):
    """Optimisation."""

    batch_size: int = setting(1, N_("Batch"), N_("Rows in one forward pass."), unit=N_("rows"), ge=1, le=4096)
    accumulation: int = setting(
        4, N_("Accumulation"), N_("Forward passes in one optimizer step."), unit=N_("passes"), ge=1, le=4096
    )
    epochs: float = setting(3.0, N_("Epochs"), N_("Passes over the training rows."), gt=0.0, le=1000.0)
    max_steps: int | None = setting(
        None,
        N_("Step limit"),
        N_("Ends after this many optimizer steps. Empty goes by epochs."),
        ge=1,
        le=10**9,
    )
    learning_rate: float = setting(
        2e-4, N_("Learning rate of LoRA"), N_("Peak step size."), scale="log", gt=0.0, le=1.0
    )
    weight_decay: float = setting(
        0.01, N_("Weight decay"), N_("Not on α, rotations, norms and biases."), ge=0.0, le=1.0
    )
    warmup_ratio: float = setting(
        0.1, N_("Warm-up"), N_("Part of the run over which the rate rises."), ge=0.0, le=1.0
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = setting(
        "cosine", N_("Rate schedule"), N_("How the rate falls after the warm-up.")
    )
    max_grad_norm: float = setting(1.0, N_("Gradient clip"), N_("Largest gradient norm."), gt=0.0, le=1000.0)
    optimizer: Literal["paged_adamw_8bit", "adamw_8bit", "adamw"] = setting(
        "paged_adamw_8bit",
        N_("Optimizer"),
        N_("Paged 8-bit AdamW keeps its state small. On the CPU the paged one is a plain 8-bit one."),
    )
    gradient_checkpointing: bool = setting(
        True,
        N_("Gradient checkpointing"),
        N_("Recomputes activations: less memory, about a third more time."),
    )
    length_grouping: bool = setting(
        False,
        N_("Group by length"),
        N_("Puts rows of like length into one batch: less padding."),
        advanced=True,
    )
    packing: bool = setting(
        False,
        N_("Pack rows"),
        N_(
            "Lays whole rows end to end up to batch × sequence length tokens instead of padding them; no row "
            "sees another. A forward pass then holds more rows than the batch says."
        ),
    )
    recorded_passes: Literal["off", "auto", "on"] = setting(
        "off",
        N_("Record passes"),
        N_(
            "On a card, a pass is recorded once for each padded length and replayed by one call (CUDA "
            "graphs): faster where launching takes longer than computing, as with short rows on a fast "
            "card. auto times a pass and decides."
        ),
        advanced=True,
    )
    evaluate_every: int | None = setting(
        None,
        N_("Evaluate every"),
        N_("Steps between evaluations. Empty evaluates at the start and at the end."),
        unit=N_("steps"),
        ge=1,
    )
    instruments_every: int = setting(
        10,
        N_("Rotation snapshot every"),
        N_("Steps between stored rotations for the heatmaps."),
        unit=N_("steps"),
        advanced=True,
        ge=1,
    )
    seed: int = setting(
        42, N_("Seed"), N_("Same seed, same rows, same machine: same losses."), ge=0, le=2**31 - 1
    )

    @field_validator("recorded_passes", mode="before")
    @classmethod
    def _a_switch_in_yaml(cls, value: object) -> object:
        return a_switch_in_yaml(value)
