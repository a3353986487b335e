"""Frozen base models with random weights, made on the device in quantised form, and shared between runs.

No file is read or written: a 3.8-billion-parameter model stands on a card in a few seconds. The modules,
dtypes and flags are those that `so8t_engine.model.loading.load_base` gets from transformers.
"""

from __future__ import annotations

import gc
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.model.compact import compact

Values = dict[str, Any]

#: Shapes from the models' config.json on the Hub; the weights are random.
SHAPES: dict[str, Values] = {
    "phi35": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 131072,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    },
    "llama32_1b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "qwen25_15b": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True, "max_position_embeddings": 32768,
    },
    "tiny": {
        "model_type": "phi3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512,
        "tie_word_embeddings": False, "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    },
}  # fmt: skip

SPREAD = 0.02


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device).normal_(0.0, SPREAD)


def _quantised(linear: nn.Linear, kind: str, double_quant: bool, device: torch.device) -> nn.Module:
    import bitsandbytes as bnb

    dtype = linear.weight.dtype
    weight_OI = _random((linear.out_features, linear.in_features), dtype, device)
    layer: Any
    if kind == "nf4":
        with torch.device("meta"):
            layer = bnb.nn.Linear4bit(
                linear.in_features, linear.out_features, bias=linear.bias is not None,
                compute_dtype=dtype, compress_statistics=double_quant, quant_type="nf4",
            )  # fmt: skip
        layer.weight = bnb.nn.Params4bit(
            weight_OI, requires_grad=False, compress_statistics=double_quant, quant_type="nf4", module=layer
        )._quantize(device)
    else:
        with torch.device("meta"):
            layer = bnb.nn.Linear8bitLt(
                linear.in_features, linear.out_features, bias=linear.bias is not None,
                has_fp16_weights=False, threshold=6.0,
            )  # fmt: skip
        layer.weight = bnb.nn.Int8Params(weight_OI, requires_grad=False, has_fp16_weights=False)._quantize(
            device
        )
    if linear.bias is not None:
        layer.bias = nn.Parameter(_random((linear.out_features,), dtype, device), requires_grad=False)
    return layer  # type: ignore[no-any-return]


def random_base(
    shape: str, kind: str, *, double_quant: bool, attention: str, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A causal LM of transformers with random frozen weights, its decoder's linear layers quantised.

    Args:
        shape: a key of `SHAPES`.
        kind: ``nf4``, ``int8`` or ``none``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(SHAPES[shape])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head and kind != "none":
            parent, _dot, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _quantised(module, kind, double_quant, device))
    done: dict[int, nn.Parameter] = {}  # a tied head stays tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta":
                if id(parameter) not in done:
                    made = _random(tuple(parameter.shape), parameter.dtype, device)
                    if "norm" in type(module).__name__.lower():
                        made.fill_(1.0)
                    done[id(parameter)] = nn.Parameter(made, requires_grad=False)
                setattr(module, name, done[id(parameter)])
    rotary = model.model.rotary_emb
    with device:
        model.model.rotary_emb = type(rotary)(config=config)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    left = [name for name, tensor in tensors if tensor.device.type == "meta"]
    assert not left, f"not materialised: {left}"
    if device.type == "cuda":
        compact(model)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = kind == "nf4", kind == "int8"
    model.config.use_cache = False
    result: nn.Module = model.eval()
    return result


class Pristine:
    """A module tree as it was: what a run injects, patches or hooks into it is taken out by `restore`."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._saved = [(module, _shallow(vars(module))) for module in root.modules()]

    @property
    def root(self) -> nn.Module:
        return self._root

    def restore(self) -> nn.Module:
        """The tree as it was when this was made; the parameters are the same tensors."""
        for module, attributes in self._saved:
            vars(module).clear()
            vars(module).update(_shallow(attributes))
        return self._root.eval()


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: copy(value) if isinstance(value, dict | list | set) else value
        for name, value in attributes.items()
    }


class SharedBase:
    """The frozen base of the last request; another one replaces it."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._key: tuple[object, ...] = ()
        self._held: Pristine | None = None

    def get(self, shape: str, kind: str, double_quant: bool, attention: str) -> nn.Module:
        """The base in its first state, with nothing of an earlier run in it."""
        key = (shape, kind, double_quant, attention)
        if self._held is None or key != self._key:
            self._held = None
            release()
            base = random_base(
                shape, kind, double_quant=double_quant, attention=attention,
                dtype=self._dtype, device=self._device,
            )  # fmt: skip
            self._key, self._held = key, Pristine(base)
        base = self._held.restore()
        release()
        return base


def release() -> None:
    """Give back everything that nobody holds, the libraries' workspaces too."""
    gc.collect()
    if torch.cuda.is_available():
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
