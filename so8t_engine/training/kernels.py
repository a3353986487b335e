"""What a run tells of triton's kernels: that they do not work here, or that one failed on the way."""

from __future__ import annotations

import torch

from so8t_engine.i18n import _
from so8t_engine.so8t.fused import gave_up, kernel_trouble
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import WarningEvent


def tell_trouble(control: RunControl, device: torch.device) -> None:
    """Warn if triton is installed and wanted and does not work on ``device``; checks it if need be."""
    reason = kernel_trouble(device)
    if reason is None:
        return
    _warn(
        control,
        _(
            "Triton's kernels do not work on this card (%(reason)s): PyTorch's own do the work, with the "
            "same results and more slowly."
        )
        % {"reason": reason},
    )


def go_on_without(control: RunControl, device: torch.device, error: Exception) -> bool:
    """Whether ``error`` came out of a triton kernel. It is told then, and PyTorch's own do the work from now
    on: what failed can be done again."""
    if not gave_up(device, error):
        return False
    _warn(
        control,
        _(
            "A Triton kernel failed (%(reason)s): what it was at is repeated with PyTorch's own kernels, "
            "which do the work from now on, more slowly."
        )
        % {"reason": kernel_trouble(device)},
    )
    return True


def _warn(control: RunControl, sentence: str) -> None:
    mend = _(
        "Update Triton and the driver and install a C compiler; log.txt holds the details. With "
        "SO8T_TRITON=0 in the environment Triton is left alone, without this warning."
    )
    control.emit(WarningEvent(kind="kernels", sentence=sentence, mend=mend))
