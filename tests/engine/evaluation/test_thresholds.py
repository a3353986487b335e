"""Thresholds over stored probabilities: the service's own rule, for every row and threshold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.commands.thresholds import thresholds
from so8t_engine.config import Config
from so8t_engine.config.serving import ServingConfig
from so8t_engine.errors import DataError
from so8t_engine.evaluation.held_out_heads import HeldOutHeads, stored_heads
from so8t_engine.evaluation.thresholds import TASKS, decisions, effect, sweep
from so8t_engine.serving.decision import HeadReading, decide
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory


def heads_of(seed: int, rows: int = 40) -> HeldOutHeads:
    rng = np.random.default_rng(seed)
    # Rounded, so that values and thresholds also meet exactly.
    first_N = rng.dirichlet([0.5, 0.3, 0.3, 0.3], rows).round(2)
    first_N[:, 3] = np.clip(1 - first_N[:, :3].sum(1), 0, 1).round(2)
    safe_N = rng.random((rows, 3)).round(2)
    pairs = np.stack([safe_N, (1 - safe_N).round(2)], axis=-1)
    return HeldOutHeads(
        "test", 5, first_N, pairs[:, 0], pairs[:, 1:], rng.integers(-1, 4, rows), rng.integers(-1, 2, rows)
    )


@given(seed=st.integers(0, 10_000), allow=st.integers(0, 100), danger=st.integers(0, 100))
def test_the_rule_is_the_services(seed: int, allow: int, danger: int) -> None:
    heads = heads_of(seed)
    settings = ServingConfig(allow_threshold=allow / 100, danger_threshold=danger / 100)
    wanted = [
        TASKS.index(decide(HeadReading(tuple(t), tuple(s), tuple(tuple(one) for one in d)), settings).label)
        for t, s, d in zip(
            heads.task_N4.tolist(), heads.safety_N2.tolist(), heads.dual_N22.tolist(), strict=True
        )
    ]
    assert decisions(heads, allow / 100, danger / 100).tolist() == wanted


@given(seed=st.integers(0, 10_000))
def test_a_stricter_threshold_never_allows_more(seed: int) -> None:
    heads = heads_of(seed)
    curve = sweep(heads, 0.7, 0.5)
    allowed = [sum(row[0] for row in one.matrix) for one in curve]
    assert allowed == sorted(allowed, reverse=True)
    passed = [one.dangerous_allowed for one in sweep(heads, 0.7, 0.5, what="danger")]
    assert passed == sorted(passed)
    for one in curve:
        assert np.sum(one.matrix) == (heads.true_task_N >= 0).sum()
        assert [row[2:] for row in one.matrix] == [row[2:] for row in curve[0].matrix]


def test_what_was_stored_reads_back_and_a_damaged_file_is_named() -> None:
    heads = heads_of(3)
    again = HeldOutHeads.from_json(json.loads(json.dumps(heads.to_json())))
    assert effect(again, 0.7, 0.5) == effect(heads, 0.7, 0.5)
    broken = heads.to_json()
    broken["safety"] = broken["safety"][:-1]
    with pytest.raises(DataError, match="lengths"):
        HeldOutHeads.from_json(broken)
    broken = heads.to_json()
    broken["task"][0][0] = 1.5
    with pytest.raises(DataError):
        HeldOutHeads.from_json(broken)


def test_a_run_stores_its_decisions_and_the_command_finds_the_same(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = RunDirectory.create(tiny_config(training={"learning_rate": 0.02}), tmp_path / "run")
    assert run_training(run, handle_signals=False) == 0
    stored = stored_heads(run.path)
    assert stored is not None
    text, told = thresholds(run.path)
    after = json.loads((run.final / "results.json").read_text("utf-8"))["evaluation"]["validation"]["after"]
    assert told["rows"] == after["rows"]
    # Without thresholds the rule is the task head's class: the run's own confusion, dual heads apart.
    free = effect(stored, 0.0, 1.1)
    assert [row[2:] for row in free.matrix] == [row[2:] for row in after["confusion"]]
    assert "ALLOW" in text
    assert len(told["allow_threshold"]) == 101

    (run.final / "decisions.json").unlink()
    assert stored_heads(run.path) is None
    from so8t_engine.training.checkpoint import MANIFEST  # the file was listed there; list the rest anew

    manifest = json.loads((run.final / MANIFEST).read_text("utf-8"))
    manifest["files"] = {k: v for k, v in manifest["files"].items() if k != "decisions.json"}
    (run.final / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    _text, asked = thresholds(run.path)
    again = stored_heads(run.path)
    assert again is not None
    np.testing.assert_allclose(again.task_N4, stored.task_N4, atol=1e-5)
    np.testing.assert_allclose(again.dual_N22, stored.dual_N22, atol=1e-5)
    assert asked["now"] == told["now"]
