"""The soul dataset: exact rotations, phases in proportion, same seed same bytes, nothing invented."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from so8t_engine.config import Config
from so8t_engine.errors import DataError, RunError
from so8t_engine.so8t.schedule import GateSchedule, sigmoid
from so8t_engine.soul_dataset.generate import write_dataset
from so8t_engine.soul_dataset.reading import read_records
from so8t_engine.soul_dataset.rotations import (
    commutator_norm,
    haar_rotations,
    orthogonality_error,
    skew_exponential,
    skew_from_generators,
)
from so8t_engine.soul_dataset.settings import SoulDatasetSettings
from so8t_engine.soul_dataset.splitting import largest_remainder, stratified_split
from so8t_engine.soul_dataset.text import render


def _digest(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("scale", [0.0, 1e-8, 0.02, 0.3, 3.0, 50.0])
def test_the_exponential_is_scipys(scale: float) -> None:
    theta_N28 = np.random.default_rng(1).standard_normal((40, 28)) * scale
    skew_N88 = skew_from_generators(theta_N28)
    wanted = np.stack([scipy.linalg.expm(a) for a in skew_N88])
    found = skew_exponential(skew_N88)
    assert np.abs(found - wanted).max() < 1e-12 * max(1.0, scale)
    assert orthogonality_error(found).max() < 1e-13
    assert np.allclose(np.linalg.det(found), 1.0)


def test_generators_and_commutator_are_those_of_the_torch_core() -> None:
    import torch

    from so8t_engine.so8t import rotation

    theta_N28 = np.random.default_rng(2).standard_normal((2, 16, 28)) * 0.4
    mine = [skew_exponential(skew_from_generators(t)) for t in theta_N28]
    core = [rotation.generators_to_matrices(torch.from_numpy(t)) for t in theta_N28]
    for a, b in zip(mine, core, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-13
    c = rotation.commutator_norm(core[1], core[0]).numpy()
    assert np.abs(commutator_norm(mine[1], mine[0]) - c).max() < 1e-13


def test_haar_rotations_are_uniform_rotations() -> None:
    r_N88 = haar_rotations(np.random.default_rng(3), 20_000)
    assert orthogonality_error(r_N88).max() < 1e-13
    assert np.allclose(np.linalg.det(r_N88), 1.0)
    # Haar: E[R] = 0 and E[R_ij²] = 1/8; standard error of the mean about 0.0025.
    assert np.abs(r_N88.mean(0)).max() < 0.015
    assert np.abs((r_N88**2).mean(0) - 1 / 8).max() < 0.01
    c = commutator_norm(r_N88[:10_000], r_N88[10_000:])
    assert c.mean() == pytest.approx(0.69, abs=0.02)  # the specification's figure for a Haar-random pair


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_shares_add_up_and_are_within_one(total: int, weights: list[float]) -> None:
    shares = largest_remainder(total, weights)
    assert sum(shares) == total
    assert all(abs(s - total * w / sum(weights)) < 1 + 1e-6 for s, w in zip(shares, weights, strict=True))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=300), st.integers(0, 1000))
def test_every_split_holds_every_stratum_in_proportion(strata: list[int], seed: int) -> None:
    strata_N = np.array(strata)
    parts = stratified_split(strata_N, (0.8, 0.1, 0.1), np.random.default_rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(strata)))
    for part, fraction in zip(parts, (0.8, 0.1, 0.1), strict=True):
        for stratum in set(strata):
            assert abs((strata_N[part] == stratum).sum() - fraction * strata.count(stratum)) < 1


def test_five_thousand_records_as_specified(tmp_path: Path) -> None:
    config, settings = Config(), SoulDatasetSettings(text=True)
    stats = write_dataset(tmp_path, config, settings)
    assert (stats["records"], stats["splits"]) == (5000, {"train": 4000, "validation": 500, "test": 500})
    for split, count in stats["splits"].items():
        assert stats["split_phases"][split] == {
            "latent": count * 2 // 10, "transition": count * 3 // 10, "stable": count * 5 // 10,
        }  # fmt: skip
    # Against the files themselves and an independent formula, not against what the writer says.
    schedule = GateSchedule(kind="learned", anneal_steps=4000)
    records = list(read_records(tmp_path))
    assert len({r["sample_id"] for r in records}) == 5000
    for name in ("r_safe", "r_cmd", "r_total"):
        matrices = np.array([r[name] for r in records]).reshape(-1, 8, 8)
        assert np.abs(matrices.swapaxes(1, 2) @ matrices - np.eye(8)).max() < 2e-6
        assert np.abs(np.linalg.det(matrices) - 1).max() < 2e-6
    for r in records[:200]:
        safe, cmd, total = (np.array(r[n]).reshape(8, 8) for n in ("r_safe", "r_cmd", "r_total"))
        assert np.abs(cmd @ safe - total).max() < 1e-6
        assert r["commutator"] == pytest.approx(
            np.linalg.norm(cmd @ safe - safe @ cmd) / (2 * 8**0.5), abs=1e-6
        )
        assert r["alpha_gate"] == pytest.approx(schedule.alpha_at(r["step"], 5000))
        assert r["g"] == pytest.approx(sigmoid(r["alpha_gate"]))
        # Targets, and said to be: one class of each head, the safety pair that the task implies.
        assert (r["heads_source"], sorted(r["task_head"])) == ("target", [0, 0, 0, 1])
        assert r["safety_head"] == ([1, 0] if r["task_head"].index(1) < 2 else [0, 1])
        assert r["dual_heads"] == [r["safety_head"]] * 2
        assert r["timestamp"] is None
        assert r["lora"] is None
    # The last values of the schedule are in every split, and so are its first.
    for split in ("train", "validation", "test"):
        alphas = [r["alpha_gate"] for r in records if r["split"] == split]
        assert min(alphas) < -4.9
        assert max(alphas) == pytest.approx(1.618033988749895)
    texts = [json.loads(line) for line in (tmp_path / "text.jsonl").read_text("utf-8").splitlines()]
    assert len(texts) == 5000
    assert all("%" in t["text"] and "M = R_cmd R_safe" in t["text"] and "targets" in t["text"] for t in texts)
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [t["sample_id"] for t in table] == [r["sample_id"] for r in records]


def test_the_text_gives_the_gate_as_a_percentage() -> None:
    record = {
        "phase": "stable", "g": 0.8345, "alpha_gate": 1.618, "alpha_source": "scheduled",
        "commutator": 0.25, "heads_source": "missing", "source": "checkpoint",
    }  # fmt: skip
    text = render(record)
    assert "83.5 %" in text  # 100 σ(α), not 84 α
    assert "0.2500" in text
    assert "missing" in text


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    made: list[dict[str, str]] = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        write_dataset(
            tmp_path / name, Config(), SoulDatasetSettings(records=300, seed=seed, shard_records=100)
        )
        made.append(_digest(tmp_path / name))
    assert made[0] == made[1]
    assert all(
        made[0][name] != made[2][name] for name in made[0] if name.endswith((".safetensors", ".jsonl"))
    )
    assert sum(name.startswith("train-") for name in made[0]) == 3


def test_the_command_needs_no_torch_and_little_memory(tmp_path: Path) -> None:
    code = (
        "import sys, so8t_engine.cli as c\n"
        "sys.argv = ['so8t', 'soul-dataset', 'demo', '--out', sys.argv[1], '--json']\n"
        "try: c.main()\n"
        "except SystemExit as e: assert e.code in (0, None), e.code\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "soul")],
        capture_output=True, text=True, check=False, env=os.environ | {"SO8T_LANG": "en"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["records"] == 5000
    assert report["peak_memory_bytes"] < 300 * 1024**2
    again = subprocess.run(
        [sys.executable, "-m", "so8t_engine.cli", "soul-dataset", "demo", "--out", str(tmp_path / "soul")],
        capture_output=True, text=True, check=False, env=os.environ | {"SO8T_LANG": "en"}, timeout=120,
    )  # fmt: skip
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_a_run_gives_what_it_recorded_and_nothing_else(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    from so8t_engine.training.run import run_training
    from so8t_engine.training.run_directory import RunDirectory

    run = RunDirectory.create(tiny_config(checkpoints={"every_steps": 2}), tmp_path / "run")
    assert run_training(run, handle_signals=False) == 0
    out = tmp_path / "soul"
    out.mkdir()
    settings = SoulDatasetSettings(source="checkpoint", run=str(run.path))
    stats = write_dataset(out, Config(), settings)
    steps = {1, 2, 3}  # step 0 has no α yet
    assert stats["records"] == 3 * 8 < stats["records_asked"]
    assert stats["notes"]["available"] == 24
    records = list(read_records(out))
    assert {r["step"] for r in records} == steps
    soul = safe_open(run.final / "soul.safetensors", framework="np")
    stored = safe_open(run.rotations / "step-00000003.safetensors", framework="np")
    for r in records:
        assert r["timestamp"]
        if r["step"] == 1:  # no checkpoint was kept
            assert (r["heads_source"], r["task_head"], r["lora"]) == ("missing", None, None)
            continue
        assert r["heads_source"] == "weight_norm"
        if r["step"] == 3:
            b = r["block"]
            weight = soul.get_tensor("heads.task_head.weight")[:, 8 * b : 8 * b + 8]
            assert r["task_head"] == pytest.approx(np.linalg.norm(weight, axis=1), rel=1e-5)
            assert r["r_safe"] == pytest.approx(stored.get_tensor("r_safe")[b].ravel().tolist())
            assert r["alpha_gate"] == pytest.approx(float(soul.get_tensor("alpha")), abs=1e-6)
            adapter = safe_open(run.final / "adapter" / "adapter_model.safetensors", framework="np")
            module = next(iter(r["lora"]))
            a, bb = (adapter.get_tensor(f"base_model.model.{module}.lora_{x}.weight") for x in "AB")
            assert r["lora"][module]["norm"] == pytest.approx(2 * np.linalg.norm(bb @ a), rel=1e-4)
            assert r["lora"][module]["shape"] == [bb.shape[0], a.shape[1]]
    few = SoulDatasetSettings(source="checkpoint", run=str(run.path), records=12)
    (tmp_path / "few").mkdir()
    assert write_dataset(tmp_path / "few", Config(), few)["records"] == 12


def test_bad_sources_are_sentences(tmp_path: Path, tiny_config: Callable[..., Config]) -> None:
    from so8t_engine.training.run_directory import RunDirectory

    def make(run: Path) -> dict[str, Any]:
        return write_dataset(tmp_path, Config(), SoulDatasetSettings(source="checkpoint", run=str(run)))

    with pytest.raises(RunError, match="not a run folder"):
        make(tmp_path)
    run = RunDirectory.create(tiny_config(), tmp_path / "run")
    with pytest.raises(DataError, match="no rotations"):
        make(run.path)
