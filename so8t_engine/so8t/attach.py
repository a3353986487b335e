"""Hooks that put the gate into a plain transformers model, for generation and evaluation.

The gate acts on each token by itself, so generation with a KV cache gives what generation without one
gives. A hook changes no weight and detaching it restores the model.
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


class _Gate:
    """The hook itself. A class of its own, so that a second gate on one module can be recognised."""

    def __init__(self, adapter: SO8TAdapter) -> None:
        self.adapter = adapter
        self.rotations: Rotations | None = None

    def __call__(self, hidden_NTH: Tensor) -> Tensor:
        return self.adapter.gated(hidden_NTH, self.rotations)


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
        """Take these rotations instead of building them in each hook; None builds them again.

        In training, set the rotations of the step here, so that they are built outside checkpointed
        regions. Under reentrant checkpointing leave None: each region must own its graph.
        """
        for gate in self._gates:
            gate.rotations = rotations

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
    chosen: dict[int, nn.Module] = {}
    for index in layers:
        if not -len(known) <= index < len(known):
            raise ModelError(
                _("There is no decoder layer %(index)d.") % {"index": index},
                _("The model has layers 0 to %(last)d.") % {"last": len(known) - 1},
            )
        place = index % len(known)
        _claim(known[place], _("decoder layer %(index)d") % {"index": place})
        chosen[place] = known[place]
    gates: list[_Gate] = []
    hooks: list[RemovableHandle] = []
    for module in chosen.values():
        gate = _AfterModule(adapter)
        gates.append(gate)
        hooks.append(module.register_forward_hook(gate.hook))
    return GateHandle(gates, hooks)
