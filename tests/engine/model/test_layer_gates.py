"""Gates inside decoder layers of the model that is trained: gradients, checkpointing, generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from so8t_engine.config import Config
from so8t_engine.errors import ModelError
from so8t_engine.memory.geometry import model_geometry
from so8t_engine.memory.plain_terms import gate_activation_bytes
from so8t_engine.model.loading import load_base
from so8t_engine.model.so8t_model import Batch, SO8TModel, StepTotals
from so8t_engine.so8t.attach import attach_from_placement
from so8t_engine.so8t.losses import IGNORE

Make = Callable[..., Config]
#: A wide gate and strong rotations, so that what the gate does is far above rounding.
GATE = {"alpha_schedule": "learned", "alpha_start": 0.3, "init_std": 0.3}
NO_HEADS = {f"{name}_weight": 0.0 for name in ("safety", "task", "dual", "consistency", "alpha")}
ONLY_LM = NO_HEADS | {"pet_weights": [0.0, 0.0, 0.0]}


def _model(make: Make, **sections: dict[str, Any]) -> SO8TModel:
    sections["model"] = {"quantization": "none"} | sections.get("model", {})
    sections["lora"] = {"dropout": 0.0} | sections.get("lora", {})
    # The hooks of transformers' own layers; test_lean.py holds the lean ones to the same numbers.
    sections["memory"] = {"layers": "plain"} | sections.get("memory", {})
    config = make(**sections)
    torch.manual_seed(5)
    model = SO8TModel(load_base(config.model), config)
    with torch.no_grad():  # LoRA's B is 0 at the start: its A would have no gradient
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model.train()


def _batch(rows: int = 2, tokens: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids_NT = torch.randint(3, 4000, (rows, tokens), generator=generator)
    labels_NT = ids_NT.clone()
    labels_NT[:, :5] = IGNORE
    mask_NT = torch.ones_like(ids_NT)
    mask_NT[-1, -3:] = 0
    labels_NT[-1, -3:] = IGNORE
    return {
        "input_ids_NT": ids_NT,
        "attention_mask_NT": mask_NT,
        "labels_NT": labels_NT,
        "pool_index_N": torch.full((rows,), 4),
        "task_N": torch.arange(rows) % 4,
        "safety_N": torch.arange(rows) % 2,
    }


def _loss(model: SO8TModel, batch: Batch) -> Tensor:
    return model(batch, StepTotals.of([batch]), alpha_target=1.0, pet_weight=0.1).loss


def _gradients(model: SO8TModel) -> dict[str, Tensor]:
    model.zero_grad()
    _loss(model, _batch()).backward()
    return {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("site", ["mlp", "attention"])
@pytest.mark.parametrize("form", ["residual", "geodesic"])
def test_a_layer_gate_alone_teaches_both_rotations_and_alpha(tiny_config: Make, site: str, form: str) -> None:
    """The language model's loss alone, no gate before the head: all gradient comes from inside the layer."""
    settings = GATE | ONLY_LM | {"gate_layers": [0], "gate_site": site, "gate_final": False}
    model = _model(tiny_config, so8t=settings | {"gate_form": form})
    found = _gradients(model)
    for name in ("so8t.theta_safe", "so8t.theta_cmd", "so8t.alpha"):
        assert float(found[name].abs().max()) > 1e-5, name
    so8t = model.so8t

    # Against finite differences of the loss, in the direction of the gradient.
    for parameter, name in ((so8t.theta_cmd, "so8t.theta_cmd"), (so8t.alpha, "so8t.alpha")):
        direction = found[name] / found[name].norm()
        losses = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                parameter += sign * 0.02 * direction
                losses.append(float(_loss(model, _batch())))
                parameter -= sign * 0.02 * direction
        assert (losses[0] - losses[1]) / 0.04 == pytest.approx(float(found[name].norm()), rel=0.03)


def test_without_any_gate_on_its_way_the_language_model_teaches_the_rotations_nothing(
    tiny_config: Make,
) -> None:
    """The control of the test above: what reaches θ there comes through the hook."""
    model = _model(tiny_config, so8t=GATE | ONLY_LM | {"gate_layers": [0], "gate_final": False})
    model._layer_gates.detach()
    found = _gradients(model)
    assert all("lora" in name or not bool(gradient.any()) for name, gradient in found.items())
    assert any("lora" in name and bool(gradient.any()) for name, gradient in found.items())


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_gradients_are_the_same_with_and_without_checkpointing(
    tiny_config: Make, quantization: str, final: bool
) -> None:
    """int8 checkpoints reentrantly, the others do not."""

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = _model(
            tiny_config,
            model={"quantization": quantization},
            so8t=GATE | {"gate_layers": [0, 1], "gate_final": final},
            training={"gradient_checkpointing": checkpointing},
        )
        assert model._reentrant == (checkpointing and quantization == "int8")
        first = _gradients(model)
        # A second pass over the same graph-free state gives the same: nothing of the first is left.
        second = _gradients(model)
        assert all(torch.equal(first[name], second[name]) for name in first)
        return first

    without, with_checkpointing = gradients(False), gradients(True)
    assert without.keys() == with_checkpointing.keys()
    assert {"so8t.theta_safe", "so8t.theta_cmd", "so8t.alpha"} <= without.keys()
    for name, gradient in without.items():
        torch.testing.assert_close(with_checkpointing[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_rotations_are_built_once_in_a_pass(tiny_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(
        tiny_config, so8t=GATE | {"gate_layers": [0, 1]}, training={"gradient_checkpointing": True}
    )
    built = []
    real = model.so8t.build_rotations
    monkeypatch.setattr(model.so8t, "build_rotations", lambda: built.append(1) or real())
    _gradients(model)
    assert len(built) == 1


@pytest.mark.parametrize("final", [True, False])
def test_evaluation_and_generation_are_gated_as_training_is(tiny_config: Make, final: bool) -> None:
    settings = GATE | {"gate_layers": [-1], "gate_site": "attention", "gate_final": final}
    model, batch = _model(tiny_config, so8t=settings), _batch(2, 12)
    assert str(model.placement) == ("final_hidden+" if final else "") + "attention:1"
    with torch.no_grad():
        trained = model(batch, StepTotals.of([batch]), alpha_target=1.0, pet_weight=0.1).terms["lm"][0]
        model.eval()
        _hidden, out = model.adapt(batch)
        lm_sum, count = model.lm_loss(out.hidden_NTH, batch["labels_NT"])
        torch.testing.assert_close(lm_sum / count, trained)
        ids_NT = batch["input_ids_NT"][:1]
        hidden_NTH = model.hidden_states(ids_NT, torch.ones_like(ids_NT))
        read_NTH = model.so8t.gated(hidden_NTH) if final else hidden_NTH
        expected_NTV = model.logits(read_NTH)
        with model.speaking() as speaker:
            assert torch.equal(speaker(input_ids=ids_NT).logits, expected_NTV)
            options = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
            cached = speaker.generate(ids_NT, use_cache=True, **options)
            assert torch.equal(cached, speaker.generate(ids_NT, use_cache=False, **options))
        # A plain model with hooks from the placement says the same.
        model._layer_gates.detach()
        assert not torch.equal(model.hidden_states(ids_NT, torch.ones_like(ids_NT)), hidden_NTH)
        with attach_from_placement(model.causal_lm, model.so8t, str(model.placement)):
            assert torch.equal(model.causal_lm(input_ids=ids_NT).logits, expected_NTV)


def test_a_step_is_not_spoken_with_the_rotations_of_the_one_before(tiny_config: Make) -> None:
    model = _model(tiny_config, so8t=GATE | {"gate_layers": [0], "gate_final": False})
    _gradients(model)
    ids_NT = _batch()["input_ids_NT"]
    with torch.no_grad():
        model.so8t.theta_cmd.normal_()
        with model.speaking() as speaker:
            spoken = speaker(input_ids=ids_NT).logits
        assert model.training
        fresh = model.hidden_states(ids_NT, torch.ones_like(ids_NT))
    assert torch.allclose(spoken, model.logits(fresh), atol=1e-5)


def test_gates_in_layers_are_no_part_of_the_state(tiny_config: Make) -> None:
    plain = _model(tiny_config, so8t=GATE)
    gated = _model(tiny_config, so8t=GATE | {"gate_layers": [0, 1]})
    assert plain.state_dict().keys() == gated.state_dict().keys()
    assert plain.trainable().keys() == gated.trainable().keys()


def test_a_layer_that_does_not_exist_is_named_with_those_that_do(tiny_config: Make) -> None:
    with pytest.raises(ModelError, match="no decoder layer 2") as caught:
        _model(tiny_config, so8t={"gate_layers": [0, 2]})
    assert "0 to 1" in caught.value.mend


@pytest.mark.parametrize("site", ["mlp", "attention"])
def test_a_gated_layer_saves_one_hidden_state_as_the_estimate_says(tiny_config: Make, site: str) -> None:
    batch = _batch(2, 40)

    def saved_bytes(layers: list[int]) -> int:
        model = _model(tiny_config, so8t=GATE | {"gate_layers": layers, "gate_site": site})
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = _loss(model, batch)
        found = sum(kept.values())
        loss.backward()
        return found

    none, one, two = saved_bytes([]), saved_bytes([0]), saved_bytes([0, 1])
    geometry = model_geometry(tiny_config().model.path)
    hidden = batch["input_ids_NT"].numel() * gate_activation_bytes(geometry, 4)
    # K (8, 8, 8), the identity it is made with and g are kept once in addition.
    assert one - none == pytest.approx(hidden, abs=(8 + 1) * 64 * 4 + 64)
    assert two - one == pytest.approx(hidden, abs=64)
