"""An optimizer's state as plain tensors and JSON, by parameter name, and back: AdamW and bitsandbytes' kinds.

bitsandbytes' own loading turns paged state into state on the card, which is where a run that just fitted
stops fitting. Here its buffers are made anew by the optimizer, paged where it pages, and filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.errors import RunError
from so8t_engine.i18n import _

#: Quantisation maps are constants of bitsandbytes: stored once, to notice a version with other ones.
_MAPS = {"qmap1": "dynamic", "qmap2": "udynamic"}
_MAP = "map/"


def cuda_in_use() -> bool:
    """Whether this process has a CUDA context; asking makes none."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def plain(optimizer: Any) -> torch.optim.Optimizer:  # noqa: ANN401  (accelerate's wrapper has no base in common)
    """The optimizer inside accelerate's wrapper."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def capture_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies on the CPU, and what goes into JSON.

    Args:
        optimizer: unwrapped.
        names: id of a parameter → its name.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    if cuda_in_use():
        torch.cuda.synchronize()  # the last update may still be writing
    copied = PagedCopies().of if cuda_in_use() and getattr(optimizer, "is_paged", False) else cpu_copy
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        numbers[name] = {}
        for key, value in state.items():
            if key in _MAPS:
                tensors.setdefault(_MAP + _MAPS[key], value.detach().to("cpu", copy=True))
            elif isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = copied(value)
            else:
                numbers[name][key] = value
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"params": [names[id(p)] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return tensors, {"kind": type(optimizer).__name__, "groups": groups, "numbers": numbers}


def cpu_copy(value: Tensor) -> Tensor:
    """A copy of its own on the CPU, contiguous."""
    return value.detach().to("cpu", copy=True).contiguous()


class _Managed:
    """Bytes of CUDA's managed memory, as `torch.as_tensor` takes them for a tensor on the card."""

    def __init__(self, pointer: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,), "typestr": "|u1", "data": (pointer, False), "strides": None, "version": 3,
        }  # fmt: skip


class PagedCopies:
    """Copies of paged tensors on the CPU, read by the card where they are, one transfer for each buffer.

    Read by the host they stopped a training of a Phi-3.5-mini for 3.1 s, read by the card for 0.2 to 0.8 s
    (measured on an H200; with nothing else on the card the host is no slower, and why was not found).
    """

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}

    def of(self, value: Tensor) -> Tensor:
        """A copy of ``value``; of one that is not paged as usual."""
        storage = value.untyped_storage()
        if value.device.type != "cpu" or not value.is_contiguous() or not storage.nbytes():
            return cpu_copy(value)
        pointer = storage.data_ptr()
        if pointer not in self._buffers:
            try:
                on_card = torch.as_tensor(_Managed(pointer, storage.nbytes()), device="cuda")
            except RuntimeError:  # no memory of the card's: an ordinary tensor
                return cpu_copy(value)
            self._buffers[pointer] = on_card.cpu()
        begin = value.storage_offset() * value.element_size()
        part = self._buffers[pointer][begin : begin + value.nbytes]
        return part.view(value.dtype).view(value.shape).clone()


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[int, str],
    tensors: Mapping[str, Tensor],
    content: Mapping[str, Any],
) -> None:
    """Set state and rates as they were.

    Raises:
        RunError: it is another kind of optimizer, or a parameter, shape or type differs.
    """
    try:
        _check_kind(optimizer, names, tensors, content)
        state = {name: dict(numbers) for name, numbers in content["numbers"].items()}
        for key, tensor in tensors.items():
            if not key.startswith(_MAP):
                name, _slash, part = key.rpartition("/")
                state[name][part] = tensor
        if hasattr(optimizer, "init_state"):
            _fill_quantised(optimizer, names, state)
            for group, saved in zip(optimizer.param_groups, content["groups"], strict=True):
                group.update({key: _as_before(group, key, v) for key, v in saved.items() if key != "params"})
        else:
            _load_plain(optimizer, state, content["groups"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise _not_fitting(str(error)) from error


def _check_kind(
    optimizer: torch.optim.Optimizer,
    names: Mapping[int, str],
    tensors: Mapping[str, Tensor],
    content: Mapping[str, Any],
) -> None:
    paged = {"PagedAdamW8bit": "AdamW8bit"}  # the same numbers, kept elsewhere
    kind, own = content["kind"], type(optimizer).__name__
    if paged.get(kind, kind) != paged.get(own, own):
        raise _not_fitting(f"{kind} / {own}")
    members = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    if [group["params"] for group in content["groups"]] != members:
        raise _not_fitting(_("its parameters are others"))
    for key, name in (("dynamic", "dynamic"), ("udynamic", "udynamic")):
        if _MAP + key in tensors:
            own_map = getattr(optimizer, "name2qmap", {}).get(name)
            if own_map is not None and not torch.equal(own_map.cpu(), tensors[_MAP + key]):
                raise _not_fitting(_("this version of bitsandbytes has other 8-bit maps"))


def _fill_quantised(
    optimizer: Any,  # noqa: ANN401  (bitsandbytes has no types)
    names: Mapping[int, str],
    state: Mapping[str, Mapping[str, Any]],
) -> None:
    with torch.no_grad():
        for group_index, group in enumerate(optimizer.param_groups):
            for index, parameter in enumerate(group["params"]):
                saved = state.get(names[id(parameter)])
                if saved is None:
                    continue
                optimizer.init_state(group, parameter, group_index, index)
                own = optimizer.state[parameter]
                if set(own) - set(_MAPS) != set(saved):
                    other = sorted((set(own) - set(_MAPS)) ^ set(saved))
                    raise _not_fitting(f"{names[id(parameter)]} {', '.join(map(str, other))}")
                for key, value in saved.items():
                    if not isinstance(value, Tensor):
                        own[key] = value
                    elif own[key].shape != value.shape or own[key].dtype != value.dtype:
                        raise _not_fitting(f"{names[id(parameter)]} {key}")
                    else:
                        own[key].copy_(value)
    if cuda_in_use():
        torch.cuda.synchronize()


def _load_plain(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], groups: list[dict[str, Any]]
) -> None:
    numbered: dict[str, int] = {}
    parameters: dict[str, nn.Parameter] = {}
    loadable = []
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for name, parameter in zip(saved["params"], group["params"], strict=True):
            numbered[name] = len(numbered)
            parameters[name] = parameter
        entries = {key: _as_before(group, key, value) for key, value in saved.items()}
        loadable.append(entries | {"params": [numbered[name] for name in saved["params"]]})
    for name, values in state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameters[name].shape:
                raise _not_fitting(f"{name} {key}")
    optimizer.load_state_dict(
        {"state": {numbered[name]: values for name, values in state.items()}, "param_groups": loadable}
    )


def _as_before(group: Mapping[str, Any], key: str, value: Any) -> Any:  # noqa: ANN401  (whatever the group held)
    return tuple(value) if isinstance(group.get(key), tuple) else value


def _not_fitting(what: str) -> RunError:
    return RunError(
        _("The checkpoint's optimizer state does not fit this run: %(what)s.") % {"what": what},
        _("Continue with the configuration it was made with; config.yaml lies beside it."),
    )
