"""All gradients in one buffer that stays: nothing is allocated for them amid a backward pass.

Gradients that come and go with every step leave holes between the tensors of a pass; in one buffer they are
cleared by one call, and a recorded pass finds them where they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Elements; each gradient begins at a multiple of it: so many values share a scale of 8-bit moments.
ALIGNMENT = 256


def padded(count: int) -> int:
    """Elements that a gradient of so many takes."""
    return -(-count // ALIGNMENT) * ALIGNMENT


class FlatGradients:
    """The parameters' ``.grad`` as views of one tensor.

    Args:
        parameters: that learn, of one dtype and device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        total = sum(padded(p.numel()) for p in self._parameters)
        first = self._parameters[0]
        self.flat = torch.zeros(total, dtype=first.dtype, device=first.device)
        self._views, start = [], 0
        #: id of a parameter → where its gradient begins.
        self.places: dict[int, int] = {}
        for parameter in self._parameters:
            self.places[id(parameter)] = start
            self._views.append(self.flat[start : start + parameter.numel()].view_as(parameter))
            start += padded(parameter.numel())
        self.zero()

    @classmethod
    def for_training(cls, parameters: Sequence[nn.Parameter]) -> FlatGradients | None:
        """None where it does not help or does not work: off a card, or with several dtypes."""
        return cls.of_one_kind(parameters) if any(p.is_cuda for p in parameters) else None

    @classmethod
    def of_one_kind(cls, parameters: Sequence[nn.Parameter]) -> FlatGradients | None:
        """None where there are several dtypes or devices."""
        return cls(parameters) if len({(p.dtype, p.device) for p in parameters}) == 1 else None

    def gather(self) -> Tensor:
        """The buffer, with gradients from elsewhere put into it; one that is missing counts as 0."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad.data_ptr() != view.data_ptr():
                view.copy_(parameter.grad)
            else:
                continue
            parameter.grad = view
        return self.flat

    def zero(self) -> None:
        """Clear all gradients, and put them back in their places."""
        self.flat.zero_()
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if parameter.grad is not view:
                parameter.grad = view
