"""Shapes of published models with random weights: memory and speed of training do not depend on the values."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from so8t_engine.config.sections import ModelConfig

#: From the models' config.json on the Hub.
SHAPES: dict[str, dict[str, Any]] = {
    "phi35": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
        "tie_word_embeddings": False, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 131072, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
    "llama32_1b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "tie_word_embeddings": True, "max_position_embeddings": 131072, "pad_token_id": 0,
    },
    "qwen25_15b": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True, "max_position_embeddings": 32768, "pad_token_id": 0,
    },
}  # fmt: skip


def random_base(shape: str, config: ModelConfig, device: torch.device, seed: int = 0) -> nn.Module:
    """A frozen causal LM of a shape with random weights, its decoder's linears quantised as ``config`` says.

    Args:
        shape: a key of `SHAPES`.
        config: quantisation; the path is not read.
        device: where the model is made. Quantised layers need a card there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from so8t_engine.model.loading import choose_dtype

    values = dict(SHAPES[shape])
    hf_config = AutoConfig.for_model(values.pop("model_type"), **values)
    dtype = choose_dtype(config.compute_dtype, device)
    torch.manual_seed(seed)
    with device:
        model: nn.Module = AutoModelForCausalLM.from_config(
            hf_config, dtype=dtype, attn_implementation=config.attention
        )
    decoder: Any = model.get_decoder()  # type: ignore[operator]
    if config.quantization != "none":
        for layer in decoder.layers:
            for name, module in list(layer.named_modules()):
                if isinstance(module, nn.Linear):
                    parent, _dot, last = name.rpartition(".")
                    setattr(layer.get_submodule(parent), last, _quantised(module, config, dtype))
        setattr(model, "is_loaded_in_4bit" if config.quantization == "nf4" else "is_loaded_in_8bit", True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.config.use_cache = False  # type: ignore[union-attr]
    return model.eval()


def _quantised(linear: nn.Linear, config: ModelConfig, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    weight_OI, device = linear.weight.data, linear.weight.device
    bias = linear.bias is not None
    if config.quantization == "nf4":
        made: Any = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, bias, compute_dtype=dtype, quant_type="nf4", device="meta"
        )
        made.weight = bnb.nn.Params4bit(
            weight_OI, requires_grad=False, quant_type="nf4", compress_statistics=config.double_quant
        ).to(device)
    else:
        made = bnb.nn.Linear8bitLt(
            linear.in_features, linear.out_features, bias, has_fp16_weights=False, threshold=6.0, device="meta"
        )
        made.weight = bnb.nn.Int8Params(weight_OI, requires_grad=False, has_fp16_weights=False).to(device)
    if bias:
        made.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return made  # type: ignore[no-any-return]
