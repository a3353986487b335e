"""The plan of a run against a real run's events, torch's scheduler and transformers' own arithmetic."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    Trainer,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from so8t_engine.config import Config
from so8t_engine.training.events import Event, GateEvent, StepEvent
from so8t_engine.training.optimizer import make_scheduler
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.schedules import plan, planned_steps, rate_factor

Make = Callable[..., Config]


def config_of(so8t: dict[str, Any] | None = None, **training: Any) -> Config:  # noqa: ANN401
    return Config.model_validate({"so8t": so8t or {}, "training": training})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "rate"),
    [("sigmoid", "cosine"), ("linear", "linear"), ("phases", "constant"), ("learned", "cosine")],
)
def test_a_real_run_keeps_to_its_plan(schedule: str, rate: str, tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(
        so8t={"alpha_schedule": schedule, "pet_weights": [0.25, 0.5, 2.0]},
        training={"max_steps": None, "epochs": 1.6, "lr_scheduler": rate, "warmup_ratio": 0.25},
    )
    events: list[Event] = []
    run = RunDirectory.create(config, tmp_path / "run")
    assert run_training(run, on_event=events.append, handle_signals=False) == 0
    steps = [event for event in events if isinstance(event, StepEvent)]
    gates = [event for event in events if isinstance(event, GateEvent)]
    total = planned_steps(config, 24)
    assert total == steps[-1].of == steps[-1].step == 10  # 24 rows: 6 steps an epoch, 1.6 epochs
    planned = plan(config, total)
    assert [one.step for one in planned] == [event.step for event in steps]
    for one, step, gate in zip(planned, steps, gates, strict=True):
        assert step.lr == step.lrs["lora"] == pytest.approx(one.lora_rate, rel=1e-12)
        assert step.lrs["rotations"] == step.lrs["heads"] == pytest.approx(one.so8t_rate, rel=1e-12)
        assert step.terms["pet"] == pytest.approx(one.pet_weight * step.raw["pet"], rel=1e-5)
        assert gate.target == one.alpha
        if schedule != "learned":
            assert gate.alpha == pytest.approx(one.alpha, abs=1e-6)
            assert gate.g == pytest.approx(one.gate, abs=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "total"), [(0.0, 7), (0.1, 40), (0.03, 100), (1.0, 5), (0.5, 1)])
def test_rates_are_those_of_the_trainers_scheduler(kind: str, warmup: float, total: int) -> None:
    config = config_of(lr_scheduler=kind, warmup_ratio=warmup, learning_rate=3e-4)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr": 3e-4, "name": "lora"}])
    scheduler = make_scheduler(optimizer, config, total)
    planned = {one.step: one for one in plan(config, total)}
    assert sorted(planned) == list(range(1, total + 1))
    for step in range(1, total + 1):
        assert planned[step].lora_rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_the_decay_is_the_one_of_transformers(kind: str, theirs: Callable[..., Any]) -> None:
    total, warmup = 200, 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer, num_warmup_steps=warmup, num_training_steps=total)
    factor = rate_factor(config_of(lr_scheduler=kind, warmup_ratio=0.1), total)
    for done in range(total):
        # Their warm-up begins at 0, which wastes the first step; ours begins at 1/warmup.
        expected = (done + 1) / warmup if done < warmup else optimizer.param_groups[0]["lr"]
        assert factor(done) == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("rows", [1, 7, 24, 301])
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 1), (4, 1), (1, 4), (5, 3)])
@pytest.mark.parametrize("epochs", [0.01, 0.1, 0.3, 1.0, 1.1, 2.5, 3.0])
def test_steps_are_counted_as_transformers_does(
    rows: int, batch: int, accumulation: int, epochs: float
) -> None:
    arguments = SimpleNamespace(
        max_steps=-1,
        num_train_epochs=epochs,
        gradient_accumulation_steps=accumulation,
        train_batch_size=batch,
    )
    trainer = SimpleNamespace(
        get_total_train_batch_size=lambda _arguments: batch * accumulation,
        get_sp_size=lambda: 1,
        num_examples=lambda _loader: rows,
    )
    loader = torch.utils.data.DataLoader(list(range(rows)), batch_size=batch)
    found = Trainer.set_initial_training_values(trainer, arguments, loader)  # type: ignore[arg-type]
    config = config_of(batch_size=batch, accumulation=accumulation, epochs=epochs)
    assert planned_steps(config, rows) == found[-1]


def test_a_step_limit_is_the_number_of_steps() -> None:
    assert planned_steps(config_of(max_steps=37), 10_000) == 37


def test_a_long_plan_is_thinned_and_keeps_its_corners() -> None:
    config = config_of(warmup_ratio=0.0333, learning_rate=1e-3)
    planned = plan(config, 100_000, points=50)
    assert len(planned) <= 56
    assert (planned[0].step, planned[-1].step) == (1, 100_000)
    assert max(one.lora_rate for one in planned) == 1e-3
    jumps = [(a.step, b.step) for a, b in itertools.pairwise(planned) if a.pet_weight != b.pet_weight]
    assert jumps == [(20_000, 20_001), (60_000, 60_001)]


def test_phi_and_sigma_in_a_plan() -> None:
    last = plan(config_of({"alpha_schedule": "sigmoid"}), 500)[-1]
    phi = (1 + math.sqrt(5)) / 2
    assert last.alpha == pytest.approx(phi, abs=1e-15)
    assert last.gate == pytest.approx(1 / (1 + math.exp(-phi)), abs=1e-15)


def test_the_plan_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom so8t_engine.config import Config\nfrom so8t_engine.training.schedules import plan\n"
        "plan(Config(), 100)\nsys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
