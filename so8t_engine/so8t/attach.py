"""Hooks that put the gate into a plain transformers model, for generation and evaluation.

The gate acts on each token by itself, so generation with a KV cache gives what generation without one
gives. A hook changes no weight and detaching it restores the model.

`attach_from_placement` puts a trained gate where its soul file says it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.so8t.adapter import Rotations, SO8TAdapter
from so8t_engine.so8t.gate import apply_gate_matrix
from so8t_engine.so8t.placement import SITE_MODULES, GateSite, Placement, resolve_layers


class _Gate:
    """The hook itself. A class of its own, so that a second gate on one module can be recognised."""

    def __init__(self, adapter: SO8TAdapter) -> None:
        self.adapter = adapter
        self.matrix_B88: Tensor | None = None

    def __call__(self, hidden_NTH: Tensor) -> Tensor:
        if self.matrix_B88 is None:
            return self.adapter.gated(hidden_NTH)
        return apply_gate_matrix(hidden_NTH, self.matrix_B88, self.adapter.alpha.detach().sigmoid())


class _BeforeModule(_Gate):
    def hook(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "input": self(kwargs["input"])}


class _AfterModule(_Gate):
    def hook(self, _module: nn.Module, _args: object, output: Any) -> Any:  # noqa: ANN401
        if isinstance(output, tuple):  # layers of older transformers also return caches
            return (self(output[0]), *output[1:])
        return self(output)


class GateHandle:
    """Detaches what `attach_gate` or `attach_layer_gates` attached; also a context manager."""

    def __init__(self, gates: Sequence[_Gate], hooks: Sequence[RemovableHandle]) -> None:
        self._gates, self._hooks = gates, hooks

    def use(self, rotations: Rotations | None) -> None:
        """Take these rotations and the present g instead of building them in each hook; None builds again.

        In training, set the rotations of the pass here, so that they and the gate's K are built once and
        outside checkpointed regions; they must stay set until its backward pass, which runs those regions
        again. Under reentrant checkpointing leave None: each region must own its graph.
        """
        matrices: dict[SO8TAdapter, Tensor] = {}
        for gate in self._gates:
            if rotations is not None and gate.adapter not in matrices:
                matrices[gate.adapter] = gate.adapter.gate_matrix(rotations)
            gate.matrix_B88 = matrices.get(gate.adapter)

    def joined(self, other: GateHandle) -> GateHandle:
        """One handle for both, in place of this one and ``other``."""
        return GateHandle([*self._gates, *other._gates], [*self._hooks, *other._hooks])

    def detach(self) -> None:
        """Remove the gate. Harmless the second time."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()

    def __enter__(self) -> GateHandle:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.detach()


def _claim(module: nn.Module, what: str) -> None:
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    held = (getattr(hook, "__self__", None) for hook in hooks)
    if any(isinstance(owner, _Gate) for owner in held):
        raise ModelError(
            _("There is a gate at %(what)s already.") % {"what": what},
            _("Detach it first: two gates would act one after the other."),
        )


def lm_head_of(model: nn.Module) -> nn.Module:
    """The module that turns final hidden states into logits.

    Raises:
        ModelError: the model names none.
    """
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    if not isinstance(head, nn.Module):
        raise ModelError(
            _("%(model)s has no LM head.") % {"model": type(model).__name__},
            _("Use a causal language model of transformers."),
        )
    return head


def decoder_layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers.

    Raises:
        ModelError: there is no list of layers where transformers keeps it.
    """
    find = getattr(model, "get_decoder", None)
    decoder = find() if callable(find) else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            _("%(model)s has no list of decoder layers.") % {"model": type(model).__name__},
            _("Put the gate before the LM head instead."),
        )
    return layers


def attach_gate(model: nn.Module, adapter: SO8TAdapter) -> GateHandle:
    """Gate the final hidden states, in front of the LM head.

    Args:
        model: a causal language model of transformers, or one wrapped by PEFT.
        adapter: on the head's device; in eval mode it keeps its rotations between tokens.

    Raises:
        ModelError: no LM head, a gate is attached already, or the hidden sizes differ.
    """
    head = lm_head_of(model)
    _claim(head, _("the LM head"))
    width = getattr(head, "in_features", adapter.hidden_size)
    if width != adapter.hidden_size:
        raise ModelError(
            _("The LM head reads %(width)d units and the adapter has %(size)d.")
            % {"width": width, "size": adapter.hidden_size},
            _("Make the adapter with the model's hidden size."),
        )
    gate = _BeforeModule(adapter)
    return GateHandle([gate], [head.register_forward_pre_hook(gate.hook, with_kwargs=True)])


def attach_layer_gates(model: nn.Module, adapter: SO8TAdapter, layers: Iterable[int]) -> GateHandle:
    """Gate the output of chosen decoder layers. Call it once per adapter where layers have their own.

    The next layer reads the gated states. The states that transformers records for
    ``output_hidden_states`` may be those before the gate.

    Args:
        model: a causal language model of transformers, or one wrapped by PEFT.
        adapter: shared by the layers given.
        layers: indices from 0; negative ones count from the end.

    Raises:
        ModelError: a layer does not exist, or has a gate already. Nothing is attached then.
    """
    known = decoder_layers_of(model)
    chosen = [(place, known[place]) for place in resolve_layers(layers, len(known))]
    for place, module in chosen:
        _claim(module, _("decoder layer %(index)d") % {"index": place})
    return _after([module for _place, module in chosen], adapter)


def _after(modules: Iterable[nn.Module], adapter: SO8TAdapter) -> GateHandle:
    gates: list[_Gate] = []
    hooks: list[RemovableHandle] = []
    for module in modules:
        gate = _AfterModule(adapter)
        gates.append(gate)
        hooks.append(module.register_forward_hook(gate.hook))
    return GateHandle(gates, hooks)


def _linear_names(layer: nn.Module) -> list[str]:
    """Dotted names of a layer's linear modules; a LoRA wrapper counts as the linear it stands for."""
    names = {
        name.removesuffix(".base_layer")
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    }
    return sorted(names)


def site_linears(model: nn.Module, layers: Iterable[int], site: GateSite) -> dict[int, nn.Module]:
    """Layer index from 0 → the linear whose output a gate at ``site`` acts on, ascending.

    Args:
        model: a causal language model of transformers, or one wrapped by PEFT.
        layers: indices from 0; negative ones count from the end.
        site: ``mlp`` for ``mlp.down_proj``, ``attention`` for ``self_attn.o_proj``.

    Raises:
        ModelError: a layer does not exist, or has no such module; the mend lists what there is.
    """
    known = decoder_layers_of(model)
    found: dict[int, nn.Module] = {}
    for place in resolve_layers(layers, len(known)):
        try:
            found[place] = known[place].get_submodule(SITE_MODULES[site])
        except AttributeError as error:
            raise ModelError(
                _("Decoder layer %(index)d has no %(name)s.") % {"index": place, "name": SITE_MODULES[site]},
                _("Its linear modules are: %(names)s.")
                % {"names": ", ".join(_linear_names(known[place])) or "–"},
            ) from error
    return found


def attach_site_gates(
    model: nn.Module, adapter: SO8TAdapter, layers: Iterable[int], site: GateSite = "mlp"
) -> GateHandle:
    """Gate what the attention or the MLP of chosen layers adds to the residual stream.

    The hook sits on the last linear of either (`site_linears`), after LoRA's part where PEFT wraps it, so
    the gate is K (W x + b) and can be baked into W and b. The linear may be quantised.

    Raises:
        ModelError: a layer or its linear does not exist, has a gate already, or the hidden sizes differ.
            Nothing is attached then.
    """
    found = site_linears(model, layers, site)
    for place, module in found.items():
        what = _("%(name)s of decoder layer %(index)d") % {"name": SITE_MODULES[site], "index": place}
        for inner in module.modules():  # a gate below a LoRA wrapper would act before LoRA's part
            _claim(inner, what)
        width = getattr(module, "out_features", adapter.hidden_size)
        if width != adapter.hidden_size:
            raise ModelError(
                _("%(what)s gives %(width)d units and the adapter has %(size)d.")
                % {"what": what, "width": width, "size": adapter.hidden_size},
                _("Make the adapter with the model's hidden size."),
            )
    return _after(found.values(), adapter)


def attach_from_placement(model: nn.Module, adapter: SO8TAdapter, placement: Placement | str) -> GateHandle:
    """Gate a plain model at every place that a soul file's ``placement`` names.

    Raises:
        ModelError: the text names no place, or a place cannot be gated. Nothing is attached then.
    """
    place = Placement.parse(placement) if isinstance(placement, str) else placement
    handle = attach_site_gates(model, adapter, place.layers, place.site)
    if not place.final:
        return handle
    try:
        return handle.joined(attach_gate(model, adapter))
    except ModelError:
        handle.detach()
        raise
