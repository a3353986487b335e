"""Reading a GGUF file back and comparing it with the weights it was made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from so8t_engine.errors import ModelError
from so8t_engine.export.gguf_file import ARCHITECTURES, require_gguf, tensors
from so8t_engine.i18n import _


@dataclass(frozen=True)
class GgufCheck:
    """The file, dequantised, against the weights.

    Attributes:
        tensors: how many were compared. max_relative: the largest ‖Δ‖_F / ‖W‖_F of one tensor.
        worst: its name. types: GGUF type → tensors.
    """

    tensors: int
    max_relative: float
    worst: str
    types: dict[str, int]


#: Largest accepted ‖Δ‖_F / ‖W‖_F: half precision keeps 11 bits, q8_0 about 7 of a block's largest value,
#: q4_k_m about 4 (its mixture keeps some tensors in 6 bits).
LIMITS = {"f16": 5e-4, "q8_0": 1e-2, "q4_k_m": 0.15}


def check_gguf(file: Path, folder: Path, kind: str) -> GgufCheck:
    """Compare every tensor of ``file`` with ``folder``'s.

    Raises:
        ModelError: a tensor is missing or further off than its type allows.
    """
    gguf = require_gguf()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arch = gguf.MODEL_ARCH.PHI3 if ARCHITECTURES[config["model_type"]] == "phi3" else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(arch, int(config["num_hidden_layers"]))
    stored: dict[str, Any] = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    worst, worst_name, count = 0.0, "", 0
    types: dict[str, int] = {}
    for source, array in tensors(folder, config):
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name not in stored:
            raise ModelError(_("%(file)s lacks the tensor %(name)s.") % {"file": str(file), "name": name})
        tensor = stored[name]
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(array.shape)
        size = float(np.linalg.norm(array))
        off = float(np.linalg.norm(found - array)) / size if size else float(np.abs(found).max())
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
        count += 1
        if not off <= worst:  # NaN counts as the worst
            worst, worst_name = off, name
    if not worst <= LIMITS[kind]:
        raise ModelError(
            _("%(name)s in %(file)s differs from the model by %(off).3g of its size.")
            % {"name": worst_name, "file": str(file), "off": worst},
            _("The file was not kept; report this as a defect."),
        )
    return GgufCheck(count, worst, worst_name, types)
