"""bitsandbytes' 8-bit codes of moments on the CPU, by a table: the same bits in a quarter of the time.

bitsandbytes puts a value between −1 and 1 into one of 65,536 equal steps and takes the code next to the
step's middle. The table of steps is read from bitsandbytes itself, and it is used only where it gives that
library's own codes on a sample; another version may do it another way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from so8t_engine.model.gradients import ALIGNMENT

log = logging.getLogger(__name__)
_STEPS = 1 << 16


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Codes (65536,), uint8, of the steps from −1 to 1."""

    codes: Tensor

    @classmethod
    def of(cls, values_256: Tensor) -> CodeTable | None:
        """The table for a code's values, ascending, the last one 1; None where it does not agree."""
        steps = torch.arange(_STEPS, dtype=torch.float64) * (2.0 / (_STEPS - 1)) - 1.0
        # Each block begins with 1, so that the scale is 1 and every step is coded as it is.
        padded = torch.zeros(-(-_STEPS // (ALIGNMENT - 1)) * (ALIGNMENT - 1), dtype=torch.float64)
        padded[:_STEPS] = steps
        rows = padded.view(-1, ALIGNMENT - 1)
        blocks = torch.cat((torch.ones_like(rows[:, :1]), rows), 1)
        codes, _scales = _by_bitsandbytes(blocks.float(), values_256)
        table = cls(codes.view(-1, ALIGNMENT)[:, 1:].reshape(-1)[:_STEPS].clone())
        random = torch.Generator().manual_seed(0)
        sample = torch.randn((512, ALIGNMENT), generator=random) * torch.logspace(-12, 3, 512).unsqueeze(1)
        sample[:256] *= torch.rand((256, ALIGNMENT), generator=random).pow_(8)
        sample[0] = 0.0
        if float(values_256[0]) == 0.0:
            sample.abs_()
        wanted, wanted_scales = _by_bitsandbytes(sample, values_256)
        found, found_scales = torch.empty_like(wanted), torch.empty_like(wanted_scales)
        table.write(sample.view(-1), found, found_scales)
        if torch.equal(found, wanted) and torch.equal(found_scales, wanted_scales):
            return table
        log.warning("this bitsandbytes codes moments another way: its own slower routine is used")
        return None

    def write(self, values: Tensor, codes: Tensor, scales: Tensor) -> None:
        """Code float32 ``values``, a multiple of 256: writes ``codes``, uint8, and a scale for each block."""
        blocks = values.view(-1, ALIGNMENT)
        torch.amax(blocks.abs(), 1, out=scales)
        inverse = torch.where(scales > 0, 1.0 / scales, 0.0).unsqueeze(1)
        place = (blocks * inverse).add_(1.0).mul_((_STEPS - 1) / 2).add_(0.5)
        # Not a number, too, has to have some code.
        place = place.to(torch.int32).clamp_(0, _STEPS - 1)
        torch.index_select(self.codes, 0, place.view(-1), out=codes)
        if not bool(scales.all()):  # a block of zeros has the code 0
            codes.view(-1, ALIGNMENT).masked_fill_((scales == 0).unsqueeze(1), 0)


def _by_bitsandbytes(values: Tensor, values_256: Tensor) -> tuple[Tensor, Tensor]:
    codes, scales = torch.ops.bitsandbytes.quantize_blockwise(values.reshape(-1), values_256, ALIGNMENT)
    assert isinstance(codes, Tensor)
    assert isinstance(scales, Tensor)
    return codes, scales
