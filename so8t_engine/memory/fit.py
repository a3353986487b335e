"""The smallest changes that make a run fit, and the longest sequence that does. All estimated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from so8t_engine.config import Config, validate_config
from so8t_engine.i18n import _
from so8t_engine.memory.budget import Estimate, estimate, gib, runs_on_cpu
from so8t_engine.memory.geometry import model_geometry
from so8t_engine.memory.lean_terms import waiting_bytes

SHORTEST, LONGEST = 16, 131072
#: Dotted setting → value, and what it means in words.
Change = tuple[dict[str, Any], str]
CHUNKS = (1024, 512, 256, 128, 64, 32)
TILES = (512, 256)
RANKS = (64, 32, 16, 8, 4)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One way to make a run fit.

    Attributes:
        sentence: what to change and what it costs, for a person.
        changes: dotted setting → value.
        saves_bytes: estimated memory saved at the peak.
    """

    sentence: str
    changes: dict[str, Any]
    saves_bytes: int


def with_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """``config`` with dotted settings replaced. Raises `ValueError` where a value is out of bounds."""
    values: dict[str, Any] = config.model_dump()
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    result = validate_config(values)
    if isinstance(result, Config):
        return result
    raise ValueError(result[0].sentence)


def leaving_room(config: Config, beside: int | None, total: int | None) -> Config:
    """``config`` with a limit that leaves other programs on the card what they hold."""
    if beside is None or total is None:
        return config
    room = max((total - beside) / 2**30, 0.25)
    if room >= config.memory.limit_gib:
        return config
    return with_changes(config, {"memory.limit_gib": room})


def longest_sequence(config: Config) -> int:
    """The longest ``data.max_length`` that fits, or 0 where not even 16 tokens do.

    Raises:
        ModelError: as `estimate` does.
    """

    # Spare memory is used only where everything fits without: it decides nothing here, and takes time.
    config = with_changes(config, {"memory.use_spare": False})

    def fits(length: int) -> bool:
        return estimate(with_changes(config, {"data.max_length": length})).fits

    if not fits(SHORTEST):
        return 0
    low, high = SHORTEST, LONGEST + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _batches(config: Config) -> Iterator[Change]:
    """Smaller batches with more accumulation, the largest first, at the same effective batch."""
    rows, passes = config.training.batch_size, config.training.accumulation
    for batch in range(rows - 1, 0, -1):
        if (rows * passes) % batch == 0:
            accumulation = rows * passes // batch
            sentence = _(
                "Batch %(batch)d with accumulation %(passes)d: the same effective batch, somewhat slower."
            )
            yield (
                {"training.batch_size": batch, "training.accumulation": accumulation},
                sentence % {"batch": batch, "passes": accumulation},
            )


def _candidates(config: Config) -> Iterator[list[Change]]:
    """Kinds of change, from the one that costs least; in each kind the smallest change first."""
    yield from _free(config)
    if config.training.optimizer != "paged_adamw_8bit":
        yield [({"training.optimizer": "paged_adamw_8bit"}, _("Paged 8-bit AdamW as the optimizer."))]
    if config.model.quantization == "nf4" and not config.model.double_quant:
        yield [({"model.double_quant": True}, _("Double quantisation on."))]
    yield [
        (
            {"memory.loss_chunk": chunk},
            _("Loss in chunks of %(count)d tokens: a little slower.") % {"count": chunk},
        )
        for chunk in CHUNKS
        if chunk < config.memory.loss_chunk
    ]
    yield list(_batches(config))
    if not config.training.gradient_checkpointing:
        yield [
            (
                {"training.gradient_checkpointing": True},
                _("Gradient checkpointing on: about a third more time."),
            )
        ]
    yield from _offloading(config)
    yield [
        (
            {"memory.mlp_tile": tile},
            _("MLPs in tiles of %(count)d tokens: a little slower.") % {"count": tile},
        )
        for tile in TILES
        if tile < config.memory.mlp_tile
    ]
    yield [
        ({"lora.r": rank}, _("Rank %(rank)d: smaller adapters, which learn less.") % {"rank": rank})
        for rank in RANKS
        if rank < config.lora.r
    ]
    if config.model.quantization != "nf4":
        yield [
            (
                {"model.quantization": "nf4"},
                _("nf4 quantisation: the frozen weights are stored more coarsely."),
            )
        ]


def _free(config: Config) -> Iterator[list[Change]]:
    """What costs nothing, or only a comparison that was asked for."""
    if config.memory.layers == "plain":
        yield [({"memory.layers": "lean"}, _("Lean decoder layers: the same results, and faster."))]
    if config.memory.loss_path == "full":
        yield [({"memory.loss_path": "chunked"}, _("The loss in chunks of tokens: the same result."))]
    if config.memory.kept_weights and config.model.quantization != "none":
        yield [({"memory.kept_weights": 0}, _("Weights dequantised for the moment of use: somewhat slower."))]
    if config.memory.keep_attention and not config.memory.offload_activations:
        yield [({"memory.keep_attention": False}, _("Attention is computed again: somewhat slower."))]
    kept = config.memory.kept_layers
    if kept and config.training.gradient_checkpointing:
        yield [
            (
                {"memory.kept_layers": fewer},
                _("%(count)d layers keep their activations: somewhat slower.") % {"count": fewer},
            )
            for fewer in sorted({kept // 2, kept // 4, 0}, reverse=True)
            if fewer < kept
        ]


def _offloading(config: Config) -> Iterator[list[Change]]:
    """Layers' inputs in system memory; together with checkpointing where that is off."""
    if config.memory.offload_activations or config.memory.layers != "lean" or runs_on_cpu(config):
        return
    geometry = model_geometry(config.model.path, config.model.revision)
    changes: dict[str, Any] = {"memory.offload_activations": True}
    if not config.training.gradient_checkpointing:
        changes["training.gradient_checkpointing"] = True
    sentence = _("The layers' inputs wait in system memory (%(size)s GiB of it): a little slower.")
    size = waiting_bytes(with_changes(config, changes), geometry)
    yield [(changes, sentence % {"size": gib(size)})]


def _shorter(config: Config) -> Change | None:
    length = longest_sequence(config)
    if length >= 64:
        length -= length % 64
    if not 0 < length < config.data.max_length:
        return None
    sentence = _("Sequence length %(count)d: longer rows are cut.") % {"count": length}
    return {"data.max_length": length}, sentence


def _merged(changes: list[Change]) -> dict[str, Any]:
    return {path: value for change, _text in changes for path, value in change.items()}


def _fits(config: Config, changes: list[Change]) -> bool:
    return estimate(with_changes(config, _merged(changes))).fits


def _suggestion(config: Config, before: Estimate, changes: list[Change]) -> Suggestion | None:
    """``changes`` as one suggestion, or None where the run still does not fit with them."""
    after = estimate(with_changes(config, _merged(changes)))
    if not after.fits:
        return None
    saved = before.device_bytes - after.device_bytes
    values = {"change": " ".join(text for _changes, text in changes), "saved": gib(saved)}
    return Suggestion(_("%(change)s Saves an estimated %(saved)s GiB.") % values, _merged(changes), saved)


def suggestions(config: Config) -> list[Suggestion]:
    """Single changes that make ``config`` fit, the least costly first; else one combination that does.

    Empty where the run fits already, or where nothing here makes it fit.

    Raises:
        ModelError: as `estimate` does.
    """
    before = estimate(config)
    if before.fits:
        return []
    if config.memory.use_spare:
        # Only a probe can have found that too much was kept.
        change = ({"memory.use_spare": False}, _("Spare memory is left alone: somewhat slower."))
        if (made := _suggestion(config, before, [change])) is not None:
            return [made]
        config = with_changes(config, change[0])
    found: list[Suggestion] = []
    for options in _candidates(config):
        for changes, text in options:
            if (made := _suggestion(config, before, [(changes, text)])) is not None:
                found.append(made)
                break
    found = found or _combination(config, before)
    if (shorter := _shorter(config)) is not None and (made := _suggestion(config, before, [shorter])):
        found.append(made)
    return found


def _combination(config: Config, before: Estimate) -> list[Suggestion]:
    """All kinds of change at their strongest, one after the other until the run fits, less the needless."""
    changes: list[Change] = []
    for options in _candidates(config):
        changes += options[-1:]
        if _fits(config, changes):
            break
    else:
        shorter = _shorter(with_changes(config, _merged(changes)))
        changes += [shorter] if shorter else []
    if len(changes) < 2 or not _fits(config, changes):
        return []
    for change in list(changes):
        without = [other for other in changes if other is not change]
        if _fits(config, without):
            changes = without
    made = _suggestion(config, before, changes) if len(changes) > 1 else None
    return [made] if made is not None else []
