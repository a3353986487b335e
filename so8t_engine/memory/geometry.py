"""The shape of a decoder model, read from its ``config.json`` without torch or transformers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.memory.families import FAMILIES, family_of
from so8t_engine.paths import resources_dir
from so8t_engine.plain_text import visible
from so8t_engine.safe_paths import is_folder, is_there

EMBEDDED = "embedded"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


class UnknownModelError(ModelError):
    """The model is not on this computer, so its size is not known yet. It may still be downloadable."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a decoder layer: ``inputs`` → ``outputs`` features, no bias counted."""

    name: str
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """Sizes of a decoder-only model.

    Attributes:
        hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary: as in ``config.json``.
        tied: the head shares the embedding's weights.
        layer_extras: parameters of a decoder layer that are no linear weights: norms and biases.
        final_extras: those of the norm after the last layer.
        positions: longest sequence that the model was made for.
        sliding_window: tokens that attention looks back where that is limited; None where it is not.
        model_type: transformers' name of the architecture.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    layer_extras: int
    final_extras: int
    positions: int = 4096
    model_type: str = "phi3"
    sliding_window: int | None = None

    @property
    def known_architecture(self) -> bool:
        """Whether the layer names are known rather than assumed."""
        return self.model_type in FAMILIES

    @property
    def qkv_features(self) -> int:
        """Width of queries, keys and values together."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer, in order of use."""
        family = family_of(self.model_type)
        hidden, inner, queries = self.hidden, self.intermediate, self.heads * self.head_dim
        keys = self.kv_heads * self.head_dim
        found = [
            Linear("q_proj", hidden, queries),
            Linear("k_proj", hidden, keys),
            Linear("v_proj", hidden, keys),
        ]
        if family.fused_qkv:
            found = [Linear("qkv_proj", hidden, self.qkv_features)]
        found.append(Linear("o_proj", queries, hidden))
        if family.fused_mlp:
            found.append(Linear("gate_up_proj", hidden, 2 * inner))
        elif family.gated:
            found += [Linear("gate_proj", hidden, inner), Linear("up_proj", hidden, inner)]
        else:
            found.append(Linear(family.names[0], hidden, inner))
        found.append(Linear("down_proj" if family.gated else family.names[1], inner, hidden))
        return tuple(found)

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies two projections."""
        return family_of(self.model_type).gated

    @property
    def linear_parameters(self) -> int:
        """Parameters in the decoder layers' linear layers: what gets quantised."""
        return self.layers * sum(linear.parameters for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of embedding and head; counted once when tied."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def norm_parameters(self) -> int:
        """Norms and biases of all layers, and the final norm."""
        return self.layers * self.layer_extras + self.final_extras

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.embedding_parameters + self.norm_parameters

    @property
    def bytes(self) -> int:
        """Size of the weights in 16 bits."""
        return 2 * self.parameters

    def lora_targets(self, names: list[str]) -> tuple[Linear, ...]:
        """The layers that ``names`` mean here: q/k/v are ``qkv_proj`` where these are fused.

        Raises:
            ModelError: a name matches no layer; the mend lists what exists.
        """
        existing = {linear.name: linear for linear in self.linears}
        found: dict[str, Linear] = {}
        for name in names:
            if name in {"all-linear", "all_linear"}:
                found.update(existing)
                continue
            linear = existing.get(name) or existing.get(_FUSED_NAME.get(name, ""))
            if linear is None:
                raise ModelError(
                    _("No layer of this model is called %(name)s (lora.targets).") % {"name": name},
                    _("It has: %(names)s.") % {"names": ", ".join(existing)},
                )
            found[linear.name] = linear
        return tuple(found.values())


_FUSED_NAME = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


def _number(values: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = values.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ModelError(
            _("%(path)s: %(key)s is missing or no positive whole number.") % {"path": where, "key": key},
            _("Choose a decoder model in transformers' layout."),
        )
    return value


def refuse_unfit(values: Mapping[str, Any], where: str) -> None:
    """Raise `ModelError` for a model that cannot be trained here; ``values``: of its ``config.json``."""
    inner = values.get("text_config")
    every = {**values, **inner} if isinstance(inner, Mapping) else values
    what = {"path": where, "type": visible(str(values.get("model_type", "?")), 60)}
    if any("expert" in key and isinstance(value, int) and value > 1 for key, value in every.items()):
        raise ModelError(
            _("%(path)s describes a mixture of experts, which is not supported.") % what,
            _("Choose a dense model, for example microsoft/Phi-3.5-mini-instruct."),
        )
    if any(
        isinstance(values.get(name), Mapping) for name in ("text_config", "vision_config", "audio_config")
    ):
        raise ModelError(
            _("%(path)s describes a model of text and more (%(type)s), which cannot be trained here.") % what,
            _("Choose its version for text alone, or another model."),
        )
    if values.get("is_encoder_decoder") is True:
        raise ModelError(
            _("%(path)s describes an encoder with a decoder (%(type)s), which cannot be trained here.")
            % what,
            _("Choose a decoder model, for example microsoft/Phi-3.5-mini-instruct."),
        )
    stored = stored_quantisation(values)
    if stored not in {None, "nf4", "int8"}:
        raise ModelError(
            _("%(path)s describes weights quantised by %(method)s, which cannot be trained here.")
            % {"path": where, "method": visible(str(stored), 60)},
            _("Choose the model's original weights; they are quantised while they are loaded."),
        )


def stored_quantisation(values: Mapping[str, Any]) -> str | None:
    """How the stored weights are quantised: ``nf4``, ``int8``, another method's name, or None."""
    own = values.get("quantization_config")
    if not isinstance(own, Mapping) or not own:
        return None
    method = str(own.get("quant_method") or "bitsandbytes")
    if method != "bitsandbytes":
        return method
    if own.get("load_in_8bit") or own.get("_load_in_8bit"):
        return "int8"
    return str(own.get("bnb_4bit_quant_type") or "fp4")


def geometry_from_config(values: Mapping[str, Any], where: str = "config.json") -> ModelGeometry:
    """The geometry that a model's ``config.json`` declares.

    Args:
        values: the file's content.
        where: its path, for the error's sentence.

    Raises:
        ModelError: a size is missing, or the model is of a kind that cannot be trained here.
    """
    refuse_unfit(values, where)
    model_type = str(values.get("model_type", ""))
    family = family_of(model_type)
    values = {**family.defaults, **{key: value for key, value in values.items() if value is not None}}
    hidden, heads = _number(values, "hidden_size", where), _number(values, "num_attention_heads", where)
    if hidden % 8:
        raise ModelError(
            _("%(path)s: hidden_size %(size)d is not a multiple of 8.") % {"path": where, "size": hidden},
            _("SO(8) rotations need blocks of 8; choose another model."),
        )
    inner_size = _number(values, "intermediate_size", where)
    kv_heads = _number(values, "num_key_value_heads", where, heads)
    if heads % kv_heads:
        raise ModelError(
            _("%(path)s: %(heads)d heads cannot share %(kv_heads)d heads of keys and values.")
            % {"path": where, "heads": heads, "kv_heads": kv_heads},
            _("Download the file again, or choose another model."),
        )
    size = _number(values, "head_dim", where, max(hidden // heads, 1))
    per_norm = hidden * (2 if family.norm_bias else 1)
    extras = family.norms * per_norm
    extras += {"none": 0, "head": 2 * size, "all": (heads + kv_heads) * size}[family.head_norm]
    extras += (heads + 2 * kv_heads) * size * _has(values, family.query_bias)
    extras += hidden * _has(values, family.output_bias)
    extras += ((2 if family.gated else 1) * inner_size + hidden) * _has(values, family.mlp_bias)
    return ModelGeometry(
        hidden=hidden,
        intermediate=inner_size,
        layers=_number(values, "num_hidden_layers", where),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size,
        vocabulary=_number(values, "vocab_size", where),
        tied=bool(values.get("tie_word_embeddings", False)),
        layer_extras=extras,
        final_extras=per_norm if family.final_norm else 0,
        positions=_number(values, "max_position_embeddings", where, 4096),
        model_type=model_type,
        sliding_window=_window(values),
    )


def _window(values: Mapping[str, Any]) -> int | None:
    window = values.get("sliding_window")
    used = values.get("use_sliding_window", True)
    return window if used and isinstance(window, int) and not isinstance(window, bool) else None


def _has(values: Mapping[str, Any], setting: str | bool) -> bool:
    """A fixed answer, or what ``config.json`` says."""
    return setting if isinstance(setting, bool) else bool(values.get(setting, False))


def _known(*parts: Mapping[str, int | bool]) -> ModelGeometry:
    values: dict[str, Any] = {"model_type": "phi3", "vocab_size": 32064}
    for part in parts:
        values |= part
    return geometry_from_config(values)


_MINI = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32,
}  # fmt: skip
_MEDIUM = {
    "hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 10,
}  # fmt: skip
_LONG = {"max_position_embeddings": 131072}
_FOUR = {
    "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064, "tie_word_embeddings": True,
}  # fmt: skip

#: Shapes of published Phi-3 models, from their config.json on the Hub, for when none is on disk.
KNOWN_MODELS: dict[str, ModelGeometry] = {
    "microsoft/Phi-3.5-mini-instruct": _known(_MINI, _LONG),
    "microsoft/Phi-3-mini-128k-instruct": _known(_MINI, _LONG),
    "microsoft/Phi-3-mini-4k-instruct": _known(_MINI),
    "microsoft/Phi-3-medium-128k-instruct": _known(_MEDIUM, _LONG),
    "microsoft/Phi-3-medium-4k-instruct": _known(_MEDIUM),
    "microsoft/Phi-4-mini-instruct": _known(_MINI, _LONG, _FOUR),
}


_cache: dict[Path, tuple[int, int, ModelGeometry]] = {}


def _read(file: Path) -> ModelGeometry:
    """``file``'s geometry, read again only when the file has changed: the window asks at each keystroke."""
    try:
        status = file.stat()
        held = _cache.get(file)
        if held is not None and held[:2] == (status.st_mtime_ns, status.st_size):
            return held[2]
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            _("%(path)s cannot be read: %(reason)s.")
            % {"path": str(file), "reason": getattr(error, "strerror", None) or error},
            _("Choose a model folder in transformers' layout, with a config.json."),
        ) from error
    if not isinstance(values, dict):
        raise ModelError(
            _("%(path)s does not describe a model.") % {"path": str(file)},
            _("Choose a model folder in transformers' layout, with a config.json."),
        )
    geometry = geometry_from_config(values, str(file))
    _cache[file] = (status.st_mtime_ns, status.st_size, geometry)
    return geometry


def _hub_cache() -> Path:
    """Where huggingface_hub keeps downloads, by the same environment variables as it uses."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home) if home else Path(base) / "huggingface").expanduser() / "hub"


def _cached_config(hub_id: str, revision: str | None) -> Path | None:
    folder = _hub_cache() / ("models--" + hub_id.replace("/", "--"))
    wanted = revision or "main"
    commit = wanted
    reference = folder / "refs" / wanted
    try:
        if reference.is_file():
            commit = reference.read_text(encoding="utf-8").strip()
        file = folder / "snapshots" / commit / "config.json"
        return file if file.is_file() else None
    except (OSError, ValueError):
        return None


def model_geometry(path: str, revision: str | None = None) -> ModelGeometry:
    """The geometry of the model that ``config.model.path`` names, without any network.

    Args:
        path: a folder, ``embedded``, or a Hub id, which is looked for among the downloads and then in
            `KNOWN_MODELS`.
        revision: of a Hub id.

    Raises:
        UnknownModelError: a Hub id of which nothing is on this computer.
        ModelError: the folder is missing, or its config.json cannot be used.
    """
    if path == EMBEDDED:
        return _read(resources_dir() / "base_model" / "config.json")
    folder = Path(path).expanduser()
    if is_folder(folder):
        return _read(folder / "config.json")
    if not _HUB_ID.fullmatch(path) or is_there(folder):
        raise ModelError(
            _("There is no model folder %(path)s.") % {"path": path},
            _("Choose a folder that holds config.json, a Hub id such as %(example)s, or 'embedded'.")
            % {"example": "microsoft/Phi-3.5-mini-instruct"},
        )
    if (file := _cached_config(path, revision)) is not None:
        return _read(file)
    if path in KNOWN_MODELS:
        return KNOWN_MODELS[path]
    raise UnknownModelError(
        _("The model %(name)s is not on this computer, so its size is not known.") % {"name": path},
        _("Download it with 'hf download %(name)s', or check the spelling.") % {"name": path},
    )
