"""Layers that keep what their attention made learn what the others learn, and do not attend a second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from so8t_engine.memory.geometry import geometry_from_config, model_geometry
from so8t_engine.memory.lean_step import pinned
from so8t_engine.memory.lean_terms import waiting_bytes
from so8t_engine.model.lean.offload import Ticket
from so8t_engine.model.lean.selected import KERNELS
from so8t_engine.training import preparation
from so8t_engine.training.preparation import _crowded
from so8t_engine.training.recovery import Recovery
from tests.engine.model.test_lean import FAMILIES, _assert_same, _base, _batch, _loss_and_gradients, _model

CHECKPOINTED = {"gradient_checkpointing": True}


class _Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        self.calls[func.name().partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", [None, "mlp", "attention"])
def test_loss_and_gradients_are_those_of_full_recomputation(family: str, site: str | None) -> None:
    gate = {} if site is None else {"gate_layers": [1], "gate_site": site}

    def run(keep: bool) -> tuple[float, dict[str, Tensor]]:
        model = _model(
            _base(family), dropout=0.3, so8t={"alpha_start": 0.3, "init_std": 0.3} | gate,
            memory={"keep_attention": keep, "mlp_tile": 64}, training=CHECKPOINTED,
        )  # fmt: skip
        return _loss_and_gradients(model)

    whole, selected = run(False), run(True)
    assert selected[0] == whole[0]
    _assert_same(whole[1], selected[1], 1e-6)


def _kernels_called(model: Any) -> int:  # noqa: ANN401
    with _Counted() as counted:
        _loss_and_gradients(model)
    return sum(count for name, count in counted.calls.items() if name in KERNELS)


@pytest.mark.parametrize(("site", "times"), [(None, 3), ("mlp", 3), ("attention", 4)])
def test_no_attention_is_computed_twice(site: str | None, times: int) -> None:
    """Three layers; one whose attention is gated is computed again as a whole."""
    gate: dict[str, Any] = {} if site is None else {"gate_layers": [1], "gate_site": site}
    keep = _model(_base(), so8t=gate, memory={"keep_attention": True}, training=CHECKPOINTED)
    assert _kernels_called(keep) == times
    assert _kernels_called(_model(_base(), so8t=gate, training=CHECKPOINTED)) == 6


def test_an_attention_without_a_known_kernel_is_computed_again() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        whole = _loss_and_gradients(_model(_base(), training=CHECKPOINTED))
        keep = _model(_base(), memory={"keep_attention": True}, training=CHECKPOINTED)
        assert _kernels_called(keep) == 0
        selected = _loss_and_gradients(keep)
    assert selected[0] == whole[0]
    _assert_same(whole[1], selected[1], 1e-6)


def test_three_tensors_of_hidden_states_are_kept_and_the_attentions_sums() -> None:
    model = _model(_base(), memory={"keep_attention": True}, training=CHECKPOINTED)
    batch = _batch(2, 40)
    seen: list[int] = []

    from so8t_engine.model.lean import selected

    put = selected._Store.put

    def counting(self: Any, tensor: Tensor) -> Any:  # noqa: ANN401
        seen.append(tensor.numel() * tensor.element_size())
        return put(self, tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selected._Store, "put", counting)
        model.hidden_states(batch["input_ids_NT"], batch["attention_mask_NT"])
    states, sums = 2 * 40 * 64 * 4, 2 * 4 * 40 * 4
    assert Counter(seen) == {states: 9, sums: 3}


def test_what_waits_on_the_host_is_given_up_where_it_takes_more_than_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model(
        _base(), memory={"keep_attention": True, "offload_activations": True}, training=CHECKPOINTED
    )
    lean = model.lean
    assert lean is not None
    monkeypatch.setattr(preparation, "free_system_memory", lambda: 0)
    assert _crowded(model, model.settings) is None  # on the CPU nothing moves
    monkeypatch.setattr(lean, "_offload", object())
    wanted = waiting_bytes(model.settings, model_geometry(model.settings.model.path, None))
    assert wanted > 0
    for free, kept in ((2 * wanted, True), (2 * wanted - 1, False)):
        monkeypatch.setattr(preparation, "free_system_memory", lambda free=free: free)
        notice = _crowded(model, model.settings)
        assert (notice is None) == kept
        assert lean.keep_attention == kept
    assert notice is not None
    assert notice.kind == "system_memory"


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("site", ["mlp", "attention"])
def test_the_buffers_on_the_host_are_what_the_estimate_says(
    site: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = {"keep_attention": True, "offload_activations": True, "kept_layers": kept}
    model = _model(
        _base(), so8t={"gate_layers": [0], "gate_site": site}, memory=memory, training=CHECKPOINTED
    )  # fmt: skip
    lean = model.lean
    assert lean is not None
    asked: list[tuple[int, torch.dtype]] = []
    monkeypatch.setattr(lean, "_offload", SimpleNamespace(reserve=asked.extend))
    lean.reserve_host(1, 30, 64, torch.bfloat16)
    geometry = geometry_from_config(model.causal_lm.config.to_dict())
    wanted = waiting_bytes(model.settings, geometry)
    assert sum(pinned(count * kind.itemsize) for count, kind in asked) == wanted
    assert (wanted == 0) == (kept == 3)


class _OnHost:
    """An `Offload` that moves nothing and writes down what it is asked for, in order."""

    def __init__(self) -> None:
        self.reserved: list[tuple[int, torch.dtype]] = []
        self.pushed: list[Tensor] = []
        self.taken: list[int] = []

    def reserve(self, wanted: Sequence[tuple[int, torch.dtype]]) -> list[Tensor]:
        self.reserved = list(wanted)
        return []

    def begin(self) -> None:
        self.pushed, self.taken = [], []

    def begin_layer(self) -> None: ...

    def settle(self) -> None: ...

    def push(self, tensor: Tensor) -> Ticket:
        self.pushed.append(tensor.clone())
        return Ticket(len(self.pushed) - 1, 0, (), tensor, None)  # type: ignore[arg-type]

    def take(self, ticket: Ticket) -> Tensor:
        self.taken.append(ticket.place)
        return self.pushed[ticket.place]


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("site", [None, "mlp", "attention"])
@pytest.mark.parametrize("attention", [True, False])
def test_what_waits_is_what_was_reserved_and_comes_back_the_last_first(
    site: str | None, kept: int, attention: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate: dict[str, Any] = {} if site is None else {"gate_layers": [0], "gate_site": site}
    memory = {"keep_attention": attention, "offload_activations": True, "kept_layers": kept}
    plain = _loss_and_gradients(_model(_base(), dropout=0.3, so8t=gate, training=CHECKPOINTED))
    model = _model(_base(), dropout=0.3, so8t=gate, memory=memory, training=CHECKPOINTED)
    lean, host = model.lean, _OnHost()
    assert lean is not None
    monkeypatch.setattr(lean, "_offload", host)
    found = _loss_and_gradients(model)
    assert found[0] == plain[0]
    _assert_same(plain[1], found[1], 1e-6)
    assert host.taken == list(reversed(range(len(host.pushed))))
    lean.reserve_host(2, 24, 24, torch.float32)
    assert len(host.reserved) == len(host.pushed)
    for (elements, kind), tensor in zip(host.reserved, host.pushed, strict=True):
        assert tensor.dtype == kind
        assert tensor.numel() <= elements


def test_memory_that_runs_out_takes_it_back_where_it_lies_on_the_card() -> None:
    model = _model(_base(), memory={"keep_attention": True, "kept_layers": 1}, training=CHECKPOINTED)
    recovery = Recovery(model)
    sentences = [recovery.change(1, 64) for _each in range(2)]
    assert len(set(sentences)) == 2
    assert recovery.given_up == ["layers", "attention"]
    again = _model(_base(), memory={"keep_attention": True, "kept_layers": 1}, training=CHECKPOINTED)
    assert again.lean is not None
    Recovery(again).restore(recovery.state())
    assert (again.lean.keep_attention, again.lean.kept_layers) == (False, 0)
