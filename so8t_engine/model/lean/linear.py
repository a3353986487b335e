"""One linear layer with LoRA: its weight dequantised for the moment of use, and hand-written gradients.

Nothing of a quantised weight is kept between forward and backward pass, and LoRA's small products are taken
in the order that never forms an (O, I) matrix: y = W x + s B (A x), rank r.
"""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from so8t_engine.model.lean.dropout import Seed, add_kept, kept
from so8t_engine.model.lean.ops import dequantise_rows


class Weight(NamedTuple):
    """W of shape (O, I), or W + s B A where ``merged``: then LoRA's part of the output is in it."""

    matrix_OI: Tensor
    merged: bool


@dataclass(frozen=True, slots=True)
class LoraLinear:
    """A linear layer as the lean layers use it.

    Attributes:
        base: the frozen layer: plain, 4-bit or 8-bit of bitsandbytes.
        a_rI, b_Or: LoRA's matrices; None without LoRA.
        scale: LoRA's output is multiplied by it.
        dropout: probability on LoRA's input while training.
    """

    base: Any
    a_rI: nn.Parameter | None = None
    b_Or: nn.Parameter | None = None
    scale: float = 1.0
    dropout: float = 0.0

    @classmethod
    def of(cls, module: Any) -> LoraLinear:  # noqa: ANN401  (peft and bitsandbytes have no types)
        """The layer behind ``module``, which may be wrapped by peft."""
        if not hasattr(module, "lora_A"):
            return cls(module)
        (name,) = module.active_adapters
        dropout = module.lora_dropout[name]
        return cls(
            module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight,
            float(module.scaling[name]), float(getattr(dropout, "p", 0.0)),
        )  # fmt: skip

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """A and B, or nothing."""
        return () if self.a_rI is None or self.b_Or is None else (self.a_rI, self.b_Or)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """W of shape (O, I) in ``dtype``: the layer's own tensor, or for a quantised layer a new one."""
        import bitsandbytes as bnb

        if isinstance(self.base, bnb.nn.Linear4bit):
            stored = self.base.weight
            weight_OI: Tensor = bnb.functional.dequantize_4bit(stored.data, stored.quant_state)
            return weight_OI.to(dtype)
        if isinstance(self.base, bnb.nn.Linear8bitLt):
            # The scales move from the weight to the state with the layer's own first forward pass.
            scales_O = self.base.weight.SCB if self.base.weight.SCB is not None else self.base.state.SCB
            return dequantise_rows(self.base.weight.data, scales_O, dtype)
        plain_OI: Tensor = self.base.weight
        return plain_OI.detach().to(dtype)

    def prepare(self, dtype: torch.dtype, tokens: int, seed: Seed | None) -> Weight:
        """The weight as `forward` and `backward` of so many tokens take it.

        On the CPU LoRA is added to it where that is less work than adding LoRA to each token's output; not
        to quantised weights nor in half precision, where the sum would be rounded.
        """
        if self.a_rI is None or self.b_Or is None or type(self.base) is not nn.Linear:
            return Weight(self.weight(dtype), merged=False)
        plain_OI = self.base.weight
        outputs, inputs = plain_OI.shape
        exact = dtype == plain_OI.dtype and dtype in (torch.float32, torch.float64)
        dropping = seed is not None and self.dropout > 0.0
        if plain_OI.is_cuda or dropping or not exact or tokens * (outputs + inputs) < outputs * inputs:
            return Weight(self.weight(dtype), merged=False)
        a_rI, b_Or = self.a_rI.detach().to(dtype), self.b_Or.detach().to(dtype)
        return Weight(torch.addmm(plain_OI.detach(), b_Or, a_rI, alpha=self.scale), merged=True)

    def forward(self, input_tI: Tensor, weight: Weight, seed: Seed | None) -> Tensor:
        """y of shape (t, O). ``seed`` fixes the dropout; None is evaluation."""
        weight_OI = weight.matrix_OI
        bias = self.base.bias
        out_tO = (
            input_tI @ weight_OI.T
            if bias is None
            else torch.addmm(bias.to(input_tI.dtype), input_tI, weight_OI.T)
        )
        if self.a_rI is not None and self.b_Or is not None and not weight.merged:
            kept_tI, scale = self._dropped(input_tI, seed)
            low_tr = kept_tI @ self.a_rI.detach().to(input_tI.dtype).T
            out_tO.addmm_(low_tr, self.b_Or.detach().to(input_tI.dtype).T, alpha=scale)
        return out_tO

    def backward(
        self, grad_tO: Tensor, input_tI: Tensor, weight: Weight, seed: Seed | None, want_input: bool = True
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``(d input (t, I), d A (r, I), d B (O, r))`` of `forward` with the same arguments."""
        grad_input_tI = grad_tO @ weight.matrix_OI if want_input else None
        if self.a_rI is None or self.b_Or is None:
            return grad_input_tI, None, None
        a_rI, b_Or = self.a_rI.detach().to(input_tI.dtype), self.b_Or.detach().to(input_tI.dtype)
        kept_tI, scale = self._dropped(input_tI, seed)
        low_tr = (kept_tI @ a_rI.T).mul_(scale)
        grad_b_Or = grad_tO.T @ low_tr
        grad_low_tr = (grad_tO @ b_Or).mul_(scale)
        grad_a_rI = grad_low_tr.T @ kept_tI
        if grad_input_tI is not None and not weight.merged:
            if seed is None or not self.dropout:
                grad_input_tI.addmm_(grad_low_tr, a_rI)
            else:
                add_kept(grad_input_tI, grad_low_tr @ a_rI, self.dropout, seed)
        return grad_input_tI, grad_a_rI, grad_b_Or

    def _dropped(self, input_tI: Tensor, seed: Seed | None) -> tuple[Tensor, float]:
        """The input with dropped elements at 0, and the scale that makes up for them exactly."""
        if seed is None or not self.dropout:
            return input_tI, self.scale
        return kept(input_tI, self.dropout, seed), self.scale / (1.0 - self.dropout)
