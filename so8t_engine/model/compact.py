"""Frozen weights laid side by side, once they are all there.

While a model is loaded and quantised, large 16-bit tensors come and go between the small quantised ones that
stay. What they leave are holes which later tensors do not fill: on a Phi-3.5-mini 0.25 GB (nf4) to 0.45 GB
(int8) of a card that the allocator holds and nobody uses. Here every frozen storage leaves the card for a
moment and comes back without gaps. The tensors stay the same objects.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and what bitsandbytes keeps beside them."""
    for module in model.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        holders: list[Any] = [module, getattr(module, "state", None), *own]
        for holder in holders:
            state = getattr(holder, "quant_state", None)
            holders_of_state = [state, getattr(state, "state2", None)]
            for part in (holder, *holders_of_state):
                for name in ("absmax", "code", "offset", "CB", "SCB"):
                    found = getattr(part, name, None)
                    if isinstance(found, Tensor):
                        yield found
        yield from own


def compact(model: nn.Module, device_type: str = "cuda") -> int:
    """Move the model's storages on the card together.

    Needs as much free system memory as they hold; without it, nothing is done.

    Args:
        model: loaded, with nothing of it in use.
        device_type: whose storages are moved.

    Returns:
        Bytes that were laid anew; 0 where nothing was done.
    """
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in _tensors(model):
        storage = tensor.untyped_storage()
        if storage.device.type == device_type and storage.nbytes() and storage.resizable():
            storages[storage._cdata] = storage
    total = sum(storage.nbytes() for storage in storages.values())
    if not total or total > 0.8 * psutil.virtual_memory().available:
        log.info("the weights stay where they are: %d bytes, too little system memory to move them", total)
        return 0
    # The largest first: the small ones fill what is left of a page.
    held = sorted(storages.values(), key=lambda storage: storage.nbytes(), reverse=True)
    copies = []
    for storage in held:
        copy = torch.UntypedStorage(storage.nbytes(), device="cpu")  # type: ignore[no-untyped-call]
        copy.copy_(storage, non_blocking=False)
        copies.append(copy)
    for storage in held:
        storage.resize_(0)
    if device_type == "cuda":
        torch.cuda.empty_cache()
    for index, storage in enumerate(held):
        storage.resize_(copies[index].nbytes())
        storage.copy_(copies[index], non_blocking=False)
        copies[index] = torch.UntypedStorage(0, device="cpu")  # type: ignore[no-untyped-call]
    return total
