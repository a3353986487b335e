"""The estimate: against measured figures, its properties, and what it must not import."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from so8t_engine.config import Config, load_config, parse_config
from so8t_engine.errors import ModelError
from so8t_engine.memory import budget, lean_terms
from so8t_engine.memory.budget import OUTSIDE, TERM_TITLES, Estimate, estimate
from so8t_engine.memory.fit import longest_sequence, suggestions, with_changes
from so8t_engine.memory.geometry import KNOWN_MODELS
from so8t_engine.memory.lean_terms import EVALUATION_TOKENS
from so8t_engine.memory.machine import free_system_memory
from so8t_engine.memory.plain_terms import EXPECTED, PLAIN, step_terms

PHI = "microsoft/Phi-3.5-mini-instruct"
ON_CARD = {"model.path": PHI, "model.device": "cuda"}


def configured(**changes: object) -> Config:
    return with_changes(Config(), ON_CARD | {key.replace("__", "."): v for key, v in changes.items()})


# Peak allocated and reserved, GB, of transformers 5.17 + peft 0.21 + bitsandbytes 0.50.2 on Phi-3.5-mini:
# random weights, r 16 on all four fused modules, paged 8-bit AdamW, no SO8T parts, torch 2.11, one H200.
MEASURED = [
    ("nf4", 512, 1, True, 3.48, 3.75),
    ("nf4", 1024, 1, True, 3.87, 4.28),
    ("nf4", 2048, 1, True, 4.66, 5.35),
    ("nf4", 4096, 1, True, 6.28, 7.51),
    ("nf4", 512, 1, False, 6.69, 6.95),
    ("nf4", 1024, 4, True, 6.28, 7.51),
    ("int8", 512, 1, True, 5.24, 5.44),
    ("int8", 2048, 1, True, 6.42, 7.18),
]


@pytest.mark.parametrize(("kind", "length", "batch", "checkpointing", "allocated", "reserved"), MEASURED)
def test_the_formula_reproduces_measurements_of_the_plain_stack_within_three_percent(
    kind: str, length: int, batch: int, checkpointing: bool, allocated: float, reserved: float
) -> None:
    config = configured(
        model__quantization=kind,
        data__max_length=length,
        training__batch_size=batch,
        training__gradient_checkpointing=checkpointing,
    )
    terms, _phase = step_terms(config, KNOWN_MODELS[PHI], PLAIN, cpu=False, compute=2)
    held = sum(terms.values()) - terms["context"] - terms["optimizer"]
    assert (held - terms["fragmentation"]) / 1e9 == pytest.approx(allocated, rel=0.03)
    assert held / 1e9 == pytest.approx(reserved, rel=0.03)


settings_strategy = st.fixed_dictionaries(
    {
        "data.max_length": st.integers(16, 16384),
        "training.batch_size": st.integers(1, 16),
        "lora.r": st.integers(1, 256),
        "model.quantization": st.sampled_from(["nf4", "int8", "none"]),
        "model.double_quant": st.booleans(),
        "model.attention": st.sampled_from(["sdpa", "eager"]),
        "so8t.gate_layers": st.lists(st.integers(-1, 0), max_size=2),
        "model.device": st.sampled_from(["cuda", "cpu"]),
        "model.compute_dtype": st.sampled_from(["auto", "bf16", "fp32"]),
        "training.gradient_checkpointing": st.booleans(),
        "training.optimizer": st.sampled_from(["paged_adamw_8bit", "adamw_8bit", "adamw"]),
        "memory.loss_chunk": st.integers(16, 4096),
        "memory.offload_activations": st.booleans(),
        "memory.keep_attention": st.booleans(),
        "memory.offload_everything": st.sampled_from(("off", "auto", "on")),
        "memory.limit_gib": st.floats(1.0, 48.0),
    }
)


def peak(config: Config) -> int:
    return estimate(config).device_bytes


@given(settings_strategy, st.sampled_from(["data.max_length", "training.batch_size", "lora.r"]))
@example({"data.max_length": 18, "training.batch_size": 1, "lora.r": 1}, "data.max_length")
def test_more_sequence_batch_or_rank_never_needs_less(values: dict[str, object], what: str) -> None:
    config = with_changes(Config(), ON_CARD | values)
    more = with_changes(config, {what: values[what] * 2})  # type: ignore[operator]
    with pytest.MonkeyPatch.context() as patch:
        if (row := more.data.max_length) <= EVALUATION_TOKENS:
            # It takes whole rows, which may be the highest: as many tokens of the longer as of the shorter.
            patch.setattr(lean_terms, "EVALUATION_TOKENS", EVALUATION_TOKENS // row * row)
        assert peak(more) >= peak(config)


@given(settings_strategy, st.integers(1, 40))
def test_more_layers_never_need_less(values: dict[str, object], layers: int) -> None:
    config = with_changes(Config(), ON_CARD | values)
    sizes = [
        sum(
            step_terms(
                config, dataclasses.replace(KNOWN_MODELS[PHI], layers=count), PLAIN, cpu=False, compute=2
            )[0].values()
        )
        for count in (layers, layers + 1)
    ]
    assert sizes[1] > sizes[0]


@given(settings_strategy)
def test_an_estimate_is_consistent_with_itself(values: dict[str, object]) -> None:
    result = estimate(with_changes(Config(), ON_CARD | values))
    assert result.fits == (result.device_bytes <= result.budget_bytes)
    if result.fits:
        assert result.peak_bytes <= result.budget_bytes
        assert not result.reason
    else:
        assert result.reason
    assert 0 < result.peak_bytes < result.peak_reserved_bytes < result.device_bytes
    assert result.low_bytes <= result.device_bytes <= result.high_bytes
    assert all(size >= 0 for size in result.terms.values())
    assert list(result.terms) == list(TERM_TITLES)
    assert "estimated" in result.sentence
    assert result.to_json()["source"] == "estimated"


@settings(max_examples=30)
@given(settings_strategy)
def test_suggestions_really_fit_and_save_what_they_say(values: dict[str, object]) -> None:
    config = with_changes(Config(), ON_CARD | {"model.device": "cuda"} | values | {"model.device": "cuda"})
    before = estimate(config)
    found = suggestions(config)
    if before.fits:
        assert found == []
    for suggestion in found:
        changed = with_changes(config, suggestion.changes)
        after = estimate(changed)
        assert after.fits
        assert before.device_bytes - after.device_bytes == suggestion.saves_bytes > 0
        assert (
            changed.training.batch_size * changed.training.accumulation
            == config.training.batch_size * config.training.accumulation
        )


@settings(max_examples=30)
@given(settings_strategy)
def test_the_longest_sequence_fits_and_one_more_token_does_not(values: dict[str, object]) -> None:
    config = with_changes(Config(), ON_CARD | values | {"model.device": "cuda"})
    length = longest_sequence(config)
    if length:
        assert estimate(with_changes(config, {"data.max_length": length})).fits
    if 16 <= length < 131072:
        assert not estimate(with_changes(config, {"data.max_length": length + 1})).fits


def test_attention_kept_on_the_card_is_the_first_to_go_and_waits_on_the_host_for_nothing() -> None:
    changes = {"data__max_length": 8192, "memory__keep_attention": True}
    kept = configured(memory__offload_activations=False, **changes)
    again = with_changes(kept, {"memory.keep_attention": False})
    # Two tensors of hidden states a layer, beside the input.
    assert peak(kept) - peak(again) >= 31 * 2 * 8192 * 3072 * 2 * 0.9
    tight = with_changes(kept, {"memory.limit_gib": (peak(again) + 2**28) / 2**30})
    assert suggestions(tight)[0].changes == {"memory.keep_attention": False}
    waiting = configured(memory__offload_activations=True, **changes)
    without = with_changes(waiting, {"memory.keep_attention": False})
    assert peak(waiting) == pytest.approx(peak(without), rel=0.002)


def test_system_memory_that_waits_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """31 of 32 layers: 2,048 · 3,072 · 2 bytes take the 16 MiB of a power of two, sums 2,048 · 32 · 4."""
    on_host = {"data__max_length": 2048, "memory__offload_activations": True}
    inputs = estimate(configured(**on_host))
    assert inputs.waiting_bytes == inputs.to_json()["system_memory_bytes"] == 31 * 2**24
    kept = configured(memory__keep_attention=True, **on_host)
    wanted = 31 * (3 * 2**24 + 2**18)
    for free, sentence in (
        (2 * wanted, "wait in system memory for"),
        (2 * wanted - 1, "computed again instead"),
    ):
        monkeypatch.setattr(budget, "free_system_memory", lambda free=free: free)
        found = estimate(kept)
        assert found.waiting_bytes == wanted
        assert sentence in found.waiting
        assert found.waiting in found.notes
    fewer = with_changes(kept, {"memory.kept_layers": 10})
    assert estimate(fewer).waiting_bytes == 21 * (3 * 2**24 + 2**18)
    for none in ({"memory.layers": "plain"}, {"memory.offload_activations": False}, {"model.device": "cpu"}):
        assert estimate(with_changes(kept, none)).waiting_bytes == 0


def test_system_memory_in_which_everything_waits_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer: three tensors of 16 MiB, q, k and v side by side in 64, two tiles of 32, the sums' 256 KiB."""
    common = {
        "data__max_length": 2048, "memory__offload_activations": True, "memory__keep_attention": True,
    }  # fmt: skip
    every = 31 * (3 * 2**24 + 2**26 + 2 * 2**25 + 2**18)
    monkeypatch.setattr(budget, "free_system_memory", lambda: 2 * every)
    found = {
        how: estimate(configured(memory__offload_everything=how, **common)) for how in ("off", "auto", "on")
    }
    attention = found["off"].waiting_bytes
    assert attention == 31 * (3 * 2**24 + 2**18)
    assert found["on"].waiting_bytes == found["auto"].waiting_bytes == every
    assert found["on"].waiting.startswith("5.3 GiB wait")
    assert found["auto"].waiting.startswith("Up to 5.3 GiB wait")
    # Half of what is free decides for how many layers.
    monkeypatch.setattr(budget, "free_system_memory", lambda: every)
    for how in ("auto", "on"):
        fewer = estimate(configured(memory__offload_everything=how, **common))
        assert attention < fewer.waiting_bytes <= every // 2
    assert "half of the" in fewer.waiting
    monkeypatch.setattr(budget, "free_system_memory", lambda: attention)
    none = estimate(configured(memory__offload_everything="auto", **common))
    assert none.waiting_bytes == attention
    assert "computed again instead" in none.waiting
    # What is on its way lies on the card.
    assert found["off"].device_bytes <= found["auto"].device_bytes
    assert found["on"].device_bytes <= found["auto"].device_bytes <= found["off"].device_bytes * 1.02


def test_free_system_memory_is_what_psutil_says() -> None:
    assert free_system_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.1)


def test_a_run_that_is_far_too_large_gets_a_combination_before_a_drastic_cut() -> None:
    config = configured(
        model__quantization="int8",
        data__max_length=4096,
        training__batch_size=4,
        training__gradient_checkpointing=False,
        memory__limit_gib=7.5,
    )
    first = suggestions(config)[0]
    assert len(first.changes) > 1
    assert first.changes.get("data.max_length", 4096) > 1024


def test_checkpointing_quantisation_and_chunks_save_memory() -> None:
    base = configured(data__max_length=2048)
    assert peak(base) < peak(with_changes(base, {"training.gradient_checkpointing": False}))
    assert peak(base) < peak(with_changes(base, {"model.quantization": "int8"}))
    assert peak(base) < peak(with_changes(base, {"model.double_quant": False}))
    long = configured(data__max_length=8192, memory__offload_activations=True)
    assert peak(long) < peak(with_changes(long, {"memory.loss_path": "full"}))
    assert peak(long) < peak(with_changes(long, {"memory.offload_activations": False}))
    assert peak(long) < peak(with_changes(long, {"memory.layers": "plain"}))


def test_a_cpu_run_is_judged_against_system_memory_and_says_so() -> None:

    result = estimate(configured(model__device="cpu", memory__limit_gib=0.25))
    assert result.on_cpu
    assert result.budget_bytes > 0.25 * 1024**3
    assert result.budget_bytes <= psutil.virtual_memory().total
    assert "system memory" in result.sentence


@pytest.mark.parametrize("name", ["phi35_8gb", "phi35_8gb_int8"])
def test_the_eight_gigabyte_presets_load_and_fit(name: str) -> None:
    config = load_config(name)
    result = estimate(config)
    assert config.model.path == PHI
    assert (config.training.batch_size, config.training.accumulation, config.lora.r) == (1, 4, 16)
    assert not result.on_cpu
    assert result.fits
    assert result.high_bytes <= result.budget_bytes, "spare memory is used within the limit alone"
    assert result.spare is not None
    assert result.spare.layers > 8
    alone = with_changes(config, {"memory.use_spare": False})
    assert estimate(alone).high_bytes <= int(7.2 * 1024**3)
    assert parse_config(config.to_yaml()) == config


def test_the_estimate_imports_no_torch(write_model: Callable[..., Path], tmp_path: Path) -> None:
    write_model(tmp_path)
    code = (
        "import sys\n"
        "from so8t_engine.config import parse_config\n"
        "from so8t_engine.memory.budget import estimate\n"
        "from so8t_engine.memory.fit import suggestions\n"
        f"config = parse_config('model: {{path: {tmp_path.as_posix()}}}')\n"
        "estimate(config), suggestions(config)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'peft', 'PySide6'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_terms_sum_to_the_device_total() -> None:
    result: Estimate = estimate(configured())
    outside = sum(result.terms[name] for name in OUTSIDE)
    assert result.terms["optimizer_paged"] > 0
    assert result.peak_reserved_bytes + outside == result.device_bytes


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_gated_layer_costs_one_hidden_state_where_activations_are_kept(checkpointing: bool) -> None:
    def terms(**changes: object) -> dict[str, int]:
        config = configured(
            training__gradient_checkpointing=checkpointing,
            data__max_length=4096,
            memory__loss_chunk=16,  # the backward pass of a layer is the peak, not the loss
            **changes,
        )
        chunked = dataclasses.replace(PLAIN, full_logits=False)
        found, phase = step_terms(config, KNOWN_MODELS[PHI], chunked, cpu=False, compute=2)
        assert phase == "backward"
        return found

    hidden = 4096 * 3072 * 2
    none, one, three = terms(), terms(so8t__gate_layers=[5]), terms(so8t__gate_layers=[5, -1, 31, 0])
    what, times = ("working_set", (1, 1)) if checkpointing else ("saved_activations", (1, 3))
    for found, count in zip((one, three), times, strict=True):
        assert found[what] - none[what] == count * hidden
        changed = {name for name in none if found[name] != none[name]}
        assert changed <= {what, "fragmentation"}


def test_without_the_gate_before_the_head_its_copy_is_not_counted() -> None:
    layers = {"so8t__gate_layers": [0], "data__max_length": 64, "memory__loss_chunk": 4096}
    with_final, without = (configured(**layers, so8t__gate_final=final) for final in (True, False))
    (a, phase), (b, _phase) = (
        step_terms(c, KNOWN_MODELS[PHI], EXPECTED, cpu=False, compute=2) for c in (with_final, without)
    )
    assert phase == "loss"
    assert a["working_set"] - b["working_set"] == 64 * 3072 * 4


def test_a_gate_in_a_layer_that_does_not_exist_is_an_error_of_the_estimate() -> None:
    with pytest.raises(ModelError, match="no decoder layer 32") as caught:
        estimate(configured(so8t__gate_layers=[32]))
    assert "0 to 31" in caught.value.mend
