"""Ablations: every arm leaves out what it says, runs resume, and the table says regressions first."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from so8t_engine.config import Config
from so8t_engine.errors import ConfigError, SO8TError
from so8t_engine.evaluation.ablation import ARMS, arm_config, arms_asked, table
from so8t_engine.evaluation.ablation_report import findings, markdown
from so8t_engine.so8t.adapter import SO8TAdapter
from so8t_engine.so8t.rotation import RotationMap
from so8t_engine.so8t.soul_file import adapter_of, load_into, load_soul, save_soul, soul_of
from tests.engine.command_line import so8t_forked, so8t_here

IDENTITY = torch.eye(8)


@pytest.mark.parametrize("rotation_map", ["exp", "cayley", "free"])
def test_each_variant_leaves_out_what_it_says(rotation_map: RotationMap) -> None:
    made = {v: SO8TAdapter(32, rotation_map=rotation_map, init_std=0.3, variant=v, seed=3) for v in (
        "full", "safe_only", "cmd_only", "swapped", "no_rotation")}  # fmt: skip
    full = made["full"].build_rotations()
    safe, cmd = full.safe_B88, full.cmd_B88
    wanted = {
        "full": cmd @ safe,
        "safe_only": safe,
        "cmd_only": cmd,
        "swapped": safe @ cmd,
        "no_rotation": IDENTITY.expand(4, 8, 8),
    }
    for name, adapter in made.items():
        found = adapter.build_rotations()
        assert torch.allclose(found.total_B88, wanted[name], atol=1e-6), name
        assert torch.equal(found.safe_B88, IDENTITY.expand(4, 8, 8)) == (name in ("cmd_only", "no_rotation"))
        assert torch.equal(found.cmd_B88, IDENTITY.expand(4, 8, 8)) == (name in ("safe_only", "no_rotation"))
        trained = {n for n, p in adapter.named_parameters() if p.requires_grad and n.startswith("theta")}
        assert trained == {
            "theta_safe" if name == "safe_only" else "",
            "theta_cmd" if name == "cmd_only" else "",
            *(("theta_safe", "theta_cmd") if name in ("full", "swapped") else ()),
        } - {""}
    assert not torch.allclose(wanted["full"], wanted["swapped"], atol=1e-3)


def test_the_soul_file_says_which_variant_it_is(tmp_path: Path) -> None:
    adapter = SO8TAdapter(32, init_std=0.3, variant="swapped")
    save_soul(tmp_path / "soul.safetensors", soul_of(adapter, step=1))
    soul = load_soul(tmp_path / "soul.safetensors")
    assert soul.metadata.variant == "swapped"
    again = adapter_of(soul, 32)
    assert torch.equal(again.build_rotations().total_B88, adapter.build_rotations().total_B88)
    total = soul.rotation("total")
    assert total is not None
    assert torch.allclose(total, adapter.build_rotations().total_B88, atol=1e-7)
    with pytest.raises(SO8TError, match="swapped"):
        load_into(SO8TAdapter(32), soul)


def test_arms_differ_from_the_run_in_their_part_alone() -> None:
    base = Config().model_dump(mode="json")
    for arm, changes in ARMS.items():
        made = arm_config(Config(), arm, 7).model_dump(mode="json")
        assert made["training"].pop("seed") == 7
        differing = {k for k in made["so8t"] if made["so8t"][k] != base["so8t"][k]}
        assert differing == set(changes)
        for section in set(base) - {"so8t", "training", "name"}:
            assert made[section] == base[section]
    assert arms_asked(["swapped"]) == ["full", "swapped"]
    with pytest.raises(ConfigError, match="sideways"):
        arms_asked(["sideways"])


def _results(task: float, danger: float) -> dict[str, Any]:
    after = {"task_accuracy": task, "task_macro_f1": task, "safety_accuracy": 0.9, "danger_to_allow": danger}
    return {"evaluation": {"test": {"after": {**after, "loss": None, "rows": 40}}}}


def test_what_is_better_without_so8t_is_said_first() -> None:
    noise = (0.0, 0.01, -0.01, 0.005, -0.005)
    found = table(
        {
            "full": {s: _results(0.8 + n, 0.1) for s, n in enumerate(noise)},
            "safe_only": {s: _results(0.6 + n * 1.1, 0.1) for s, n in enumerate(noise)},
            "no_so8t": {s: _results(0.9 + n * 0.9, 0.1) for s, n in enumerate(noise)},
            "swapped": {s: _results(0.8 + n * (-1) ** s, 0.1) for s, n in enumerate(noise)},
        }
    )
    assert found["split"] == "test"
    assert found["arms"]["full"]["loss"]["value"] is None  # missing stays missing
    assert found["differences"]["no_so8t"]["task_accuracy"]["better"] is True
    assert found["differences"]["safe_only"]["task_accuracy"]["better"] is False
    assert found["differences"]["swapped"]["task_accuracy"]["better"] is None
    lines = findings(found)
    assert lines[0].startswith("Better without the part: no SO8T: task accuracy +0.1000")
    assert any(line.startswith("Worse without the part: R_safe only") for line in lines)
    page = markdown(
        {"table": found, "seeds": 5, "steps": "3", "rows": 40, "split": "test", "command": "so8t ablate"}
    )
    assert page.index("Better without") < page.index("| arm |")
    assert "—" in page


def test_the_command_runs_every_arm_and_repeats_nothing(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    # In the command's own process: four trainers of their own would each import everything.
    made_of = tiny_config(training={"max_steps": 2}, run={"placement": "thread"})
    config.write_text(made_of.to_yaml(), "utf-8")
    out = tmp_path / "out"
    arguments = ["ablate", str(config), "--out", str(out), "--seeds", "2", "--arm", "no_so8t", "--json"]

    def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = read(so8t_forked(*arguments, cwd=tmp_path))
    made = sorted(p.name for p in (out / "runs").iterdir())
    assert made == ["full-seed42", "full-seed43", "no_so8t-seed42", "no_so8t-seed43"]
    ends = {p.name: (p / "events.jsonl").read_bytes() for p in (out / "runs").iterdir()}
    soul = load_soul(out / "runs" / "no_so8t-seed42" / "final" / "soul.safetensors")
    assert soul.metadata.variant == "no_rotation"
    assert soul.theta_safe is not None
    assert not soul.theta_safe.any()
    assert first["steps"] == "2"
    per_seed = first["table"]["arms"]["full"]["loss"]["seeds"]
    results = json.loads((out / "runs" / "full-seed43" / "final" / "results.json").read_text("utf-8"))
    assert per_seed["43"] == results["evaluation"]["validation"]["after"]["loss"]
    assert (out / "ablation.svg").read_text("utf-8").startswith("<svg")
    assert read(so8t_here(*arguments, cwd=tmp_path)) == first
    assert {p.name: (p / "events.jsonl").read_bytes() for p in (out / "runs").iterdir()} == ends
