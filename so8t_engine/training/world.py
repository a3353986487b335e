"""The processes that train one run together: who they are, what they tell each other, one gradient.

``torchrun`` or ``accelerate launch`` starts them and says in the environment which is which. Each has a card
of its own and a part of every step's rows (`shares`). They speak over gloo, where a process that is gone is
noticed at once and one that waits costs nothing; gradients go over NCCL where there are cards. Every word is
an `World.exchange`, so that whoever fails says so at the next one and nobody waits for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from so8t_engine.errors import RunError, SO8TError
from so8t_engine.i18n import _

#: A pause or an evaluation of the first process may take any time; the others wait for it.
_PATIENCE = timedelta(days=30)
#: Between agreeing on a reduction and its end.
_REDUCTION = timedelta(minutes=2)
#: Elements that are reduced at a time: 32 MB.
_BUCKET = 1 << 23
Message = dict[str, Any]


class LostError(RunError):
    """Another process of the run is gone, or has said that it failed."""


class LeftError(Exception):
    """The first process has ended the run; the others leave quietly."""


@dataclass
class World:
    """This process among those of its run. By itself it is `World()`: nothing is said to anybody.

    Attributes:
        rank: of this process; 0 writes the run directory and decides.
        size: number of processes.
        over: nobody listens any more: the run has ended, or somebody is gone.
        training: the first step has begun.
        cards: rank of another process → its card's ``index`` in NVML's count, and what its allocator holds.
    """

    rank: int = 0
    size: int = 1
    over: bool = False
    training: bool = False
    cards: dict[int, dict[str, int]] = field(default_factory=dict)
    _card_group: Any = field(default=None, repr=False)

    @classmethod
    def join(cls) -> World:
        """The world that the launcher's environment describes; alone where there is none.

        The variables are taken out of the environment: transformers and accelerate then see one process
        with one card, and everything between processes happens here. Call it before anything touches a card.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 or dist.is_initialized():
            return cls()
        rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(size) and Path("/sys/class/net/lo").exists():
            # All on this computer, whose name need not resolve to an address.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", timeout=_PATIENCE)
        for name in [
            n for n in os.environ if n in _LAUNCHER or n.startswith(("ACCELERATE_", "TORCHELASTIC_"))
        ]:
            del os.environ[name]
        _take_card(local)
        return cls(rank, size)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and decides."""
        return self.rank == 0

    def exchange(self, kind: str, message: Mapping[str, Any] | None = None) -> list[Message]:
        """Say ``message`` and hear everybody's, by rank.

        Args:
            kind: where in the run this is said; all say the same.

        Raises:
            LostError: a process is gone or has failed.
            LeftError: the first process has ended the run.
        """
        own: Message = {"kind": kind, **(message or {})}
        if self.size == 1:
            return [own]
        if self.over:
            raise LostError(_("The other processes of the run have ended."))
        said = self._gather(own)
        for rank, heard in enumerate(said):
            if heard["kind"] == "failed" and rank != self.rank:
                self.over = True
                if rank == 0:
                    raise LeftError(heard["sentence"])
                raise LostError(
                    _("Process %(rank)d of the run failed: %(what)s")
                    % {"rank": rank, "what": heard["sentence"]},
                    heard["mend"],
                )
        assert {heard["kind"] for heard in said} == {kind}, said
        return said

    def _gather(self, own: Message) -> list[Message]:
        data = torch.frombuffer(bytearray(json.dumps(own).encode()), dtype=torch.uint8)
        try:
            sizes = [torch.zeros(1, dtype=torch.int64) for _rank in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(data)]))
            longest = int(max(sizes))
            texts = [torch.zeros(longest, dtype=torch.uint8) for _rank in range(self.size)]
            dist.all_gather(texts, nn.functional.pad(data, (0, longest - len(data))))
        except RuntimeError as error:
            self.over = True
            raise LostError(
                _("Another process of the run has ended unexpectedly."),
                _("Continue the run from its last checkpoint; the launcher's output says how it ended."),
            ) from error
        return [
            json.loads(bytes(text[: int(size)].tolist())) for text, size in zip(texts, sizes, strict=True)
        ]

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process goes, unless nobody listens any more."""
        if self.size == 1 or self.over:
            return
        self.over = True
        sentence = error.sentence if isinstance(error, SO8TError) else f"{type(error).__name__}: {error}"
        mend = error.mend if isinstance(error, SO8TError) else ""
        try:
            self._gather({"kind": "failed", "sentence": sentence, "mend": mend})
        except LostError:
            return  # then they know

    def use_card(self) -> None:
        """Have gradients go from card to card from now on. All call it, or none."""
        if self.size > 1 and torch.cuda.is_available():
            self._card_group = dist.new_group(backend="nccl", timeout=_REDUCTION)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give everybody the first process's values, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0, group=self._card_group)

    def reduce(
        self, parameters: Sequence[nn.Parameter], extra_E: Tensor, flat: Tensor | None = None
    ) -> Tensor:
        """Sum all processes' gradients, in place, and ``extra_E`` of float32, which is returned.

        Args:
            flat: holds all gradients, where they lie in one buffer; in every process or in none.

        A parameter without a gradient in every process keeps none. Sums are the same to the bit everywhere.
        """
        if self.size == 1:
            return extra_E
        if flat is not None:
            dist.all_reduce(flat, group=self._card_group)
            extra_E = extra_E.float()
            dist.all_reduce(extra_E, group=self._card_group)
            return extra_E
        there_P = torch.tensor([float(p.grad is not None) for p in parameters], device=extra_E.device)
        small = torch.cat((extra_E.float(), there_P))
        dist.all_reduce(small, group=self._card_group)
        if any(p.grad is None for p in parameters):
            for parameter, count in zip(parameters, small[len(extra_E) :].tolist(), strict=True):
                if parameter.grad is None and count:
                    parameter.grad = torch.zeros_like(parameter)
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is not None:
                bucket.append(parameter.grad)
                if sum(grad.numel() for grad in bucket) >= _BUCKET:
                    self._sum(bucket)
                    bucket = []
        self._sum(bucket)
        return small[: len(extra_E)]

    def _sum(self, grads: list[Tensor]) -> None:
        if grads:
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat, group=self._card_group)
            for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    def close(self) -> None:
        """All processes have come to the end of their work together."""
        if self.size > 1 and not self.over:
            self.over = True
            dist.destroy_process_group()


_LAUNCHER = {
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
}  # fmt: skip


def _take_card(local_rank: int) -> None:
    """Leave one card visible: number ``local_rank`` of those that were."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        cards = [card for card in visible.split(",") if card.strip()]
        if local_rank < len(cards):
            os.environ["CUDA_VISIBLE_DEVICES"] = cards[local_rank]
        elif cards:
            os.environ["CUDA_VISIBLE_DEVICES"] = "none"
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(local_rank)
