"""Inputs of checkpointed layers in pinned host memory, copied while the card computes.

At most two inputs are on the card beside the one in use: the one on its way out or in, and the one before.
Buffers on the host are made once per layer and used again. On the CPU nothing is moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Ticket:
    """Where one layer's input is: on the host, on its way, or on the card."""

    place: int
    shape: torch.Size
    host: Tensor
    left: torch.cuda.Event
    card: Tensor | None = None
    arrived: torch.cuda.Event | None = None


class Offload:
    """One pass's inputs, pushed in the forward pass and taken in the opposite order.

    Args:
        device: the card.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: dict[int, Tensor] = {}
        self._tickets: list[Ticket] = []
        self._leaving: list[tuple[Ticket, Tensor]] = []

    def begin(self) -> None:
        """A new forward pass; what an abandoned one left is forgotten once its copies are done."""
        main = torch.cuda.current_stream(self._device)
        # First this way round: a recording takes in only streams that have waited for its own.
        self._stream.wait_stream(main)
        main.wait_stream(self._stream)
        self._tickets.clear()
        self._leaving.clear()

    def reserve(self, places: int, elements: int, dtype: torch.dtype) -> list[Tensor]:
        """Make all buffers now, for inputs of so many elements, and return them.

        A recording must not make any, nor free those that an earlier pass still holds: PyTorch would wait
        for an event of the recording, which never comes.
        """
        self.begin()
        for place in range(places):
            self._host(place, torch.empty(elements, dtype=dtype, device="meta"))
        return [self._buffers[place] for place in range(places)]

    def push(self, hidden: Tensor) -> Ticket:
        """Begin to copy ``hidden`` out. It stays on the card until the next push."""
        main = torch.cuda.current_stream(self._device)
        left = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ticket = Ticket(len(self._tickets), hidden.shape, self._host(len(self._tickets), hidden), left)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            ticket.host.copy_(hidden, non_blocking=True)
            ticket.left.record(self._stream)
        # The one before has had a whole layer's time. Its memory may be used again once it has left.
        for before, _tensor in self._leaving:
            main.wait_event(before.left)
        self._leaving = [(ticket, hidden)]
        self._tickets.append(ticket)
        return ticket

    def take(self, ticket: Ticket) -> Tensor:
        """The input on the card again; begins to fetch the one before it."""
        main = torch.cuda.current_stream(self._device)
        for before, _tensor in self._leaving:
            main.wait_event(before.left)
        self._leaving.clear()
        if ticket.card is None:
            self._fetch(ticket, main)
        assert ticket.card is not None
        assert ticket.arrived is not None
        main.wait_event(ticket.arrived)
        hidden, ticket.card = ticket.card, None
        if ticket.place:
            self._fetch(self._tickets[ticket.place - 1], main)
        return hidden

    def _fetch(self, ticket: Ticket, main: torch.cuda.Stream) -> None:
        ticket.card = torch.empty(ticket.shape, dtype=ticket.host.dtype, device=self._device)
        # What used this memory before is done once the main stream has come here.
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            ticket.card.copy_(ticket.host, non_blocking=True)
            ticket.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ticket.arrived.record(self._stream)

    def _host(self, place: int, like: Tensor) -> Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or buffer.numel() < like.numel() or buffer.dtype != like.dtype:
            buffer = torch.empty(like.numel(), dtype=like.dtype, pin_memory=True)
            self._buffers[place] = buffer
        return buffer[: like.numel()].view(like.shape)
