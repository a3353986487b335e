"""The trainable SO8T module: two rotations, the gate and the heads, always in float32."""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.blocks import BLOCK
from so8t_engine.so8t.fused import can_fuse_build, fused_rotations
from so8t_engine.so8t.gate import GATE_FORMS, GateForm, apply_gate, gate_matrix
from so8t_engine.so8t.heads import SO8THeads, pool
from so8t_engine.so8t.rotation import (
    GENERATORS,
    ROTATION_MAPS,
    RotationMap,
    commutator_norm,
    determinant,
    generators_to_matrices,
    orthogonality_error,
)
from so8t_engine.so8t.schedule import ALPHA_START

#: ``full`` is SO8T. The others leave a part out, or turn the order round, to measure what the part is worth.
Variant = Literal["full", "safe_only", "cmd_only", "swapped", "no_rotation"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True)
class Rotations:
    """R_safe, R_cmd and M = R_cmd R_safe, each of shape (B, 8, 8), float32."""

    safe_B88: Tensor
    cmd_B88: Tensor
    total_B88: Tensor


@dataclass(frozen=True)
class AdapterOutput:
    """Hidden states (N, T, H) for the LM head, the heads' float32 logits, and g as a 0-dim tensor."""

    hidden_NTH: Tensor
    safety_logits_N2: Tensor
    task_logits_N4: Tensor
    dual_logits_N22: Tensor
    gate: Tensor


class SO8TAdapter(nn.Module):
    """Rotations per block of eight hidden units, a gate and heads.

    Its parameters stay float32 whatever dtype the model around it is moved to: a rotation in bf16 is
    orthogonal to 3e-3 only. `theta_safe` and `theta_cmd` have the shape (B, 28), or (B, 8, 8) for the
    ``free`` map, and begin at N(0, init_std²) in so(8).

    Args:
        hidden_size: H, a multiple of 8.
        rotation_map: ``exp``, ``cayley`` or ``free``.
        gate_form: ``residual``, ``additive`` or ``geodesic``.
        gate_learned: α is a parameter; otherwise a buffer assigned by `set_alpha`.
        alpha_start: the first α.
        init_std: standard deviation of generators and head weights. At 0 the commutator has no gradient.
        seed: of the initial values.
        variant: ``full``, or an ablation: ``safe_only`` and ``cmd_only`` hold the other factor at I,
            ``no_rotation`` both, ``swapped`` makes M = R_safe R_cmd.

    Raises:
        SO8TError: a hidden size that is no multiple of 8, an unknown map or form, or ``geodesic`` with
            ``free``, whose matrices have no logarithm in so(8).
    """

    alpha: Tensor

    def __init__(
        self,
        hidden_size: int,
        *,
        rotation_map: RotationMap = "exp",
        gate_form: GateForm = "residual",
        gate_learned: bool = False,
        alpha_start: float = ALPHA_START,
        init_std: float = 0.02,
        seed: int = 0,
        variant: Variant = "full",
    ) -> None:
        super().__init__()
        _check_options(hidden_size, rotation_map, gate_form, variant)
        self.hidden_size = hidden_size
        self.blocks = hidden_size // BLOCK
        self.rotation_map: RotationMap = rotation_map
        self.gate_form: GateForm = gate_form
        self.gate_learned = gate_learned
        self.variant: Variant = variant
        generator = torch.Generator().manual_seed(seed)
        self.theta_safe = nn.Parameter(self._initial(init_std, generator))
        self.theta_cmd = nn.Parameter(self._initial(init_std, generator))
        if variant in ("cmd_only", "no_rotation"):
            self._hold_at_identity(self.theta_safe)
        if variant in ("safe_only", "no_rotation"):
            self._hold_at_identity(self.theta_cmd)
        alpha = torch.tensor(float(alpha_start), dtype=torch.float32)
        if gate_learned:
            self.alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha)
        self.heads = SO8THeads(hidden_size, generator=generator)
        self._cached: Rotations | None = None
        self._cached_versions = (0, 0)
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def _initial(self, init_std: float, generator: torch.Generator) -> Tensor:
        theta_B28 = torch.randn((self.blocks, GENERATORS), generator=generator) * init_std
        return generators_to_matrices(theta_B28, "exp") if self.rotation_map == "free" else theta_B28

    def _hold_at_identity(self, theta: nn.Parameter) -> None:
        """exp(0) = I exactly, and a parameter without gradient stays there."""
        with torch.no_grad():
            theta.copy_(torch.eye(BLOCK).expand_as(theta) if self.rotation_map == "free" else torch.zeros(()))
        theta.requires_grad_(False)

    def build_rotations(self) -> Rotations:
        """The rotations of the current parameters, differentiable. Call it once per optimizer step or
        forward pass, outside checkpointed regions. Built and multiplied in float64, rounded once."""
        swapped = self.variant == "swapped"
        if self.rotation_map == "exp" and not swapped and can_fuse_build(self.theta_safe):
            return Rotations(*fused_rotations(self.theta_safe, self.theta_cmd))
        with torch.autocast(self.theta_safe.device.type, enabled=False):
            safe_B88 = generators_to_matrices(self.theta_safe.double(), self.rotation_map)
            cmd_B88 = generators_to_matrices(self.theta_cmd.double(), self.rotation_map)
            # Safety acts first: M h = R_cmd (R_safe h). Swapped only where a run asks for that ablation.
            total_B88 = safe_B88 @ cmd_B88 if swapped else cmd_B88 @ safe_B88
            return Rotations(safe_B88.float(), cmd_B88.float(), total_B88.float())

    @property
    def gate(self) -> Tensor:
        """g = σ(α), float32, 0-dim, differentiable where α is learned."""
        return torch.sigmoid(self.alpha)

    def set_alpha(self, value: float) -> None:
        """Assign the scheduled α.

        Raises:
            SO8TError: α is learned and therefore belongs to the optimizer.
        """
        if self.gate_learned:
            raise SO8TError(
                _("α is learned and cannot be assigned."), _("Choose a scheduled gate to assign it.")
            )
        with torch.no_grad():
            self.alpha.fill_(value)

    def forward(
        self,
        hidden_NTH: Tensor,
        pool_index_N: Tensor,
        rotations: Rotations | None = None,
        *,
        gate_hidden: bool = True,
    ) -> AdapterOutput:
        """Gate all tokens and read the heads at one token per row.

        Args:
            hidden_NTH: the final hidden states before the gate, shape (N, T, H).
            pool_index_N: the token the heads read, shape (N,): the last of the prompt or of the sequence.
            rotations: the result of `build_rotations`; built here when None.
            gate_hidden: False hands the hidden states on as they are, for a gate inside layers alone.
        """
        built = rotations or self.build_rotations()
        pooled_NH = pool(hidden_NTH, pool_index_N)
        logits = self.heads(pooled_NH, built.safe_B88, built.total_B88)
        gate = self.gate
        if gate_hidden:
            hidden_NTH = apply_gate(hidden_NTH, built.total_B88, gate, self.gate_form)
        return AdapterOutput(hidden_NTH, logits.safety_N2, logits.task_N4, logits.dual_N22, gate)

    def gated(self, hidden_NTH: Tensor, rotations: Rotations | None = None) -> Tensor:
        """The gated hidden states alone, for generation and evaluation.

        In eval mode without gradients the rotations are built once and kept until the mode, the device
        or the state changes; an optimizer step needs train mode.
        """
        built = rotations or self.current_rotations()
        return apply_gate(hidden_NTH, built.total_B88, self.gate, self.gate_form)

    def gate_matrix(self, rotations: Rotations) -> Tensor:
        """The gate's K (B, 8, 8) of these rotations and the current g, float32, differentiable in both."""
        with torch.autocast(self.theta_safe.device.type, enabled=False):
            return gate_matrix(rotations.total_B88, self.gate, self.gate_form)

    def current_rotations(self) -> Rotations:
        """`build_rotations`; in eval mode without gradients what was built before, see `gated`."""
        if self.training or torch.is_grad_enabled():
            return self.build_rotations()
        # Versions catch changes in place; kernels that write past autograd need the change of mode.
        versions = (self.theta_safe._version, self.theta_cmd._version)
        if self._cached is None or self._cached_versions != versions:
            self._cached, self._cached_versions = self.build_rotations(), versions
        return self._cached

    @torch.no_grad()
    def instruments(self, rotations: Rotations | None = None) -> dict[str, float]:
        """Commutator mean and max, orthogonality max, determinant min and max, over both rotations."""
        built = rotations or self.build_rotations()
        both_B88 = torch.cat((built.safe_B88, built.cmd_B88))
        commutator_B = commutator_norm(built.cmd_B88, built.safe_B88)
        determinant_B = determinant(both_B88)
        return {
            "commutator_mean": float(commutator_B.mean()),
            "commutator_max": float(commutator_B.max()),
            "orthogonality_max": float(orthogonality_error(both_B88).max()),
            "determinant_min": float(determinant_B.min()),
            "determinant_max": float(determinant_B.max()),
        }

    def train(self, mode: bool = True) -> SO8TAdapter:
        """Switch the mode and forget the kept rotations."""
        self._cached = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SO8TAdapter:
        """Let ``.to``, ``.cuda`` and the rest move tensors, but never change their dtype."""
        self._cached = None

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(device=moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        return self


def _forget(module: nn.Module, _keys: object) -> None:
    """Rotations kept for inference do not outlive the parameters they were built from."""
    assert isinstance(module, SO8TAdapter)
    module._cached = None


def _check_options(hidden_size: int, rotation_map: str, gate_form: str, variant: str) -> None:
    if hidden_size < BLOCK or hidden_size % BLOCK:
        raise SO8TError(
            _("A hidden size of %(size)d is not a multiple of 8.") % {"size": hidden_size},
            _("SO8T needs a model whose hidden size divides into blocks of 8."),
        )
    for value, known in ((rotation_map, ROTATION_MAPS), (gate_form, GATE_FORMS), (variant, VARIANTS)):
        if value not in known:
            raise SO8TError(
                _("There is no %(value)s here.") % {"value": repr(value)},
                _("Choose one of %(known)s.") % {"known": ", ".join(known)},
            )
    if rotation_map == "free" and gate_form == "geodesic":
        raise SO8TError(
            _("The geodesic gate needs rotations, and the free map gives none."),
            _("Choose the exp or the Cayley map, or another form of the gate."),
        )
