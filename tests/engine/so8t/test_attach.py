"""The gate inside a plain transformers model: generation with and without a KV cache, and detaching."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from so8t_engine.errors import ModelError
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import attach_gate, attach_layer_gates
from so8t_engine.so8t.gate import GATE_FORMS, GateForm

sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import HIDDEN, real_text_ids, tiny_phi3


def _adapter(form: GateForm = "residual", seed: int = 0) -> SO8TAdapter:
    return SO8TAdapter(HIDDEN, init_std=0.4, alpha_start=0.5, gate_form=form, seed=seed).eval()


@pytest.mark.parametrize("form", GATE_FORMS)
@pytest.mark.parametrize("layers", [(), (0, 1), (-1,)])
def test_generation_with_cache_equals_generation_without(form: GateForm, layers: tuple[int, ...]) -> None:
    model, adapter = tiny_phi3(), _adapter(form)
    ids = real_text_ids(1, 12)[0]
    plain = model.generate(ids, max_new_tokens=24, min_new_tokens=24, do_sample=False)
    with attach_gate(model, adapter), attach_layer_gates(model, _adapter(form, 1), layers):
        options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
        options |= {"output_logits": True, "return_dict_in_generate": True}
        cached = model.generate(ids, use_cache=True, **options)
        uncached = model.generate(ids, use_cache=False, **options)
        whole = model(input_ids=cached.sequences).logits
    assert torch.equal(cached.sequences, uncached.sequences)
    assert torch.allclose(torch.stack(cached.logits), torch.stack(uncached.logits), atol=1e-4)
    # Each step's logits are those of one forward pass over the finished text.
    assert torch.allclose(torch.stack(cached.logits, dim=1), whole[:, 11:-1], atol=1e-4)
    assert not torch.equal(cached.sequences, plain)


def test_the_gate_before_the_head_is_the_adapters_gate() -> None:
    model, adapter = tiny_phi3(), _adapter()
    ids = real_text_ids(1)[0]
    with torch.no_grad(), attach_gate(model, adapter):
        logits = model(input_ids=ids).logits
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state
        expected = model.lm_head(adapter.gated(hidden))
    assert torch.equal(logits, expected)


def test_the_gate_in_a_layer_acts_on_that_layers_output() -> None:
    model, adapter = tiny_phi3(), _adapter().requires_grad_(False)
    ids = real_text_ids(1)[0]
    # What the next layer reads; transformers may record hidden states before a hook changes them.
    read: list[torch.Tensor] = []
    model.model.layers[1].register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    model.model.layers[2].register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids)
        with attach_layer_gates(model, adapter, [1]):
            model(input_ids=ids)
    assert torch.equal(read[2], read[0])
    assert torch.equal(read[3], adapter.gated(read[1]))
    assert float((read[3] - read[1]).abs().max()) > 1e-3


def test_detaching_restores_the_model() -> None:
    model = tiny_phi3()
    ids = real_text_ids(1)[0]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        head, layers = attach_gate(model, _adapter()), attach_layer_gates(model, _adapter(), [0])
        assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)
        head.detach()
        layers.detach()
        layers.detach()
        assert torch.equal(model(input_ids=ids).logits, before)
    attach_gate(model, _adapter()).detach()


def test_a_second_gate_at_the_same_place_is_refused() -> None:
    model = tiny_phi3()
    with attach_gate(model, _adapter()), pytest.raises(ModelError, match="already"):
        attach_gate(model, _adapter())
    with attach_layer_gates(model, _adapter(), [2]), pytest.raises(ModelError, match="layer 2"):
        attach_layer_gates(model, _adapter(), [0, -1])
    # The refused call attached nothing to layer 0.
    attach_layer_gates(model, _adapter(), [0]).detach()


def test_impossible_places_are_refused() -> None:
    model = tiny_phi3()
    with pytest.raises(ModelError, match="no decoder layer 3"):
        attach_layer_gates(model, _adapter(), [3])
    with pytest.raises(ModelError, match="reads 64 units"):
        attach_gate(model, SO8TAdapter(32))
    with pytest.raises(ModelError, match="no LM head"):
        attach_gate(torch.nn.Linear(2, 2), _adapter())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gates_in_layers_train_under_checkpointing(reentrant: bool) -> None:
    ids = real_text_ids(1, 20)[0]

    def gradient(checkpointing: bool) -> torch.Tensor:
        model, adapter = tiny_phi3(), _adapter().train()
        if checkpointing:
            model.train()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        with attach_layer_gates(model, adapter, [0, 1]) as handle:
            if not reentrant:
                handle.use(adapter.build_rotations())
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        assert adapter.theta_safe.grad is not None
        return adapter.theta_safe.grad

    assert torch.allclose(gradient(True), gradient(False), atol=1e-6)
    assert float(gradient(False).abs().max()) > 1e-5
