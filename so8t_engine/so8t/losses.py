"""The losses besides PET, and how they are weighted and added.

Rows without a label carry −100 and are left out of a loss; a loss over no row is 0 and has gradient 0.
Penalties use probabilities, never argmax. Every loss is computed in float32 (float64 for float64).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.so8t.blocks import BLOCK
from so8t_engine.so8t.rotation import commutator_norm

IGNORE = -100
TERMS = ("lm", "orthogonality", "alpha", "consistency", "safety", "task", "dual", "commutator", "pet")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms named in `TERMS`, and the constants of the losses.

    ``pet`` is λ at the current step; replace it by `schedule.pet_weight_at` as the run proceeds.
    """

    lm: float = 1.0
    orthogonality: float = 0.01
    alpha: float = 0.1
    consistency: float = 0.05
    safety: float = 1.0
    task: float = 1.0
    dual: float = 0.5
    commutator: float = 0.0
    pet: float | Tensor = 0.01
    commutator_margin: float = 0.1
    focal_gamma: float = 2.0
    task_class_weights: tuple[float, float, float, float] = (1.0, 3.0, 5.0, 5.0)

    def weight_of(self, term: str) -> float | Tensor:
        """The weight of a term of `TERMS`; a 0-dim tensor where a pass is recorded and replayed with others.

        Raises:
            SO8TError: there is no such term.
        """
        if term not in TERMS:
            raise SO8TError(
                _("There is no loss term %(term)s.") % {"term": repr(term)},
                _("The terms are %(terms)s.") % {"terms": ", ".join(TERMS)},
            )
        weight = getattr(self, term)
        return weight if isinstance(weight, Tensor) else float(weight)


assert set(TERMS) <= {field.name for field in fields(LossWeights)}


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _mean_over(values_N: Tensor, keep_N: Tensor) -> Tensor:
    """The mean of the kept values; 0, still connected to the graph, where none is kept."""
    return values_N.masked_fill(~keep_N, 0.0).sum() / keep_N.sum().clamp(min=1)


def focal_cross_entropy(
    logits_NC: Tensor,
    labels_N: Tensor,
    gamma: float = 2.0,
    class_weights: tuple[float, ...] | None = None,
) -> Tensor:
    """Mean over labelled rows of −w_y (1 − p_y)^γ log p_y (Lin et al. 2017); γ = 0 is cross-entropy.

    The mean divides by the number of rows and not by the sum of the class weights, which at batch size 1
    would cancel them.

    Args:
        logits_NC: shape (N, C).
        labels_N: shape (N,), classes or −100.
        gamma: γ ≥ 0.
        class_weights: C weights, None for 1 each.
    """
    log_p_NC = functional.log_softmax(_wide(logits_NC), dim=-1)
    keep_N = labels_N != IGNORE
    labels = labels_N.clamp(min=0)
    log_p_N = log_p_NC.gather(1, labels.unsqueeze(1)).squeeze(1)
    loss_N = -log_p_N
    if gamma != 0.0:
        # −expm1(log p) is 1 − p without cancellation; the clamp keeps the power's gradient finite at 0.
        loss_N = loss_N * (-torch.expm1(log_p_N)).clamp(min=torch.finfo(log_p_N.dtype).tiny) ** gamma
    if class_weights is not None:
        loss_N = loss_N * _constants(class_weights, log_p_N.dtype, log_p_N.device)[labels]
    return _mean_over(loss_N, keep_N)


@cache
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: a copy from the host would make each pass wait for the card."""
    return torch.tensor(values, dtype=dtype, device=device)


def head_cross_entropy(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy over labelled rows: the safety term."""
    return focal_cross_entropy(logits_NC, labels_N, gamma=0.0)


def dual_cross_entropy(dual_logits_N22: Tensor, labels_N: Tensor) -> Tensor:
    """The mean of both dual heads' cross-entropy against the same safe/dangerous labels."""
    first = head_cross_entropy(dual_logits_N22[:, 0], labels_N)
    return (first + head_cross_entropy(dual_logits_N22[:, 1], labels_N)) / 2


def _kl(log_p_NC: Tensor, log_q_NC: Tensor) -> Tensor:
    """KL(p ‖ q) per row, in nats."""
    return (log_p_NC.exp() * (log_p_NC - log_q_NC)).sum(dim=-1)


def task_as_safety(task_logits_N4: Tensor) -> Tensor:
    """log probabilities (N, 2): safe = ALLOW + ESCALATION, dangerous = DENY + REFUSE."""
    log_p_N4 = functional.log_softmax(_wide(task_logits_N4), dim=-1)
    return torch.stack((log_p_N4[:, :2].logsumexp(-1), log_p_N4[:, 2:].logsumexp(-1)), dim=-1)


def consistency_loss(
    safety_logits_N2: Tensor, task_logits_N4: Tensor, dual_logits_N22: Tensor, keep_N: Tensor | None = None
) -> Tensor:
    """Mean over rows of ½[KL(d1‖d2) + KL(d2‖d1)] + KL(safety ‖ task summed to safe and dangerous).

    Needs no labels.

    Args:
        safety_logits_N2: shape (N, 2).
        task_logits_N4: shape (N, 4).
        dual_logits_N22: shape (N, 2, 2), row, head, class.
        keep_N: the rows that count, None for all.
    """
    dual_N22 = functional.log_softmax(_wide(dual_logits_N22), dim=-1)
    one_N2, two_N2 = dual_N22[:, 0], dual_N22[:, 1]
    symmetric_N = (_kl(one_N2, two_N2) + _kl(two_N2, one_N2)) / 2
    safety_N2 = functional.log_softmax(_wide(safety_logits_N2), dim=-1)
    loss_N = symmetric_N + _kl(safety_N2, task_as_safety(task_logits_N4))
    keep = torch.ones_like(loss_N, dtype=torch.bool) if keep_N is None else keep_N.bool()
    return _mean_over(loss_N, keep)


def alpha_loss(alpha: Tensor, target: float | Tensor) -> Tensor:
    """(α − α*)², a 0-dim tensor; for a learned α only."""
    return (alpha - target) ** 2


def orthogonality_loss(matrix_B88: Tensor) -> Tensor:
    """The mean square of the entries of RᵀR − I. It acts with the ``free`` map only: for an exact map it
    is 0 to rounding and has no gradient."""
    identity_88 = torch.eye(BLOCK, dtype=matrix_B88.dtype, device=matrix_B88.device)
    return (matrix_B88.mT @ matrix_B88 - identity_88).square().mean()


def commutator_hinge(cmd_B88: Tensor, safe_B88: Tensor, margin: float) -> Tensor:
    """The mean over blocks of max(0, m − c)², which pushes the commutator c above the margin m."""
    return (margin - commutator_norm(cmd_B88, safe_B88)).clamp(min=0.0).square().mean()


def chunked_cross_entropy(
    hidden_NTH: Tensor,
    lm_head: Tensor | Callable[[Tensor], Tensor],
    labels_NT: Tensor,
    chunk: int = 512,
    *,
    shift: bool = True,
) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of the language model, and the number of tokens in it.

    Logits exist for ``chunk`` tokens at a time, in float32 for the loss, and are computed again in the
    backward pass. The caller divides by the count of all rows accumulated into one optimizer step.

    Args:
        hidden_NTH: shape (N, T, H) or (T, H), after the gate.
        lm_head: the weight (V, H), or a callable from (t, H) to (t, V) logits.
        labels_NT: shape (N, T) or (T,), −100 where nothing is to be learned.
        chunk: tokens at a time.
        shift: labels are aligned with the input tokens, as transformers gives them, so the token at t
            predicts the label at t + 1. False when the caller has shifted them.

    Returns:
        ``(sum, count)``: float32 0-dim (float64 for float64) and int64 0-dim.
    """
    if shift:
        hidden_NTH, labels_NT = hidden_NTH[..., :-1, :], labels_NT[..., 1:]
    hidden_tH = hidden_NTH.reshape(-1, hidden_NTH.shape[-1])
    labels_t = labels_NT.reshape(-1)
    count = (labels_t != IGNORE).sum()
    if hidden_tH.shape[0] == 0:
        return _wide(hidden_tH.sum()), count

    def project(part_tH: Tensor) -> Tensor:
        if isinstance(lm_head, Tensor):
            return functional.linear(part_tH.to(lm_head.dtype), lm_head)
        return lm_head(part_tH)

    def loss_sum(part_tH: Tensor, part_labels_t: Tensor) -> Tensor:
        logits_tV = _wide(project(part_tH))
        return functional.cross_entropy(logits_tV, part_labels_t, ignore_index=IGNORE, reduction="sum")

    # split, not slices: its backward joins the pieces once instead of adding a full tensor per chunk.
    total = torch.stack(
        [
            checkpoint(loss_sum, part, part_labels, use_reentrant=False, preserve_rng_state=False)
            for part, part_labels in zip(
                torch.split(hidden_tH, chunk), torch.split(labels_t, chunk), strict=True
            )
        ]
    ).sum()
    return total, count


def combine(
    terms: Mapping[str, Tensor | None], weights: LossWeights
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The weighted sum, and each term before and after weighting, detached, for the log.

    A term that is None is missing and stays missing in the result. A term of weight 0 is reported but
    does not enter the graph.

    Raises:
        SO8TError: a name is not in `TERMS`, or no term is given.
    """
    parts: list[Tensor] = []
    report: dict[str, tuple[Tensor, Tensor]] = {}
    for name, raw in terms.items():
        weight = weights.weight_of(name)
        if raw is None:
            continue
        weighted = raw * weight
        report[name] = (raw.detach(), weighted.detach())
        if isinstance(weight, Tensor) or weight != 0.0:
            parts.append(weighted)
    if not report:
        raise SO8TError(_("There is no loss term to add."), _("Give a weight above 0 to at least one term."))
    total = (
        torch.stack([part.reshape(()).float() for part in parts]).sum()
        if parts
        else next(raw for raw in terms.values() if raw is not None) * 0.0
    )
    return total, report
