"""The gate inside a plain transformers model: generation with and without a KV cache, and detaching."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from so8t_engine.errors import ModelError
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.attach import (
    attach_from_placement,
    attach_gate,
    attach_layer_gates,
    attach_site_gates,
)
from so8t_engine.so8t.gate import GATE_FORMS, GateForm
from so8t_engine.so8t.placement import GateSite

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


@pytest.mark.parametrize(("site", "name"), [("mlp", "mlp.down_proj"), ("attention", "self_attn.o_proj")])
def test_the_gate_at_a_site_acts_on_that_linears_output(site: GateSite, name: str) -> None:
    model, adapter = tiny_phi3(), _adapter()
    ids = real_text_ids(1)[0]
    seen: list[torch.Tensor] = []
    linear = model.model.layers[1].get_submodule(name)
    linear.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with attach_site_gates(model, adapter, [-2], site):
            linear.register_forward_hook(lambda _module, _args, output: seen.append(output))
            assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)
        assert torch.equal(model(input_ids=ids).logits, before)
    # Hooks run in the order of their registration: the second of the gated pass stands behind the gate.
    assert torch.equal(seen[1], seen[0])
    assert torch.equal(seen[2], adapter.gated(seen[1]))


@pytest.mark.parametrize("form", GATE_FORMS)
@pytest.mark.parametrize("placement", ["mlp:0,2", "attention:1", "final_hidden+mlp:1"])
def test_generation_with_gated_sites_is_the_same_with_and_without_cache(
    form: GateForm, placement: str
) -> None:
    model, adapter = tiny_phi3(), _adapter(form)
    ids = real_text_ids(1, 12)[0]
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    with attach_from_placement(model, adapter, placement):
        cached = model.generate(ids, use_cache=True, **options)
        uncached = model.generate(ids, use_cache=False, **options)
        whole = model(input_ids=cached.sequences).logits
    assert torch.equal(cached.sequences, uncached.sequences)
    assert torch.allclose(torch.stack(cached.logits, dim=1), whole[:, 11:-1], atol=1e-4)
    assert not torch.allclose(model(input_ids=cached.sequences).logits, whole, atol=1e-2)


def test_a_placement_attaches_all_its_gates_or_none() -> None:
    model, adapter = tiny_phi3(), _adapter()
    ids = real_text_ids(1)[0]
    with torch.no_grad():
        with attach_gate(model, adapter), attach_site_gates(model, adapter, [1], "attention"):
            apart = model(input_ids=ids).logits
        with attach_from_placement(model, adapter, "final_hidden+attention:1"):
            assert torch.equal(model(input_ids=ids).logits, apart)
    with attach_gate(model, adapter), pytest.raises(ModelError, match="already"):
        attach_from_placement(model, adapter, "final_hidden+mlp:0")
    # The refused call left nothing in layer 0, and the ended one nothing at the head.
    attach_from_placement(model, adapter, "final_hidden+mlp:0").detach()


def test_sites_that_do_not_exist_are_refused_with_what_does() -> None:
    model, adapter = tiny_phi3(), _adapter()
    with pytest.raises(ModelError, match="no decoder layer 3") as caught:
        attach_site_gates(model, adapter, [0, 3])
    assert "0 to 2" in caught.value.mend
    with attach_site_gates(model, adapter, [2]), pytest.raises(ModelError, match="already"):
        attach_site_gates(model, adapter, [0, -1])
    attach_site_gates(model, adapter, [0]).detach()
    with pytest.raises(ModelError, match=r"mlp\.down_proj of decoder layer 0 gives 64 units"):
        attach_site_gates(model, SO8TAdapter(32), [0])
    del model.model.layers[1].mlp.down_proj
    with pytest.raises(ModelError, match=r"layer 1 has no mlp\.down_proj") as caught:
        attach_site_gates(model, adapter, [0, 1])
    assert "self_attn.o_proj" in caught.value.mend


def test_the_gate_stands_behind_loras_part() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model, adapter = tiny_phi3(), _adapter()
    lora = LoraConfig(r=4, target_modules=["down_proj", "o_proj"], init_lora_weights=False)
    wrapped = get_peft_model(model, lora).eval()
    ids = real_text_ids(1)[0]
    with torch.no_grad():
        with attach_from_placement(wrapped, adapter, "mlp:0,1"):
            apart = wrapped(input_ids=ids).logits
        merged = wrapped.merge_and_unload()
        with attach_from_placement(merged, adapter, "mlp:0,1"):
            assert torch.allclose(merged(input_ids=ids).logits, apart, atol=1e-5)
        assert not torch.allclose(merged(input_ids=ids).logits, apart, atol=1e-2)
    # Below a wrapper it would act before LoRA's part: a gate there is seen, too.
    model = tiny_phi3()
    attach_site_gates(model, adapter, [0])
    wrapped = get_peft_model(model, lora)
    with pytest.raises(ModelError, match="already"):
        attach_site_gates(wrapped, adapter, [0])
