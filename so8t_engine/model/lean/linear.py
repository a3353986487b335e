"""One linear layer with LoRA: its weight dequantised for the moment of use, and hand-written gradients.

Nothing of a quantised weight is kept between forward and backward pass, and LoRA's small products are taken
in the order that never forms an (O, I) matrix: y = W x + s B (A x), rank r.
"""

# ruff: noqa: N815  (fields of the dataclasses are tensors and carry their shapes)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from so8t_engine.model.lean.dropout import Seed, keep_in_place, kept
from so8t_engine.model.lean.ops import dequantise_4bit, dequantise_rows

#: s A x of the linears of one function, in their order; small beside everything else that is kept.
Lows = list[Tensor | None]


class Weight(NamedTuple):
    """W of shape (O, I), or W + s B A where ``merged``: then LoRA's part of the output is in it.

    Attributes:
        with_a: where merged, the rows of s A below (O + r, I): one product gives the output and s A x.
        with_b: where merged, the columns of s B beside (O, I + r): one product with the output's gradient
            gives those of the input and of A x.
        order_O: where merged, which row of W each of its rows is; None is their own order.
    """

    matrix_OI: Tensor
    merged: bool
    with_a: Tensor | None = None
    with_b: Tensor | None = None
    order_O: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LoraLinear:
    """A linear layer as the lean layers use it.

    Attributes:
        base: the frozen layer: plain, 4-bit or 8-bit of bitsandbytes.
        a_rI, b_Or: LoRA's matrices; None without LoRA.
        scale: LoRA's output is multiplied by it.
        dropout: probability on LoRA's input while training.
        whole_OI: a quantised weight that stays dequantised; None is dequantised for the moment of use.
    """

    base: Any
    a_rI: nn.Parameter | None = None
    b_Or: nn.Parameter | None = None
    scale: float = 1.0
    dropout: float = 0.0
    whole_OI: Tensor | None = None

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

    @property
    def outputs(self) -> int:
        """Units of y; a 4-bit weight's own shape does not tell."""
        return int(self.base.out_features)

    @property
    def quantised(self) -> bool:
        """Whether the weight is stored as codes."""
        import bitsandbytes as bnb

        return isinstance(self.base, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """W of shape (O, I) in ``dtype``: the layer's own tensor, or for a quantised layer a new one."""
        import bitsandbytes as bnb

        if self.whole_OI is not None and self.whole_OI.dtype == dtype:
            return self.whole_OI
        if isinstance(self.base, bnb.nn.Linear4bit):
            stored = self.base.weight
            return dequantise_4bit(stored.data, stored.quant_state, dtype)
        if isinstance(self.base, bnb.nn.Linear8bitLt):
            # The scales move from the weight to the state with the layer's own first forward pass.
            scales_O = self.base.weight.SCB if self.base.weight.SCB is not None else self.base.state.SCB
            return dequantise_rows(self.base.weight.data, scales_O, dtype)
        plain_OI: Tensor = self.base.weight
        return plain_OI.detach().to(dtype)

    def keeping(self, dtype: torch.dtype | None) -> LoraLinear:
        """This layer with its quantised weight dequantised for good; None takes that back."""
        plain = replace(self, whole_OI=None)
        return plain if dtype is None or not self.quantised else replace(plain, whole_OI=plain.weight(dtype))

    def prepare(
        self, dtype: torch.dtype, tokens: int, seed: Seed | None, order_O: Tensor | None = None
    ) -> Weight:
        """The weight as `forward` and `backward` of so many tokens take it.

        On the CPU LoRA is added to it where that is less work than adding LoRA to each token's output; not
        to quantised weights nor in half precision, where the sum would be rounded.

        Args:
            order_O: the order of the outputs, for a merged weight without a bias; others keep their own.
        """
        if self.a_rI is None or self.b_Or is None or type(self.base) is not nn.Linear:
            return Weight(self.weight(dtype), merged=False)
        plain_OI = self.base.weight
        outputs, inputs = plain_OI.shape
        exact = dtype == plain_OI.dtype and dtype in (torch.float32, torch.float64)
        dropping = seed is not None and self.dropout > 0.0
        if plain_OI.is_cuda or dropping or not exact or tokens * (outputs + inputs) < outputs * inputs:
            return Weight(self.weight(dtype), merged=False)
        a_rI, b_Or, plain_OI = self.a_rI.detach().to(dtype), self.b_Or.detach().to(dtype), plain_OI.detach()
        with_bias = getattr(self.base, "bias", None) is not None
        if with_bias or len(a_rI) % 2:  # an odd number beside them: no pairs in memory
            order_O = None
        if order_O is not None:
            b_Or, plain_OI = b_Or[order_O], plain_OI[order_O]
        whole = plain_OI.new_empty((outputs + len(a_rI), inputs + len(a_rI)))
        merged_OI, with_a, with_b = whole[:outputs, :inputs], whole[:, :inputs], whole[:outputs]
        torch.addmm(plain_OI, b_Or, a_rI, alpha=self.scale, out=merged_OI)
        torch.mul(a_rI, self.scale, out=with_a[outputs:])
        torch.mul(b_Or, self.scale, out=with_b[:, inputs:])
        return Weight(merged_OI, True, with_a, with_b, order_O)

    def forward(
        self, input_tI: Tensor, weight: Weight, seed: Seed | None, lows: Lows | None = None
    ) -> Tensor:
        """y of shape (t, O), a part of wider rows perhaps.

        Args:
            seed: fixes the dropout; None is evaluation.
            lows: is given s A x, (t, r), or None where it is not computed; `backward` can use it again.
        """
        weight_OI = weight.matrix_OI
        bias = None if self.base.bias is None else self.base.bias.to(input_tI.dtype)
        if lows is not None and weight.with_a is not None:
            out_tP = input_tI @ weight.with_a.T
            out_tO, low_tr = out_tP[:, : len(weight_OI)], out_tP[:, len(weight_OI) :]
            lows.append(low_tr.clone())  # without the output beside it
            return out_tO if bias is None else out_tO.add_(bias)
        if self.a_rI is None or self.b_Or is None or weight.merged:
            if lows is not None:
                lows.append(None)
            return input_tI @ weight_OI.T if bias is None else torch.addmm(bias, input_tI, weight_OI.T)
        kept_tI, scale = self._dropped(input_tI, seed)
        low_tr = (kept_tI @ self.a_rI.detach().to(input_tI.dtype).T).mul_(scale)
        if lows is not None:
            lows.append(low_tr)
        del kept_tI
        b_rO = self.b_Or.detach().to(input_tI.dtype).T
        # LoRA's share first: the large product then adds to it where it writes anyway, which costs one pass
        # over the output less than the other order.
        out_tO = low_tr @ b_rO if bias is None else torch.addmm(bias, low_tr, b_rO)
        return out_tO.addmm_(input_tI, weight_OI.T)

    def backward(
        self,
        grad_tO: Tensor,
        input_tI: Tensor,
        weight: Weight,
        seed: Seed | None,
        low_tr: Tensor | None = None,
        *,
        want_input: bool = True,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``(d input (t, I), d A (r, I), d B (O, r))`` of `forward` with the same arguments.

        d input may be a part of wider rows.

        Args:
            low_tr: what `forward` gave to ``lows``; None is computed again.
        """
        if low_tr is None and weight.with_a is not None:
            low_tr = input_tI @ weight.with_a[len(weight.matrix_OI) :].T
        if low_tr is not None and weight.with_b is not None:
            inputs = input_tI.shape[1]
            grad_merged_b_Or = grad_tO.T @ low_tr
            if weight.order_O is not None:
                ordered_b_Or, grad_merged_b_Or = grad_merged_b_Or, torch.empty_like(grad_merged_b_Or)
                grad_merged_b_Or[weight.order_O] = ordered_b_Or
            if not want_input:
                return None, (grad_tO @ weight.with_b[:, inputs:]).T @ input_tI, grad_merged_b_Or
            both_tJ = grad_tO @ weight.with_b
            return both_tJ[:, :inputs], both_tJ[:, inputs:].T @ input_tI, grad_merged_b_Or
        if self.a_rI is None or self.b_Or is None:
            return grad_tO @ weight.matrix_OI if want_input else None, None, None
        a_rI, b_Or = self.a_rI.detach().to(input_tI.dtype), self.b_Or.detach().to(input_tI.dtype)
        kept_tI, scale = self._dropped(input_tI, seed)
        if low_tr is None:
            low_tr = (kept_tI @ a_rI.T).mul_(scale)
        grad_b_Or = grad_tO.T @ low_tr
        grad_low_tr = (grad_tO @ b_Or).mul_(scale)
        grad_a_rI = grad_low_tr.T @ kept_tI
        del kept_tI, low_tr
        if not want_input:
            return None, grad_a_rI, grad_b_Or
        if weight.merged:
            return grad_tO @ weight.matrix_OI, grad_a_rI, grad_b_Or
        grad_input_tI = grad_low_tr @ a_rI
        if seed is not None and self.dropout:
            keep_in_place(grad_input_tI, self.dropout, seed)
        return grad_input_tI.addmm_(grad_tO, weight.matrix_OI), grad_a_rI, grad_b_Or

    def _dropped(self, input_tI: Tensor, seed: Seed | None) -> tuple[Tensor, float]:
        """The input with dropped elements at 0, and the scale that makes up for them exactly."""
        if seed is None or not self.dropout:
            return input_tI, self.scale
        return kept(input_tI, self.dropout, seed), self.scale / (1.0 - self.dropout)
