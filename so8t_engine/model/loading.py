"""Loading the frozen base model and its tokenizer, quantised with bitsandbytes on the card or the CPU."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from so8t_engine.config.sections import ModelConfig
from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.memory.geometry import refuse_unfit, stored_quantisation
from so8t_engine.model.compact import compact
from so8t_engine.model.dequantised import dequantise
from so8t_engine.model.source import model_source

log = logging.getLogger(__name__)


def choose_device(wanted: str) -> torch.device:
    """``auto`` is the first CUDA card, else the CPU. Raises `ModelError` if CUDA is asked for and absent."""
    if wanted == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            _("No NVIDIA card can be used (torch %(version)s).") % {"version": torch.__version__},
            _("Set model.device to auto or cpu, or install the CUDA build of torch."),
        )
    return torch.device("cuda", 0) if wanted == "cuda" else torch.device("cpu")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The compute type. On the CPU ``auto`` is float32: most home CPUs emulate bf16, many times slower."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if wanted in named:
        return named[wanted]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


_OFFLINE = ("offline", "connect", "resolve", "couldn't reach", "max retries", "not a local folder")


def _loading_error(source: str, error: Exception) -> ModelError:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if not Path(source).exists() or any(word in str(error).lower() for word in _OFFLINE):
        return ModelError(
            _("The model %(source)s is neither on this computer nor to be had from the Hub.")
            % {"source": source},
            _("Check the name and the connection (a gated model needs 'hf auth login'), or give a folder."),
        )
    return ModelError(
        _("The model in %(source)s cannot be loaded: %(reason)s") % {"source": source, "reason": reason},
        _("Download it again; log.txt holds the details."),
    )


def load_tokenizer(config: ModelConfig) -> Any:  # noqa: ANN401  (transformers' tokenizers share no typed base)
    """The model's tokenizer. Raises `ModelError`."""
    source = model_source(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError, json.JSONDecodeError, KeyError) as error:
        raise _loading_error(source, error) from error
    if tokenizer.chat_template is None:
        raise ModelError(
            _("The tokenizer of %(source)s has no chat template.") % {"source": source},
            _("Take the instruct version of the model."),
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_base(config: ModelConfig) -> nn.Module:
    """The frozen base model on its device, in evaluation mode.

    Raises:
        ModelError: missing, damaged or unsuitable; says which.
    """
    source = model_source(config)
    device = choose_device(config.device)
    dtype = choose_dtype(config.compute_dtype, device)
    quantization: BitsAndBytesConfig | None = None
    if config.quantization == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    elif config.quantization == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    try:
        hf_config = AutoConfig.from_pretrained(source, revision=config.revision, trust_remote_code=False)
        stated = hf_config.to_dict()
        refuse_unfit(stated, source)
        stored = stored_quantisation(stated)
        if stored not in {None, config.quantization}:
            raise ModelError(
                _("The weights of %(source)s are stored as %(stored)s; model.quantization is %(wanted)s.")
                % {"source": source, "stored": stored, "wanted": config.quantization},
                _("Set model.quantization to %(stored)s, or choose the model's original weights.")
                % {"stored": stored},
            )
        hidden = getattr(hf_config, "hidden_size", None)
        if not isinstance(hidden, int) or hidden % 8:
            raise ModelError(
                _("The model's hidden size is %(hidden)s, which is not a multiple of 8.")
                % {"hidden": hidden},
                _("SO(8) rotations act on blocks of eight: take a Phi-3-class model."),
            )
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            source,
            revision=config.revision,
            dtype=dtype,
            device_map={"": device},
            quantization_config=quantization,
            attn_implementation=config.attention,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except ModelError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            _("The card's memory does not hold the base model."),
            _("Close other programs that use the card, or choose nf4 quantisation."),
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise _loading_error(source, error) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if device.type == "cpu" and config.quantization == "nf4":
        count = dequantise(model, dtype)
        log.info("%d nf4 layers dequantised once: there is no 4-bit kernel for training on the CPU", count)
    if device.type == "cuda":
        log.info("%d bytes of weights were laid side by side", compact(model))
    model.config.use_cache = False  # type: ignore[union-attr]
    return model.eval()
