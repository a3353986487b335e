"""A probe is a real, short run; the estimate takes it up for the same settings and device alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.config import Config
from so8t_engine.errors import ModelError, SO8TError
from so8t_engine.memory.budget import estimate
from so8t_engine.memory.fit import with_changes
from so8t_engine.memory.geometry import model_geometry
from so8t_engine.memory.measured import PHASES, PhasePeak, ProbeResult, find, memory_digest, store
from so8t_engine.memory.probe import probe
from tests.engine.command_line import so8t_forked

Make = Callable[..., Config]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))


def _result(**changes: Any) -> ProbeResult:  # noqa: ANN401
    peaks = {phase: PhasePeak(process_rss=size) for phase, size in zip(PHASES, (5, 7, 9, 8), strict=True)}
    values: dict[str, Any] = {
        "device": "cpu", "phases": peaks, "context": None, "longest_row": 40, "rows_fill": False,
        "step_s": 0.5, "measured_at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return ProbeResult(**(values | changes))


def test_a_probe_measures_every_phase_and_the_estimate_says_so(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config()
    before = estimate(config)
    assert (before.source, before.measured) == ("estimated", None)
    said: list[str] = []
    result = probe(config, said.append)
    assert tuple(result.phases) == ("loading", "evaluation", "step", "save")
    assert all((peak.process_rss or 0) > 50e6 for peak in result.phases.values()), "an interpreter with torch"
    assert all(peak.allocated is None for peak in result.phases.values()), "not measured is not 0"
    assert 20 < result.longest_row <= config.data.max_length
    assert result.step_s > 0
    assert {"loading", "evaluation", "step", "save"} <= set(said)
    after = estimate(config)
    assert after.measured == result
    assert (after.source, after.needed_bytes) == ("measured", result.peak_bytes)
    assert "measured" in after.sentence
    assert after.terms.keys() == before.terms.keys()
    assert not list((tmp_path / "runs").glob("*")), "the probe's own run is gone"


def test_other_settings_are_estimated_again(tiny_config: Make) -> None:
    config = tiny_config()
    geometry = model_geometry(config.model.path)
    store(memory_digest(config, geometry, "cpu"), _result())
    assert estimate(config).source == "measured"
    for changes in (
        {"data.max_length": 97}, {"lora.r": 8}, {"training.batch_size": 1}, {"so8t.gate_layers": [0]},
        {"training.gradient_checkpointing": True}, {"model.quantization": "int8"}, {"memory.loss_chunk": 64},
    ):  # fmt: skip
        assert estimate(with_changes(config, changes)).source == "estimated", changes
    for changes in ({"name": "other"}, {"training.learning_rate": 0.1}, {"training.epochs": 9.0}):
        assert estimate(with_changes(config, changes)).source == "measured", changes
    assert memory_digest(config, geometry, "cpu") != memory_digest(
        config, geometry, "NVIDIA GeForce RTX 3060"
    )


def test_a_measured_peak_beyond_the_limit_does_not_fit(tiny_config: Make) -> None:
    config = tiny_config()
    enough = {"step": PhasePeak(process_rss=10**15)}
    store(memory_digest(config, model_geometry(config.model.path), "cpu"), _result(phases=enough))
    found = estimate(config)
    assert not found.fits
    assert "A probe measured" in found.reason


def test_the_cards_peak_is_what_the_allocator_holds_and_the_context() -> None:
    phases = {"evaluation": PhasePeak(reserved=5), "step": PhasePeak(allocated=6, reserved=9, process_rss=99)}
    result = _result(device="NVIDIA H200", phases=phases, context=4)
    assert (result.peak_bytes, result.peak_phase) == (13, "step")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"phases": {}}', '{"phases": {"step": {"a": 1}}}'])
def test_a_damaged_result_is_no_result(text: str) -> None:
    file = store("0" * 64, _result())
    assert find("0" * 64) == _result()
    file.write_text(text, encoding="utf-8")
    assert find("0" * 64) is None


def test_what_cannot_be_probed_is_a_sentence(tiny_config: Make, tmp_path: Path) -> None:
    with pytest.raises(SO8TError, match=r"missing\.jsonl"):
        probe(tiny_config(data={"train": str(tmp_path / "missing.jsonl")}))
    with pytest.raises(ModelError):
        probe(tiny_config(model={"path": str(tmp_path / "nowhere")}))
    with pytest.raises(SO8TError, match="nonsense"):
        probe(tiny_config(lora={"targets": ["nonsense"]}))


def test_the_command_prints_one_object(tiny_config: Make, tmp_path: Path) -> None:
    file = tmp_path / "probe.yaml"
    file.write_text(tiny_config().to_yaml(), encoding="utf-8")
    done = so8t_forked("probe", file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["phases"]) == set(PHASES)
    assert result["peak_phase"] in PHASES
    assert result["peak_bytes"] == max(p["process_rss"] for p in result["phases"].values())
