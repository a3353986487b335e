"""A plain transformers folder of Phi-3's or Llama's architecture as one GGUF file.

Names, keys and the permutation of Llama's q and k follow llama.cpp's convert_hf_to_gguf.py; the bytes are
written by the gguf package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from so8t_engine.errors import ModelError, SO8TError
from so8t_engine.export.gguf_vocabulary import add_vocabulary
from so8t_engine.i18n import _

GgufType = Literal["f16", "q8_0"]
#: transformers' model_type → GGUF architecture.
ARCHITECTURES = {"phi3": "phi3", "llama": "llama", "mistral": "llama"}
Floats = NDArray[np.float32]


def require_gguf() -> Any:  # noqa: ANN401
    """The gguf package. Raises `SO8TError` where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise SO8TError(
            _("Writing GGUF needs the package gguf, which is not installed."),
            _("Install it with: pip install gguf"),
        ) from error
    return gguf


def write_gguf(
    folder: Path,
    file: Path,
    kind: GgufType,
    *,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write ``file`` from the model in ``folder``; returns what the format cannot express, as sentences.

    Args:
        kind: ``f16`` rounds matrices to half precision, ``q8_0`` to 8 bits in blocks of 32; vectors stay
            float32 in both.

    Raises:
        ModelError: another architecture, or a tensor without a place in it.
    """
    gguf = require_gguf()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arch = _architecture(config)
    layers = int(config["num_hidden_layers"])
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH.PHI3 if arch == "phi3" else gguf.MODEL_ARCH.LLAMA, layers
    )
    writer = gguf.GGUFWriter(str(file), arch, use_temp_file=True)
    try:
        _add_settings(writer, gguf, config, arch, kind)
        limits = add_vocabulary(writer, folder, int(config["vocab_size"]), name or folder.name)
        _add_rope_factors(writer, config)
        count = len(list(tensor_names(folder)))
        for done, (source, array) in enumerate(tensors(folder, config)):
            target = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise ModelError(
                    _("%(name)s has no place in GGUF's %(arch)s.") % {"name": source, "arch": arch},
                    _("Export models of Phi-3's or Llama's architecture."),
                )
            writer.add_tensor(target, *_stored(gguf, array, kind))
            if progress is not None:
                progress(done + 1, count)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return limits


def _stored(gguf: Any, array: Floats, kind: GgufType) -> tuple[NDArray[Any], Any, Any]:  # noqa: ANN401
    """The array as written, its raw shape and its raw type (None: the array's own)."""
    if array.ndim == 1 or (kind == "q8_0" and array.shape[-1] % 32):
        wanted = np.float32 if array.ndim == 1 else np.float16
        return array.astype(wanted), None, None
    if kind == "f16":
        return array.astype(np.float16), None, None
    quantised = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
    return quantised, None, gguf.GGMLQuantizationType.Q8_0


def _architecture(config: dict[str, Any]) -> str:
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise ModelError(
            _("A model of type %(kind)s cannot be written as GGUF here.") % {"kind": kind},
            _("Phi-3, Llama and Mistral can; for others use llama.cpp's own converter on the baked folder."),
        )
    return ARCHITECTURES[kind]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _add_settings(writer: Any, gguf: Any, config: dict[str, Any], arch: str, kind: GgufType) -> None:  # noqa: ANN401
    heads = int(config["num_attention_heads"])
    rope = _rope(config)
    head = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    if head * heads != int(config["hidden_size"]):  # llama.cpp divides (Mistral Nemo: 128, not 160)
        writer.add_key_length(head)
        writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_dimension_count(int(head * float(rope.get("partial_rotary_factor", 1.0))))
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_vocab_size(int(config["vocab_size"]))
    if arch == "phi3":
        writer.add_rope_scaling_orig_ctx_len(
            int(rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
                or config["max_position_embeddings"])
        )  # fmt: skip
        writer.add_sliding_window(int(config.get("sliding_window") or 0))
    elif str(rope.get("rope_type", "default")) not in ("default", "linear"):
        raise ModelError(
            _("The rope type %(kind)s of this model cannot be written as GGUF here.")
            % {"kind": rope.get("rope_type")},
            _("Use llama.cpp's own converter on the baked folder."),
        )
    elif rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    wanted = gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0
    writer.add_file_type(wanted)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_rope_factors(writer: Any, config: dict[str, Any]) -> None:  # noqa: ANN401
    """Phi-3's LongRoPE: factors per frequency and the attention scale (Ding et al. 2024)."""
    rope = _rope(config)
    if "long_factor" not in rope:
        return
    longest = int(config["max_position_embeddings"])
    original = int(
        rope.get("original_max_position_embeddings")
        or config.get("original_max_position_embeddings")
        or longest
    )
    scale = longest / original
    writer.add_rope_scaling_attn_factors(
        1.0 if scale <= 1.0 else math.sqrt(1.0 + math.log(scale) / math.log(original))
    )
    for which in ("long", "short"):
        writer.add_tensor(f"rope_factors_{which}.weight", np.array(rope[f"{which}_factor"], dtype=np.float32))


def tensor_names(folder: Path) -> Iterator[tuple[Path, str]]:
    """The file and name of every tensor of a model folder."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield file, name


def tensors(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, Floats]]:
    """Every tensor in float32 as GGUF orders it: Llama's q and k permuted, all others as they are."""
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    permute = ARCHITECTURES[str(config["model_type"])] == "llama"
    for file, name in tensor_names(folder):
        with safe_open(file, framework="pt") as opened:
            array: Floats = opened.get_tensor(name).float().numpy()
        if permute and ".q_proj." in name:
            array = _permuted(array, heads)
        elif permute and ".k_proj." in name:
            array = _permuted(array, kv_heads)
        yield name, array


def _permuted(weight: Floats, heads: int) -> Floats:
    """llama.cpp's rotary order: the halves of each head interleaved."""
    shape = weight.shape
    return np.ascontiguousarray(
        weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
    )
