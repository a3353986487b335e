"""A trained run's model, dense and in float32 on the CPU, with everything that ``final/`` holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from so8t_engine.config import Config
from so8t_engine.config.sections import ModelConfig
from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.model.dequantised import dequantise
from so8t_engine.model.inspection import check_model_folder
from so8t_engine.model.loading import load_base
from so8t_engine.model.source import model_source
from so8t_engine.model.targets import linear_modules
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import lm_head_of
from so8t_engine.so8t.placement import Placement
from so8t_engine.so8t.soul_file import Soul, adapter_of, load_soul

_COMPUTE = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass
class FinishedModel:
    """What a run left, ready to speak with its gate attached, or to be baked.

    Attributes:
        peft: the dense base with LoRA, not merged, float32, eval mode, no gate attached.
        so8t: the gate and the heads, eval mode.
        soul: what the soul file says.
        placement: where the gate acts.
        dequantised: how many layers the run had quantised; they hold the dequantised values.
    """

    peft: Any
    so8t: SO8TAdapter
    soul: Soul
    placement: Placement
    dequantised: int

    def merged(self) -> nn.Module:
        """transformers' model with LoRA's part added to the weights; `peft` is used up by it."""
        model: nn.Module = self.peft.merge_and_unload()
        self.peft = None
        return model


def load_finished(final: Path, config: Config, *, compute_dtype: str, on_card: bool) -> FinishedModel:
    """Load a run's ``final/`` folder on its base model.

    Args:
        final: verified against its manifest by the caller.
        config: the run's.
        compute_dtype: what the run computed in, as torch names it: quantised weights took these values.
        on_card: quantise on the card, where the run did; the result lies in system memory all the same.

    Raises:
        ModelError: base model or LoRA adapter cannot be loaded.
        SO8TError: the soul file cannot be used.
    """
    from peft import PeftModel

    soul = load_soul(final / "soul.safetensors")
    placement = Placement.parse(soul.metadata.placement)
    adapter = final / "adapter"
    if not (adapter / "adapter_model.safetensors").is_file():
        # peft would fall back to adapter_model.bin, or ask the Hub for the missing file.
        raise ModelError(
            _("%(path)s holds no adapter_model.safetensors.") % {"path": str(adapter)},
            _("Take the folder of a finished run; adapters stored as pickles are not loaded."),
        )
    check_model_folder(adapter)
    base, dequantised = _dense(config.model, compute_dtype, on_card and torch.cuda.is_available())
    try:
        peft = PeftModel.from_pretrained(base, str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            _("The LoRA adapter in %(path)s cannot be loaded: %(reason)s")
            % {"path": str(adapter), "reason": str(error).strip().splitlines()[0]},
            _("Use the base model that the run was trained on."),
        ) from error
    so8t = adapter_of(soul, getattr(lm_head_of(base), "in_features", 0)).eval()
    return FinishedModel(peft.float().eval(), so8t, soul, placement, dequantised)


def _dense(config: ModelConfig, compute_dtype: str, on_card: bool) -> tuple[nn.Module, int]:
    """The base model in float32 with the values that a run's quantised layers had."""
    compute = _COMPUTE.get(compute_dtype, config.compute_dtype)
    # Without quantisation the card would only take memory.
    card = on_card and config.quantization != "none"
    wanted = config.model_copy(
        update={"device": "cuda" if card else "cpu", "compute_dtype": compute, "attention": "sdpa"}
    )
    model = load_base(wanted)
    cpu = torch.device("cpu")
    # bitsandbytes multiplies nf4 in the compute type and int8 by its exact values.
    kept = next(p.dtype for p in lm_head_of(model).parameters())
    dequantise(model, torch.float32 if config.quantization == "int8" else kept, cpu)
    model = model.to(cpu).float()
    if hasattr(model, "hf_device_map"):  # saving would treat the model as offloaded
        del model.hf_device_map
    # load_base switches the cache off for training.
    source = AutoConfig.from_pretrained(
        model_source(config), revision=config.revision, trust_remote_code=False
    )
    model.config.use_cache = getattr(source, "use_cache", True)  # type: ignore[union-attr]
    count = len(linear_modules(model)) if config.quantization != "none" else 0
    return model, count
