"""What a whole training step or an evaluation needs with lean layers, moment by moment. No torch.

The mirror of `SO8TModel.forward` and its backward pass with `so8t_engine.model.lean`. Layers of one kind are
alike, so each kind is gone through once (`lean_layers`) and the moments of all layers follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from so8t_engine.memory.lean_layers import F32, WORK, LayerShape, LinearShape, tiles
from so8t_engine.memory.lean_waiting import evenly, waiting_backward, waiting_forward
from so8t_engine.memory.lean_whole import layer_backward, layer_forward, selected_backward, selected_forward
from so8t_engine.memory.tape import Tape, rounded

SAVED, LOGITS = "saved_activations", "logits"
#: Tokens of PET's chunks (`so8t_engine.so8t.pet`).
PET_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Moment:
    """The highest moment of a part of the step: what is alive beyond what always is, by terms.

    ``kept`` is of it what lasts and is large: activations that are not recomputed, all logits at once.
    """

    name: str
    bytes: int
    terms: dict[str, int]
    kept: int = 0


@dataclass(frozen=True, slots=True)
class StepShape:
    """A step beyond its layers.

    Attributes:
        layer: the layers' sizes. layers: how many. gated: which of them have a gate. site: where in them.
        recomputed: layers below ``first_kept`` keep their input alone. offload: and that on the host.
        keep_attention: with the input they keep what their attention made, unless a gate acts on it.
        everything: of this part of the layers, if they wait, all waits that the backward pass reads.
        vocabulary, chunk: of the loss; tokens of one chunk.
        gate_final: the gate before the head. labelled: tokens that carry loss, all of them at worst.
        accumulated: gradients of an earlier pass are there.
        lora_per_layer: bytes of a layer's LoRA gradients, float32.
        whole: so many of the first layers hold their weights dequantised.
    """

    layer: LayerShape
    layers: int
    gated: frozenset[int]
    site: str
    recomputed: bool
    first_kept: int
    offload: bool
    vocabulary: int
    chunk: int
    gate_final: bool
    accumulated: bool
    lora_per_layer: int
    whole: int = 0
    keep_attention: bool = False
    everything: float = 0.0

    def site_of(self, layer: int) -> str | None:
        return self.site if layer in self.gated else None

    def recomputes(self, layer: int) -> bool:
        return self.recomputed and layer < self.first_kept

    def waits(self, layer: int) -> bool:
        """Whether what it keeps waits on the host; the last one that is recomputed is needed at once."""
        return self.offload and self.recomputed and layer < self.first_kept - 1

    def waits_whole(self, layer: int) -> bool:
        """Whether all that its backward pass reads waits on the host."""
        return (
            self.waits(layer)
            and self.site_of(layer) != "attention"
            and evenly(layer, self.everything, self.layers)
        )

    def selects(self, layer: int) -> bool:
        """Whether it keeps what its attention made, and not everything."""
        return (
            self.keep_attention
            and not self.waits_whole(layer)
            and self.recomputes(layer)
            and self.site_of(layer) != "attention"
            and self.waits(layer) == self.offload
        )


def host_bytes(shape: StepShape) -> int:
    """System memory in which a micro-batch waits for its backward pass, as PyTorch pins it."""
    return sum(_host_bytes(shape, layer) for layer in range(shape.layers) if shape.waits(layer))


def _host_bytes(shape: StepShape, index: int) -> int:
    layer = shape.layer
    whole = shape.waits_whole(index)
    states = pinned(layer.states)
    if not (whole or shape.selects(index)):
        return states
    sums = pinned(layer.rows * layer.heads * -(-layer.tokens // 128) * 128 * F32)
    found = 2 * states + sums + pinned(layer.count * layer.output.inputs * layer.width)
    if whole:
        found += sum(pinned(layer.count * linear.outputs * layer.width) for linear in layer.projections)
    if whole and shape.site_of(index) != "mlp":
        found += sum(
            pinned(tokens * linear.outputs * layer.width)
            for tokens in tiles(layer, every=True)
            for linear in layer.expand
        )
    return found


def pinned(count: int) -> int:
    """``count`` bytes as PyTorch pins them: a power of two (c10/core/CachingHostAllocator.h)."""
    return 1 << (count - 1).bit_length()


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One kind of layer: bytes it keeps beside its input, and the highest moments of both passes.

    The backward pass' moment holds what was kept.
    """

    kept: int
    forward: int
    forward_terms: dict[str, int]
    backward: int
    backward_terms: dict[str, int]


def _held(layer: LayerShape) -> LayerShape:
    """The same layer where no weight is dequantised for the moment of use."""

    def held(linear: LinearShape) -> LinearShape:
        return replace(linear, kind="none")

    return replace(
        layer,
        projections=tuple(map(held, layer.projections)),
        output=held(layer.output),
        expand=tuple(map(held, layer.expand)),
        contract=held(layer.contract),
    )


def layer_cost(
    shape: StepShape,
    site: str | None,
    recompute: bool,
    whole: bool = False,
    select: bool = False,
    waits_whole: bool = False,
) -> LayerCost:
    """Go through a layer of this kind once forward and once backward."""
    if waits_whole:
        return _waiting_cost(shape.layer, shape.accumulated, site, whole)
    if select:
        return _selected_cost(shape.layer, shape.accumulated, site, whole, shape.offload)
    return _layer_cost(shape.layer, shape.accumulated, site, recompute, whole)


@lru_cache(maxsize=256)  # choosing what to keep asks for the same layers many times
def _layer_cost(
    layer: LayerShape, accumulated: bool, site: str | None, recompute: bool, whole: bool
) -> LayerCost:
    layer, tape = _held(layer) if whole else layer, Tape()
    out, kept = layer_forward(tape, layer, site, train=True, keep=not recompute)
    tape.drop(out)
    held, forward, forward_terms = tape.now, tape.peak, tape.at_peak
    if recompute:
        tape = Tape()
        _out, kept = layer_forward(tape, layer, site, train=True, keep=True, again=True)
    else:
        tape.forget_peak()
    assert kept is not None
    layer_backward(tape, layer, site, kept, accumulated=accumulated)
    return LayerCost(held, forward, forward_terms, tape.peak, tape.at_peak)


@lru_cache(maxsize=256)
def _selected_cost(
    layer: LayerShape, accumulated: bool, site: str | None, whole: bool, offload: bool
) -> LayerCost:
    """Of a layer that keeps what its attention made; on the host that is fetched for the backward pass."""
    layer, tape = _held(layer) if whole else layer, Tape()
    out, kept = selected_forward(tape, layer, site)
    tape.drop(out)
    held, forward, forward_terms = tape.now, tape.peak, tape.at_peak
    tape.forget_peak()
    selected_backward(tape, layer, site, kept, accumulated=accumulated, offload=offload)
    return LayerCost(0 if offload else held, forward, forward_terms, tape.peak, tape.at_peak)


@lru_cache(maxsize=256)
def _waiting_cost(layer: LayerShape, accumulated: bool, site: str | None, whole: bool) -> LayerCost:
    """Of a layer all of which waits on the host, with what is on its way beside it."""
    layer, tape = _held(layer) if whole else layer, Tape()
    waiting_forward(tape, layer, site)
    forward, forward_terms = tape.peak, tape.at_peak
    tape = Tape()
    waiting_backward(tape, layer, site, accumulated=accumulated)
    return LayerCost(0, forward, forward_terms, tape.peak, tape.at_peak)


@lru_cache(maxsize=256)
def _evaluated(layer: LayerShape, site: str | None, whole: bool) -> tuple[int, dict[str, int]]:
    """The highest moment of a layer without gradients."""
    tape = Tape()
    layer_forward(tape, _held(layer) if whole else layer, site, train=False, keep=False)
    return tape.peak, tape.at_peak


class _Highest:
    """The highest of several moments of a pass.

    Args:
        shared: bytes that are there in all of them.
    """

    def __init__(self, shared: int) -> None:
        self._shared = shared
        self._bytes = 0
        self._best: tuple[str, int, dict[str, int], int] | None = None

    def see(self, name: str, saved: int, total: int, terms: dict[str, int], gradients: int = 0) -> None:
        """``saved`` and ``gradients`` are there, and ``total`` on top, made up of ``terms``."""
        whole = saved + gradients + total + self._shared
        if whole > self._bytes:
            self._bytes, self._best = whole, (name, saved, terms, gradients)

    @property
    def moment(self) -> Moment:
        """The highest that was seen."""
        if self._best is None:
            return Moment("", 0, {})
        name, saved, terms, gradients = self._best
        found = dict(terms)
        found[SAVED] = found.get(SAVED, 0) + saved
        found[WORK] = found.get(WORK, 0) + self._shared
        found["gradients"] = found.get("gradients", 0) + gradients
        return Moment(name, self._bytes, found)


def _shared(shape: StepShape) -> int:
    """The rotary embedding's two tables, and R_safe, R_cmd, M and K with what their gradients need."""
    layer = shape.layer
    table = rounded(layer.tokens * layer.head_dim * layer.width)
    return 2 * table + 8 * rounded(layer.hidden // 8 * 64 * F32)


def inputs_on_card(shape: StepShape, layer: int) -> int:
    """Tensors of hidden states of layers up to this one that are on the card while it runs forward."""
    last = shape.first_kept - 1  # it is needed again at once and stays
    if not shape.offload or not shape.recomputed:
        return layer + 1
    # On their way out: the input of the layer before, or what its attention made and what followed.
    several = shape.keep_attention or shape.everything > 0
    leaving = 2 if several else 1
    if layer < last:
        return leaving + 1 if several else 1
    return 1 + layer - last + (leaving if layer == last and last > 0 else 0)


def training_moment(shape: StepShape) -> Moment:
    """The highest moment of a micro-batch, forward and backward, beyond what is always there."""
    kinds: dict[tuple[str | None, bool, bool, bool, bool], LayerCost] = {}
    costs: list[LayerCost] = []
    for layer in range(shape.layers):
        kind = (
            shape.site_of(layer), shape.recomputes(layer), layer < shape.whole, shape.selects(layer),
            shape.waits_whole(layer),
        )  # fmt: skip
        if kind not in kinds:
            kinds[kind] = layer_cost(shape, *kind)
        costs.append(kinds[kind])
    states = rounded(shape.layer.states)
    highest = _Highest(_shared(shape))
    kept = 0
    for layer, cost in enumerate(costs):
        inputs = 0 if shape.waits_whole(layer) else inputs_on_card(shape, layer) * states
        highest.see("forward", kept + inputs, cost.forward, cost.forward_terms)
        kept += cost.kept
    # Layers' inputs, the last layer's output, kept by the final norm, and the norm's.
    waiting = sum(shape.waits(layer) for layer in range(shape.layers))
    saved = kept + (shape.layers - waiting + 1) * states
    tape = Tape()
    loss_forward(tape, shape, train=True)
    highest.see("loss", saved, tape.peak, tape.at_peak)
    tape = Tape()
    loss_backward(tape, shape)
    highest.see("loss", saved, tape.peak, tape.at_peak)
    gradients, all_kept = 0, kept
    for layer in reversed(range(shape.layers)):
        cost = costs[layer]
        kept -= cost.kept
        inputs = inputs_on_card(shape, layer)
        if shape.waits_whole(layer) or (shape.waits(layer) and shape.selects(layer)):
            inputs = 1  # the one before until the host has moved on; the layer's own are part of its cost
        elif shape.offload and shape.recomputes(layer):
            # In use, the next one on its way, and (measured) the one before until the host has moved on.
            inputs = 3 if layer else 2
        # The gradient of the layer's output is held from outside.
        highest.see("backward", kept + (inputs + 1) * states, cost.backward, cost.backward_terms, gradients)
        if not shape.accumulated:
            gradients += shape.lora_per_layer
    found = highest.moment
    return replace(found, kept=all_kept + (found.terms.get(LOGITS, 0) if found.name == "loss" else 0))


def loss_forward(tape: Tape, shape: StepShape, *, train: bool) -> None:
    """From the final norm's output to the loss: gate, labelled tokens, logits by chunks, PET."""
    layer = shape.layer
    count, width, hidden = layer.count, layer.width, layer.hidden
    tape.add(WORK, layer.states)
    gated = tape.add(WORK, layer.states) if shape.gate_final else None
    tape.add(WORK, count * 8 * 3)  # the labelled tokens' places, and what they are
    chosen = tape.add(WORK, count * hidden * width)
    if train:
        tape.add(LOGITS, count * hidden * width)
    at_once = min(shape.chunk, count)
    logits = tape.add(LOGITS, at_once * shape.vocabulary * width)
    if train:
        tape.drop(tape.add(LOGITS, at_once * hidden * width))
    tape.drop(logits, chosen)
    if train:
        part = layer.rows * min(layer.tokens, PET_CHUNK + 2) * hidden * F32
        tape.drop(tape.many(WORK, part, 4))
    tape.drop(gated)


def loss_backward(tape: Tape, shape: StepShape) -> None:
    """PET's chunks again, then the logits' gradient put in its places, the gate's, and their sums."""
    layer = shape.layer
    states = layer.states
    tape.add(WORK, states)
    tape.add(LOGITS, states)
    part = layer.rows * min(layer.tokens, PET_CHUNK + 2) * layer.hidden * F32
    tape.drop(tape.many(WORK, part, 5))
    tape.drop(tape.many(WORK, states, 3))
    # The first chunk's gradient has taken the states' whole size when the next one is computed again.
    summed = tape.add(WORK, states)
    if layer.tokens > PET_CHUNK + 2:
        tape.drop(tape.many(WORK, part, 5))
    tape.drop(tape.many(WORK, states, 2), summed)


def evaluation_moment(shape: StepShape) -> Moment:
    """The highest moment of a batch without gradients: ``shape.layer`` is the evaluation's batch."""
    highest = _Highest(_shared(shape))
    states = rounded(shape.layer.states)
    for site, whole in {(shape.site_of(layer), layer < shape.whole) for layer in range(shape.layers)}:
        highest.see("evaluation", states, *_evaluated(shape.layer, site, whole))
    tape = Tape()
    loss_forward(tape, shape, train=False)
    highest.see("evaluation", 0, tape.peak, tape.at_peak)
    return highest.moment
