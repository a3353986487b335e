"""The projector: patch features into the base model's embedding space, LLaVA-1.5's two-layer MLP."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from so8t_engine.errors import ModelError
from so8t_engine.files import move
from so8t_engine.i18n import _


class Projector(nn.Module):
    """Linear, GELU, Linear, always float32 (Liu et al. 2023b).

    Args:
        width: D of the encoder. hidden_size: H of the language model.
        scale: root mean square of the model's embeddings: the output begins at that size.
        seed: of the weights.
    """

    def __init__(self, width: int, hidden_size: int, *, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(width, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)
        for linear, gain in ((self.first, 1.0), (self.second, scale)):
            nn.init.normal_(linear.weight, std=gain / linear.in_features**0.5, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, features_NPD: Tensor) -> Tensor:
        """(N, P, D) to (N, P, H)."""
        with torch.autocast(features_NPD.device.type, enabled=False):
            out_NPH: Tensor = self.second(nn.functional.gelu(self.first(features_NPD.float())))
            return out_NPH


def save_projector(file: Path, projector: Projector, encoder: str) -> None:
    """``projector.safetensors``: weights, and which encoder they belong to. The same bytes for the same."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in projector.state_dict().items()}
    partial = file.with_name(file.name + ".tmp")
    # One key of metadata: several are written in no particular order.
    partial.write_bytes(save(tensors, {"encoder": encoder}))
    move(partial, file, over=True)


def load_projector(file: Path) -> tuple[Projector, str]:
    """The projector and its encoder's name. Raises `ModelError`."""
    try:
        with safe_open(file, framework="pt") as opened:
            encoder = (opened.metadata() or {})["encoder"]
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        hidden, width = tensors["first.weight"].shape
        projector = Projector(width, hidden)
        projector.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ModelError(
            _("%(path)s is no projector: %(reason)s") % {"path": str(file), "reason": error},
            _("Do the integration again."),
        ) from error
    return projector.eval(), encoder
