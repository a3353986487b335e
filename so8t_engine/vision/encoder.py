"""Frozen vision encoders: pictures to patch features (N, P, D) in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _

EMBEDDED = "embedded"
_SIDE, _PATCH, _KEPT = 32, 8, 4  # pixels of a side, of a patch, DCT coefficients a direction


class VisionEncoder(Protocol):
    """What integration needs of an encoder.

    Attributes:
        name: for reports. patches, width: P and D of the features.
    """

    name: str
    patches: int
    width: int

    def encode(self, images: Sequence[Any]) -> Tensor:
        """RGB pictures (PIL) to features (N, P, D), float32, without gradient."""
        ...


class DctEncoder:
    """The embedded encoder: the low frequencies of each patch's two-dimensional DCT, per colour channel.

    32×32 pixels, 16 patches of 8×8, 4×4 coefficients of three channels: D = 48. It was not trained on
    anything, needs no file, and is meant for tests and the demonstration: it sees colours and coarse
    shapes.
    """

    name = EMBEDDED
    patches = (_SIDE // _PATCH) ** 2
    width = 3 * _KEPT * _KEPT

    def __init__(self) -> None:
        k, x = np.arange(_KEPT)[:, None], np.arange(_PATCH)[None]
        basis = np.cos(math.pi * (x + 0.5) * k / _PATCH) * math.sqrt(2 / _PATCH)
        basis[0] /= math.sqrt(2)  # orthonormal DCT-II
        self._basis = basis

    def encode(self, images: Sequence[Any]) -> Tensor:
        pixels_NHWC = np.stack(
            [np.asarray(image.convert("RGB").resize((_SIDE, _SIDE)), dtype=np.float64) for image in images]
        )
        count, grid = len(images), _SIDE // _PATCH
        patches = (pixels_NHWC / 127.5 - 1.0).reshape(count, grid, _PATCH, grid, _PATCH, 3)
        features = np.einsum("ky,ngyhxc,lx->nghckl", self._basis, patches, self._basis)
        return torch.from_numpy(features.reshape(count, self.patches, self.width) / _PATCH).float()


class TransformersEncoder:
    """CLIP's or SigLIP's vision tower from a folder or the Hub, as LLaVA takes it: the patches of the last
    but one layer, CLIP's class token left out (Liu et al. 2023).

    Raises:
        ModelError: it cannot be loaded or is no such tower.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModel, SiglipVisionModel

        self.name = Path(source).name if Path(source).exists() else source
        self._device = device
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            vision = getattr(config, "vision_config", config)
            kind = str(vision.model_type)
            towers = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}
            if kind not in towers:
                raise ModelError(
                    _("%(source)s is no vision tower of CLIP or SigLIP but %(kind)s.")
                    % {"source": source, "kind": kind},
                    _("Choose for example openai/clip-vit-base-patch32 or google/siglip-base-patch16-224."),
                )
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
            self._tower = towers[kind].from_pretrained(source, dtype=dtype, use_safetensors=True)
            self._processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                _("The vision encoder %(source)s cannot be loaded: %(reason)s")
                % {"source": source, "reason": str(error).strip().splitlines()[0]},
                _("Give a folder in transformers' layout, a Hub id, or 'embedded'."),
            ) from error
        self._tower = self._tower.to(device).eval().requires_grad_(False)
        self._drop = 1 if kind == "clip_vision_model" else 0
        self.patches = (vision.image_size // vision.patch_size) ** 2
        self.width = int(vision.hidden_size)

    @torch.no_grad()
    def encode(self, images: Sequence[Any]) -> Tensor:
        batch = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        pixels = batch["pixel_values"].to(self._device, self._tower.dtype)
        states = self._tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        features: Tensor = states[:, self._drop :].float()
        return features


def load_encoder(source: str, device: torch.device) -> VisionEncoder:
    """``embedded``, a folder, or a Hub id. Raises `ModelError`."""
    return DctEncoder() if source == EMBEDDED else TransformersEncoder(source, device)
