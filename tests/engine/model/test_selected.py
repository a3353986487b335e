"""Layers that keep what their attention made learn what the others learn, and do not attend a second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Encoded
from so8t_engine.memory.geometry import geometry_from_config, model_geometry
from so8t_engine.memory.lean_step import pinned
from so8t_engine.memory.lean_terms import waiting_bytes
from so8t_engine.memory.lean_waiting import evenly
from so8t_engine.model import packed
from so8t_engine.model.lean import body
from so8t_engine.model.lean.linear import LoraLinear
from so8t_engine.model.lean.offload import Ticket
from so8t_engine.model.lean.selected import KERNELS
from so8t_engine.model.so8t_model import StepTotals
from so8t_engine.training import preparation, waiting
from so8t_engine.training.recovery import Recovery
from so8t_engine.training.waiting import Rates, choose_waiting
from tests.engine.model.test_lean import FAMILIES, _assert_same, _base, _batch, _loss_and_gradients, _model

#: Queries, keys and values by one layer, and by three with biases.
TWO = ("phi3", "qwen2")
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


def test_what_a_kernel_is_asked_by_is_not_taken_for_the_layers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one kernel takes packed rows is found out by attending, the first time that somebody asks."""
    batch = PackedCollator(0)(
        [Encoded(list(range(3, 3 + n)), list(range(3, 3 + n)), 1, 0, 0, truncated=False) for n in (20, 9, 14)]
    )
    asked: list[Tensor] = []

    def takes_varlen(like: Tensor) -> bool:
        if not asked:
            asked.append(like)
            made = torch.ones((1, 2, 4, 8))
            torch.nn.functional.scaled_dot_product_attention(made, made, made)
        return False

    def gradients(keep: bool, part: float | None = None) -> dict[str, Tensor]:
        asked.clear()
        memory, training = {"keep_attention": keep}, CHECKPOINTED | {"packing": True}
        model = _model(_base(), memory=memory, training=training)
        assert model.lean is not None
        if part is not None:
            model.lean.everything = part
            monkeypatch.setattr(model.lean, "_offload", _OnHost())
        model(batch, StepTotals.of([batch]), alpha_target=1.0, pet_weight=0.1).loss.backward()
        assert asked
        return {name: one.grad for name, one in model.trainable().items() if one.grad is not None}

    for module in (packed, body):
        monkeypatch.setattr(module, "takes_varlen", takes_varlen)
    # Through a kernel that is a node of its own in the graph nothing would be kept.
    monkeypatch.setattr(packed, "_takes_flash", lambda _query, _key: False)
    plain = gradients(False)
    for part in (None, 0.0, 1.0):
        _assert_same(plain, gradients(True, part), 1e-6)


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

    def counting(self: Any, name: str, tensor: Tensor) -> Any:  # noqa: ANN401
        seen.append(tensor.numel() * tensor.element_size())
        return put(self, name, tensor)

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
    lean, config = model.lean, model.settings
    geometry = model_geometry(config.model.path, None)
    assert lean is not None
    assert choose_waiting(lean, config, geometry, 0) is None  # on the CPU nothing moves
    monkeypatch.setattr(lean, "_offload", object())
    wanted = waiting_bytes(config, geometry)
    assert wanted > 0
    for free, kept in ((2 * wanted, True), (2 * wanted - 1, False)):
        notice = choose_waiting(lean, config, geometry, free)
        assert (notice is None) == kept
        assert lean.keep_attention == kept
    assert notice is not None
    assert notice.kind == "system_memory"


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("site", ["mlp", "attention"])
@pytest.mark.parametrize("everything", ["off", "on"])
@pytest.mark.parametrize("family", TWO)
def test_the_buffers_on_the_host_are_what_the_estimate_says(
    family: str, everything: str, site: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = {
        "keep_attention": True, "offload_activations": True, "kept_layers": kept,
        "offload_everything": everything, "mlp_tile": 64,
    }  # fmt: skip
    model = _model(
        _base(family), so8t={"gate_layers": [0], "gate_site": site}, memory=memory, training=CHECKPOINTED
    )  # fmt: skip
    lean = model.lean
    assert lean is not None
    asked: list[dict[str, tuple[int, torch.dtype]]] = []
    monkeypatch.setattr(lean, "_offload", SimpleNamespace(reserve=asked.extend))
    lean.reserve_host(1, 30, model.settings.data.max_length, torch.bfloat16)
    geometry = geometry_from_config(model.causal_lm.config.to_dict())
    wanted = waiting_bytes(model.settings, geometry)
    each = [pair for layer in asked for pair in layer.values()]
    assert sum(pinned(count * kind.itemsize) for count, kind in each) == wanted
    assert (wanted == 0) == (kept == 3)


class _OnHost:
    """An `Offload` that moves nothing and writes down what it is asked for, in order."""

    def __init__(self) -> None:
        self.reserved: list[Mapping[str, tuple[int, torch.dtype]]] = []
        self.pushed: list[tuple[int, str, Tensor]] = []
        self.taken: list[int] = []
        self.layer = 0

    def reserve(self, wanted: Sequence[Mapping[str, tuple[int, torch.dtype]]]) -> list[Tensor]:
        self.reserved = list(wanted)
        return []

    def begin(self) -> None:
        self.pushed, self.taken, self.layer = [], [], 0

    def begin_layer(self) -> None:
        self.layer += 1

    def settle(self) -> None: ...

    def push(self, tensor: Tensor, name: str) -> Ticket:
        assert (self.layer, name) not in ((layer, other) for layer, other, _tensor in self.pushed)
        self.pushed.append((self.layer, name, tensor.clone()))
        return Ticket(len(self.pushed) - 1, 0, (), tensor, None)  # type: ignore[arg-type]

    def take(self, ticket: Ticket) -> Tensor:
        self.taken.append(ticket.place)
        return self.pushed[ticket.place][2]


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("site", [None, "mlp", "attention"])
@pytest.mark.parametrize(
    ("attention", "part"), [(True, 0.0), (False, 0.0), (True, 1.0), (True, 0.7), (False, 0.4)]
)
@pytest.mark.parametrize("family", TWO)
def test_what_waits_is_what_was_reserved_and_comes_back_the_last_first(
    family: str, attention: bool, part: float, site: str | None, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate: dict[str, Any] = {} if site is None else {"gate_layers": [0], "gate_site": site}
    tile = {"mlp_tile": 64}
    memory = {"keep_attention": attention, "offload_activations": True, "kept_layers": kept} | tile
    plain = _loss_and_gradients(
        _model(_base(family), dropout=0.3, so8t=gate, memory=tile, training=CHECKPOINTED)
    )
    model = _model(_base(family), dropout=0.3, so8t=gate, memory=memory, training=CHECKPOINTED)
    lean, host = model.lean, _OnHost()
    assert lean is not None
    lean.everything = part
    monkeypatch.setattr(lean, "_offload", host)
    found = _loss_and_gradients(model)
    assert found[0] == plain[0]
    _assert_same(plain[1], found[1], 1e-6)
    assert host.taken == list(reversed(range(len(host.pushed))))
    batch = _batch()
    lean.reserve_host(*batch["input_ids_NT"].shape, batch["input_ids_NT"].shape[1], torch.float32)
    told = [(number, name) for number, layer in enumerate(host.reserved, 1) for name in layer]
    assert told == [(layer, name) for layer, name, _tensor in host.pushed]
    whole = any("tile" in name for _layer, name in told)
    assert whole == any(evenly(index, part, 3) and (index or site is None) for index in range(2 - kept))
    for layer, name, tensor in host.pushed:
        elements, kind = host.reserved[layer - 1][name]
        assert tensor.dtype == kind
        assert tensor.numel() <= elements


def test_of_a_layer_all_of_which_waits_no_product_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the backward pass: one product for each weight's gradient of its input, no more, and LoRA's."""
    calls, original = [], LoraLinear.forward
    for part in (0.0, 1.0):
        model = _model(_base(), memory={"keep_attention": True}, training=CHECKPOINTED)
        lean = model.lean
        assert lean is not None
        lean.everything = part
        monkeypatch.setattr(lean, "_offload", _OnHost())
        forwards: list[int] = []

        def counting(self: LoraLinear, *args: Any, _all: list[int] = forwards, **more: Any) -> Tensor:  # noqa: ANN401
            _all.append(1)
            return original(self, *args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LoraLinear, "forward", counting)
            _loss_and_gradients(model)
        calls.append(len(forwards))
    # Three layers of four products; the last one that is recomputed does not wait: it is needed at once.
    assert calls == [12 + 2 + 2 + 3, 12 + 3]


@given(st.integers(1, 64), st.floats(0.0, 1.0))
def test_layers_that_wait_whole_are_spread_evenly(layers: int, share: float) -> None:
    chosen = [index for index in range(layers) if evenly(index, share, layers)]
    assert len(chosen) == round(share * layers)
    gaps = {after - before for before, after in pairwise(chosen)}
    assert len(gaps) <= 2
    assert not gaps or max(gaps) - min(gaps) <= 1


def _offloading(**memory: Any) -> Any:  # noqa: ANN401
    own = {"keep_attention": True, "offload_activations": True} | memory
    model = _model(_base(), memory=own, training=CHECKPOINTED)
    return model.settings, model_geometry(model.settings.model.path, None), SimpleNamespace(
        offloads=True, keep_attention=True, everything=0.0, leaving_bytes=lambda tokens: 1000 * tokens
    )  # fmt: skip


def test_as_many_layers_wait_whole_as_half_of_the_system_memory_holds() -> None:
    config, geometry, lean = _offloading(offload_everything="on")
    none, every = (waiting_bytes(config, geometry, part) for part in (0.0, 1.0))
    assert none < every == waiting_bytes(config, geometry)
    assert choose_waiting(lean, config, geometry, 2 * every) is None
    assert lean.everything == 1.0
    assert choose_waiting(lean, config, geometry, 2 * every - 1) is None
    assert 0 < lean.everything < 1.0
    assert waiting_bytes(config, geometry, lean.everything) * 2 < 2 * every
    assert (notice := choose_waiting(lean, config, geometry, 2 * none)) is not None
    assert waiting_bytes(config, geometry, lean.everything) == none
    assert lean.keep_attention
    assert notice.kind == "system_memory"
    assert choose_waiting(lean, config, geometry, 2 * none - 1) is not None
    assert not lean.keep_attention


def test_what_leaves_is_what_is_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in FAMILIES:
        model = _model(_base(family), memory={"offload_activations": True}, training=CHECKPOINTED)
        lean, host = model.lean, _OnHost()
        assert lean is not None
        lean.everything = 1.0
        monkeypatch.setattr(lean, "_offload", host)
        batch = _batch(1, 128)
        model.hidden_states(batch["input_ids_NT"], batch["attention_mask_NT"])
        first = [tensor for layer, _name, tensor in host.pushed if layer == 1]
        assert sum(tensor.numel() * tensor.element_size() for tensor in first) == lean.leaving_bytes(128)


@given(st.floats(1e-7, 1e-3), st.floats(1e9, 1e12), st.integers(1, 2**20))
def test_the_bus_keeps_up_where_a_copy_takes_no_longer_than_a_layer(
    forward_s: float, bus: float, leaving: int
) -> None:
    copy_s = leaving / bus
    assume(abs(copy_s - forward_s) > 1e-9 * forward_s)
    assert Rates(forward_s, bus).keeps_up(leaving) == (copy_s < forward_s)


def test_auto_measures_and_lets_wait_what_the_bus_keeps_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    config, geometry, lean = _offloading(offload_everything="auto")
    for rates, part in ((Rates(1e-6, 1e9), 1.0), (Rates(1e-6, 9.9e8), 0.0), (Rates(0.0, 1e9), 0.0)):
        monkeypatch.setattr(waiting, "measure", lambda _lean, rates=rates: rates)
        assert choose_waiting(lean, config, geometry, 2**50) is None
        assert lean.everything == part


@pytest.mark.parametrize(("processes", "whole"), [(1, True), (2, False)])
def test_processes_share_the_system_memory_and_the_estimate_is_of_what_was_chosen(
    processes: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, geometry, lean = _offloading(offload_everything="auto")
    monkeypatch.setattr(preparation, "free_system_memory", lambda: 2 * waiting_bytes(config, geometry, 1.0))
    monkeypatch.setattr(preparation.dist, "is_initialized", lambda: processes > 1)
    monkeypatch.setattr(preparation.dist, "get_world_size", lambda: processes)
    monkeypatch.setattr(waiting, "measure", lambda _lean: Rates(1e-6, 1e9))
    notice, chosen = preparation._waiting(lean, config)
    assert notice is None
    assert (lean.everything == 1.0) == whole
    assert chosen.memory.offload_everything == ("on" if lean.everything else "off")
    assert chosen.memory.keep_attention == lean.keep_attention


def test_nothing_is_measured_and_nothing_waits_where_activations_are_not_offloaded() -> None:
    config, geometry, lean = _offloading(offload_everything="on")
    lean.offloads, lean.everything = False, 1.0
    assert choose_waiting(lean, config, geometry, 2**50) is None
    assert lean.everything == 0.0  # nor when memory runs out and inputs begin to wait


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


def test_memory_that_runs_out_ends_that_everything_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way lies on the card."""

    def waits_whole() -> Any:  # noqa: ANN401
        memory = {"keep_attention": True, "offload_activations": True, "offload_everything": "on"}
        model = _model(_base(), memory=memory, training=CHECKPOINTED)
        monkeypatch.setattr(model.lean, "_offload", _OnHost())
        return model

    model = waits_whole()
    assert model.lean.everything == 1.0
    recovery = Recovery(model)
    assert "computed again" in recovery.change(1, 64)
    assert recovery.given_up == ["everything"]
    assert (model.lean.everything, model.lean.keep_attention) == (0.0, True)
    again = waits_whole()
    Recovery(again).restore(recovery.state())
    assert again.lean.everything == 0.0
