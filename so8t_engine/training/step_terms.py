"""The loss terms of one optimizer step, added up over its passes and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from so8t_engine.model.so8t_model import LossReport
from so8t_engine.so8t.losses import TERMS


class StepTerms:
    """Raw and weighted shares by term. Nothing is read from the card before `values`."""

    def __init__(self) -> None:
        self._terms: dict[str, tuple[Tensor, Tensor]] = {}

    def clear(self) -> None:
        self._terms = {}

    def add(self, report: LossReport) -> None:
        """Add a micro-batch's shares."""
        for name, (raw, weighted) in report.terms.items():
            if name in self._terms:
                old_raw, old_weighted = self._terms[name]
                raw, weighted = old_raw + raw, old_weighted + weighted
            self._terms[name] = (raw, weighted)

    def packed(self, device: torch.device) -> Tensor:
        """Float32 (27,): raw, weighted and whether it is there, for each of `TERMS`."""
        zero = torch.zeros((), device=device)
        values: list[Tensor] = []
        for name in TERMS:
            raw, weighted = self._terms.get(name, (zero, zero))
            values += [raw.float(), weighted.float(), zero + float(name in self._terms)]
        return torch.stack([value.to(device) for value in values])

    def unpack(self, packed: Tensor) -> None:
        """Take the sums of all processes in place of this one's shares."""
        there = packed[2::3].tolist()
        self._terms = {
            name: (packed[3 * place], packed[3 * place + 1])
            for place, name in enumerate(TERMS)
            if there[place]
        }

    def values(self) -> tuple[dict[str, float], dict[str, float]]:
        """``(raw, weighted)`` by term, with one transfer for all."""
        names = list(self._terms)
        flat = torch.stack([v.float() for name in names for v in self._terms[name]]).tolist()
        return (
            {name: flat[2 * i] for i, name in enumerate(names)},
            {name: flat[2 * i + 1] for i, name in enumerate(names)},
        )
