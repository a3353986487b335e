"""What is kept with memory that is left: within the budget, as much as fits, and all where there is room."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.benchmark.random_base import SHAPES
from so8t_engine.config import Config
from so8t_engine.memory import budget
from so8t_engine.memory.budget import GIB, estimate, runs_on_cpu, spare_for
from so8t_engine.memory.calibration import Calibration
from so8t_engine.memory.fit import longest_sequence, suggestions, with_changes
from so8t_engine.memory.geometry import geometry_from_config, model_geometry
from so8t_engine.memory.machine import Machine, this_machine
from so8t_engine.memory.measured import PhasePeak, ProbeResult, memory_digest
from so8t_engine.memory.needed import needed
from so8t_engine.memory.spare import Spare, choose_spare, most, with_kept

PHI = "microsoft/Phi-3.5-mini-instruct"
GEOMETRY = geometry_from_config(SHAPES["phi35"])
LAYERS = 32
ON_CARD = {"model.path": PHI, "model.device": "cuda", "memory.use_spare": True}


def machine(factor: float = 1.0) -> Machine:
    return Machine("a card", 8 * GIB, None, (8, 6), True, Calibration(3, factor, 900_000_000))


def chosen(changes: dict[str, Any], budget: float, where: Machine | None = None, **more: Any) -> Spare:  # noqa: ANN401
    config = with_changes(Config(), ON_CARD | changes)
    return choose_spare(
        config, GEOMETRY, where or machine(), cpu=False, compute=2, budget=int(budget * GIB), **more
    )


def high(changes: dict[str, Any], layers: int, weights: int, where: Machine | None = None) -> int:
    config = with_kept(with_changes(Config(), ON_CARD | changes), layers, weights)
    return needed(config, GEOMETRY, where or machine(), cpu=False, compute=2)[2]


cases = st.fixed_dictionaries(
    {
        "data.max_length": st.integers(16, 8192),
        "training.batch_size": st.integers(1, 4),
        "training.accumulation": st.sampled_from([1, 4]),
        "training.packing": st.booleans(),
        "training.recorded_passes": st.sampled_from(["off", "on"]),
        "training.gradient_checkpointing": st.booleans(),
        "training.optimizer": st.sampled_from(["paged_adamw_8bit", "adamw"]),
        "memory.offload_activations": st.booleans(),
        "memory.kept_layers": st.sampled_from([0, 0, 3, 40]),
        "model.quantization": st.sampled_from(["nf4", "int8", "none"]),
        "so8t.gate_layers": st.sampled_from([[], [-1], [0, 5]]),
        "lora.r": st.sampled_from([8, 64]),
    }
)


@settings(max_examples=40, deadline=None)
@given(changes=cases, budget=st.floats(3.0, 24.0), more=st.floats(0.0, 4.0), factor=st.floats(0.95, 1.1))
def test_what_is_kept_stays_within_the_budget_and_grows_with_it(
    changes: dict[str, Any], budget: float, more: float, factor: float
) -> None:
    where = machine(factor)
    found = chosen(changes, budget, where)
    own = min(changes["memory.kept_layers"], LAYERS)
    assert found.high_bytes == high(changes, found.layers, found.weights, where)
    if high(changes, own, 0, where) > budget * GIB:
        assert (found.layers, found.weights) == (own, 0), "nothing is added where nothing is left"
        return
    assert found.high_bytes <= budget * GIB
    assert found.layers >= own
    if changes["training.gradient_checkpointing"] and found.layers < LAYERS:
        assert high(changes, found.layers + 1, 0, where) > budget * GIB, "one more would have fitted"
    if changes["model.quantization"] == "none":
        assert found.weights == 0
    elif found.weights < LAYERS:
        assert high(changes, found.layers, found.weights + 1, where) > budget * GIB
    larger = chosen(changes, budget + more, where)
    assert larger.layers >= found.layers
    assert larger.layers > found.layers or larger.weights >= found.weights


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(0, 30000), st.integers(0, 59))
def test_the_most_that_fits_is_found(steps: list[int], budget: int, least: int) -> None:
    sizes = [sum(steps[: place + 1]) for place in range(len(steps))]
    least = min(least, len(sizes) - 1)
    budget = max(budget, sizes[least])
    wanted = max(place for place, size in enumerate(sizes) if size <= budget)
    assert most(sizes.__getitem__, budget, least, len(sizes) - 1) == wanted


def test_all_is_kept_where_there_is_room_and_nothing_unless_asked() -> None:
    short = {"data.max_length": 512, "lora.dropout": 0.0}
    assert (chosen(short, 80.0).layers, chosen(short, 80.0).weights) == (LAYERS, LAYERS)
    under_cap = chosen(short, 7.2)
    assert under_cap.layers == LAYERS
    assert under_cap.weights >= 4
    off = chosen(short | {"memory.use_spare": False}, 80.0)
    assert (off.layers, off.weights) == (0, 0)
    assert chosen(short | {"memory.layers": "plain"}, 80.0).layers == 0, "plain layers know nothing of it"


def test_shorter_passes_keep_more_within_the_same_budget() -> None:
    changes = {"data.max_length": 4096, "lora.dropout": 0.0}
    found = chosen(changes, 7.2, lengths=[256, 1024, 2048, 4096])
    assert 0 < found.layers < LAYERS
    assert found.shorter
    lengths, kept = zip(*found.shorter, strict=True)
    assert list(lengths) == sorted(lengths)
    assert list(kept) == sorted(kept, reverse=True)
    assert kept[0] == LAYERS
    for length, layers in found.shorter:
        assert layers > found.layers
        assert high(changes | {"data.max_length": length}, layers, found.weights) <= 7.2 * GIB


def test_the_estimate_includes_what_is_chosen_and_says_it() -> None:
    config = with_changes(Config(), ON_CARD | {"data.max_length": 512, "memory.limit_gib": 7.2})
    without = with_changes(config, {"memory.use_spare": False})
    found, plain = estimate(config), estimate(without)
    assert found.spare is not None
    assert plain.spare is None
    assert found.fits
    assert plain.device_bytes < found.device_bytes <= found.high_bytes <= found.budget_bytes
    said = found.to_json()
    assert (said["kept_layers"], said["kept_weights"]) == (found.spare.layers, found.spare.weights)
    assert plain.to_json()["kept_layers"] is None
    assert f"{found.spare.layers} of 32" in found.kept
    assert found.notes[-1] == found.kept
    assert plain.kept == ""
    explicit = with_changes(
        without, {"memory.kept_layers": found.spare.layers, "memory.kept_weights": found.spare.weights}
    )
    assert estimate(explicit).terms == found.terms


@pytest.mark.parametrize("kept_layers", [0, 3])
def test_beyond_the_limit_nothing_is_said_to_be_chosen(kept_layers: int) -> None:
    config = with_changes(Config(), ON_CARD | {"data.max_length": 8192, "memory.kept_layers": kept_layers})
    found = estimate(with_changes(config, {"memory.limit_gib": 3.0}))
    assert not found.fits
    assert found.spare is not None
    assert found.kept == ""
    assert not any("of 32 layers" in note for note in found.notes)
    assert "of 32 layers" in estimate(with_changes(config, {"memory.limit_gib": 60.0})).kept


def test_what_fits_and_what_would_help_do_not_depend_on_it() -> None:
    config = with_changes(Config(), ON_CARD | {"data.max_length": 65536, "memory.limit_gib": 5.0})
    without = with_changes(config, {"memory.use_spare": False})
    assert not estimate(config).fits
    assert longest_sequence(config) == longest_sequence(without)
    assert suggestions(config) == suggestions(without)


def test_spare_memory_is_left_alone_first_where_a_probe_found_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = with_changes(Config(), ON_CARD | {"data.max_length": 512, "memory.limit_gib": 7.2})
    peak = PhasePeak(reserved=8 * GIB)
    result = ProbeResult("a card", {"step": peak}, 0, 512, True, 0.5, "2026-01-02T03:04:05+00:00")
    own = memory_digest(config, model_geometry(PHI), this_machine().card)
    monkeypatch.setattr(budget, "find_for", lambda *run: result if memory_digest(*run) == own else None)
    assert not estimate(config).fits
    assert [one.changes for one in suggestions(config)] == [{"memory.use_spare": False}]


def test_kept_weights_are_given_up_where_they_do_not_fit() -> None:
    config = with_changes(
        Config(),
        {"model.path": PHI, "model.device": "cuda", "memory.kept_weights": 32, "memory.limit_gib": 7.2},
    )
    assert not estimate(config).fits
    assert suggestions(config)[0].changes == {"memory.kept_weights": 0}


def test_a_run_whose_rows_are_short_keeps_more() -> None:
    config = with_changes(Config(), ON_CARD | {"data.max_length": 8192, "memory.limit_gib": 7.2})
    assert not runs_on_cpu(config)
    short, full = spare_for(config, 600, [512, 608]), spare_for(config, 8192, [512, 8192])
    assert short.layers == LAYERS > full.layers
    assert spare_for(config, 600, [512, 608], less=2 * GIB).weights < short.weights
    assert spare_for(config, 600, [512, 608], beside=GIB).layers <= short.layers
