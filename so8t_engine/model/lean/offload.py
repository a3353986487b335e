"""What checkpointed layers keep, in pinned host memory, copied while the card computes.

On the way out few tensors are on the card beside those in use; on the way in those of the layer in use, and
of the one before it the first that will be needed. Buffers on the host are made once for each layer and name
and used again. On the CPU nothing is moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Ticket:
    """Where one tensor of a layer is: on the host, on its way, or on the card.

    Attributes:
        layer: counts the layers of a pass. order: of dimensions in which it lies in memory without gaps.
    """

    place: int
    layer: int
    order: tuple[int, ...]
    host: Tensor
    left: torch.cuda.Event
    card: Tensor | None = None
    arrived: torch.cuda.Event | None = None


class Offload:
    """One pass's tensors, pushed layer by layer in the forward pass and taken in the opposite order.

    Args:
        device: the card.
        leaving: tensors that may be on their way out when the next is pushed; older ones are waited for.
        ahead: so many tensors are fetched beside the one that is taken; None is the rest of its layer.
    """

    def __init__(self, device: torch.device, leaving: int = 1, ahead: int | None = None) -> None:
        self._device, self._most_leaving, self._ahead = device, leaving, ahead
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: dict[tuple[int, str], Tensor] = {}
        self._tickets: list[Ticket] = []
        self._leaving: list[tuple[Ticket, Tensor]] = []
        self._layer = 0

    def begin(self) -> None:
        """A new forward pass; what an abandoned one left is forgotten once its copies are done."""
        main = torch.cuda.current_stream(self._device)
        # First this way round: a recording takes in only streams that have waited for its own.
        self._stream.wait_stream(main)
        main.wait_stream(self._stream)
        self._tickets.clear()
        self._leaving.clear()
        self._layer = 0

    def begin_layer(self) -> None:
        """What is pushed from now on belongs to the next layer."""
        self._layer += 1

    def reserve(self, wanted: Sequence[Mapping[str, tuple[int, torch.dtype]]]) -> list[Tensor]:
        """Make all buffers now, layer by layer under their names, of so many elements each; return them.

        A recording must not make any, nor free those that an earlier pass still holds: PyTorch would wait
        for an event of the recording, which never comes.
        """
        self.begin()
        for layer, named in enumerate(wanted, 1):
            for name, (elements, dtype) in named.items():
                self._host(layer, name, elements, dtype)
        return list(self._buffers.values())

    def push(self, tensor: Tensor, name: str) -> Ticket:
        """Begin to copy ``tensor`` out. Its memory stays taken until it has left and others are pushed.

        Args:
            name: of it in its layer: passes of all lengths have one buffer for it.
        """
        main = torch.cuda.current_stream(self._device)
        left = torch.cuda.Event()  # type: ignore[no-untyped-call]
        order = tuple(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
        flat = tensor.permute(order)
        host = self._host(self._layer, name, flat.numel(), flat.dtype)[: flat.numel()].view(flat.shape)
        ticket = Ticket(len(self._tickets), self._layer, order, host, left)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            ticket.host.copy_(flat, non_blocking=True)
            ticket.left.record(self._stream)
        # Their memory may be used again once they have left.
        while len(self._leaving) >= self._most_leaving:
            main.wait_event(self._leaving.pop(0)[0].left)
        self._leaving.append((ticket, tensor))
        self._tickets.append(ticket)
        return ticket

    def settle(self) -> None:
        """Give back the memory of what is on its way out, once it has left."""
        main = torch.cuda.current_stream(self._device)
        for before, _tensor in self._leaving:
            main.wait_event(before.left)
        self._leaving.clear()

    def take(self, ticket: Ticket) -> Tensor:
        """The tensor on the card again, as it lay there.

        Begins to fetch what will be needed next: the rest of this layer's tensors, or with the last of them
        the first of the layer before; or as many as ``ahead`` says.
        """
        main = torch.cuda.current_stream(self._device)
        self.settle()
        if ticket.card is None:
            self._fetch(ticket, main)
        assert ticket.card is not None
        assert ticket.arrived is not None
        main.wait_event(ticket.arrived)
        flat, ticket.card = ticket.card, None
        for place in reversed(range(ticket.place)):
            nearer = self._tickets[place]
            if self._ahead is not None:
                if place < ticket.place - self._ahead:
                    break
            elif nearer.layer != ticket.layer and place != ticket.place - 1:
                break
            if nearer.card is None and nearer.arrived is None:
                self._fetch(nearer, main)
        return flat.permute([ticket.order.index(dimension) for dimension in range(flat.ndim)])

    def _fetch(self, ticket: Ticket, main: torch.cuda.Stream) -> None:
        ticket.card = torch.empty(ticket.host.shape, dtype=ticket.host.dtype, device=self._device)
        # What used this memory before is done once the main stream has come here.
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            ticket.card.copy_(ticket.host, non_blocking=True)
            ticket.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ticket.arrived.record(self._stream)

    def _host(self, layer: int, name: str, elements: int, dtype: torch.dtype) -> Tensor:
        buffer = self._buffers.get((layer, name))
        if buffer is None or buffer.numel() < elements or buffer.dtype != dtype:
            buffer = torch.empty(elements, dtype=dtype, pin_memory=True)
            self._buffers[layer, name] = buffer
        return buffer
