"""How much of the layers waits in system memory: what its free part holds, and where the bus keeps up.

A layer all of which waits is not computed a second time, but several times as much of it has to leave while
it is computed forward. Few tensors are on their way at a time, so that the card would wait for a slower bus.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from so8t_engine.config import Config
from so8t_engine.i18n import _
from so8t_engine.memory.geometry import ModelGeometry
from so8t_engine.memory.lean_terms import waiting_bytes
from so8t_engine.memory.machine import crowds
from so8t_engine.memory.spare import uncrowded
from so8t_engine.model.lean.body import LeanBody
from so8t_engine.model.lean.layer import Scene
from so8t_engine.training.events import WarningEvent

log = logging.getLogger(__name__)

#: Bytes that are copied to measure the bus, and tokens that pass through a layer to measure the card.
COPIED, TOKENS = 1 << 26, 2048


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured.

    Attributes:
        forward_s: seconds of one layer forward, per token. bus: bytes a second to the host.
    """

    forward_s: float
    bus: float

    def keeps_up(self, leaving: float) -> bool:
        """Whether a layer's ``leaving`` bytes per token are gone by the time the next layer is computed.

        Somewhat slower would do: what is not computed again saves two thirds of a layer's forward time. But
        launching may be part of what was measured, which recorded passes do without.
        """
        return leaving <= self.bus * self.forward_s


def choose_waiting(lean: LeanBody, config: Config, geometry: ModelGeometry, free: int) -> WarningEvent | None:
    """Set what waits as a whole, and do without what takes more than half of the ``free`` system memory.

    Raises:
        ModelError: as `waiting_bytes` does.
    """
    if not lean.offloads:
        lean.everything = 0.0  # nor once memory has run out and inputs begin to wait
        return None
    asked = config.memory.offload_everything
    part = 0.0
    if asked != "off":
        part = uncrowded(config, geometry, free)
        if asked == "auto" and part and not measure(lean).keeps_up(lean.leaving_bytes(TOKENS) / TOKENS):
            part = 0.0
    lean.everything = part
    wanted, least = (waiting_bytes(config, geometry, one) for one in (part, 0.0))
    if not (lean.keep_attention and crowds(wanted, free)):
        if asked != "on" or wanted != least:
            return None
        wanted = waiting_bytes(config, geometry)
        sentence = _(
            "%(wanted).1f GiB would wait in system memory, of which %(free).1f GiB are free: layers are "
            "computed again instead."
        )
    else:
        lean.keep_attention = False
        sentence = _(
            "The attention's results would take %(wanted).1f GiB of the %(free).1f GiB of system memory that "
            "are free: they are computed again instead."
        )
    return WarningEvent(
        kind="system_memory",
        sentence=sentence % {"wanted": wanted / 2**30, "free": free / 2**30},
        mend=_("Close other programs or shorten the sequence to save that time."),
    )


def measure(lean: LeanBody) -> Rates:
    """Time a layer forward and a copy to the host, each alone, on the card that ``lean`` is on."""
    rates = Rates(_forward(lean), COPIED / _copy(lean.layers[0].attention.norm.weight_H.device))
    torch.cuda.empty_cache()  # what was only for this is the run's again
    log.info(
        "a layer forward takes %.3g s a token, the bus carries %.3g bytes a second",
        rates.forward_s,
        rates.bus,
    )
    return rates


def _copy(device: torch.device) -> float:
    card = torch.empty(COPIED, dtype=torch.uint8, device=device)
    host = torch.empty(COPIED, dtype=torch.uint8, pin_memory=True)
    return _seconds(lambda: host.copy_(card, non_blocking=True))


def _forward(lean: LeanBody) -> float:
    """Seconds a token; 0 where every layer is gated, for which no second way is kept here."""
    layer = next((one for one in lean.layers if one.site is None), None)
    if layer is None:
        return 0.0
    weight_H = layer.attention.norm.weight_H
    hidden_NTH = torch.randn((1, TOKENS, weight_H.numel()), dtype=lean.dtype, device=weight_H.device)
    scene = Scene(*lean.angles_for(TOKENS, hidden_NTH), None, None)
    with torch.no_grad(), torch.autocast(weight_H.device.type, enabled=False):
        return _seconds(lambda: layer.forward(hidden_NTH, None, scene, None)) / TOKENS


def _seconds(work: Callable[[], object]) -> float:
    """The least of three times on the card, after a first that does not count."""
    work()
    found: list[float] = []
    for _turn in range(3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _event in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return min(found)
