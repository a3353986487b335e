"""Short real runs on a tiny model: what learns, what stays, how a step is cut, stop, abort, resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from so8t_engine.config import Config
from so8t_engine.errors import ModelError
from so8t_engine.model.so8t_model import LossReport, SO8TModel
from so8t_engine.so8t.soul_file import load_soul
from so8t_engine.training.checkpoint import checkpoints, verify_folder
from so8t_engine.training.checkpoint_state import WEIGHTS
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import (
    EndEvent,
    ErrorEvent,
    EvaluationEvent,
    Event,
    GateEvent,
    InfoEvent,
    RotationEvent,
    StateEvent,
    StepEvent,
    WarningEvent,
)
from so8t_engine.training.preflight import preflight
from so8t_engine.training.preparation import Prepared
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import Command, State

Make = Callable[..., Config]


def _run(
    config: Config, path: Path, on_event: Callable[[Event], None] | None = None, resume: bool = False
) -> tuple[int, list[Event]]:
    run = RunDirectory.open(path) if resume else RunDirectory.create(config, path)
    status = run_training(run, on_event=on_event, handle_signals=False, resume=resume)
    return status, run.read_events()


def _losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepEvent)]


def test_every_part_learns_and_no_base_weight_moves(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from so8t_engine.training import run as run_module

    kept: dict[str, Any] = {}
    real = run_module.prepare

    def spy(config: Config, control: RunControl) -> Prepared:
        prepared = real(config, control)
        kept["model"] = prepared.model
        kept["before"] = {n: p.detach().clone() for n, p in prepared.model.named_parameters()}
        return prepared

    monkeypatch.setattr(run_module, "prepare", spy)
    status, events = _run(tiny_config(so8t={"alpha_schedule": "learned"}), tmp_path / "run")
    assert status == 0
    model, before = kept["model"], kept["before"]
    trainable = model.trainable()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter.detach(), before[name])
        assert moved == (name in trainable), name
    parts = ("so8t.theta_safe", "so8t.theta_cmd", "so8t.alpha", "safety_head", "task_head", "dual_heads.0")
    for part in (*parts, "dual_heads.1", "lora_A", "lora_B"):
        assert any(part in name for name in trainable), part
    for target in model.targets:
        assert any(target in name for name in trainable), target
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert len(steps) == 3
    assert {"lm", "safety", "task", "dual", "consistency", "pet", "alpha"} <= set(steps[0].terms)
    for step in steps:
        assert step.loss == pytest.approx(sum(step.terms.values()), rel=1e-6)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", "phases"])
def test_a_scheduled_alpha_is_labelled_scheduled_and_never_converges(
    tiny_config: Make, tmp_path: Path, schedule: str
) -> None:
    _status, events = _run(tiny_config(so8t={"alpha_schedule": schedule}), tmp_path / "run")
    gates = [event for event in events if isinstance(event, GateEvent)]
    assert len(gates) == 3
    assert {gate.source for gate in gates} == {"scheduled"}
    assert all(gate.converged_at is None for gate in gates)
    assert all(gate.alpha == pytest.approx(gate.target, abs=1e-5) for gate in gates)


def test_a_step_does_not_depend_on_how_it_is_cut(tiny_config: Make, tmp_path: Path) -> None:
    cuts = [(4, 1), (2, 2), (1, 4)]
    losses = []
    for batch, accumulation in cuts:
        config = tiny_config(
            training={"batch_size": batch, "accumulation": accumulation, "max_steps": 1},
            lora={"dropout": 0.0},
        )
        _status, events = _run(config, tmp_path / f"run{batch}")
        (step,) = [event for event in events if isinstance(event, StepEvent)]
        losses.append(step.raw)
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-4)


def test_events_tell_the_whole_run(tiny_config: Make, tmp_path: Path) -> None:
    status, events = _run(tiny_config(), tmp_path / "run")
    assert status == 0
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    states = [event.to for event in events if isinstance(event, StateEvent)]
    assert states[:2] == [State.LOADING, State.RUNNING]
    assert states[-1] is State.FINISHED
    rotations = [event for event in events if isinstance(event, RotationEvent)]
    assert all(event.file and (tmp_path / "run" / event.file).exists() for event in rotations)
    assert all(event.orthogonality < 2e-6 for event in rotations)
    evaluations = [event for event in events if isinstance(event, EvaluationEvent)]
    assert {event.step for event in evaluations} == {0, 3}
    assert isinstance(events[-1], EndEvent)
    run = RunDirectory.open(tmp_path / "run")
    verify_folder(run.final)
    assert (run.final / "adapter" / "adapter_model.safetensors").exists()
    assert json.loads((run.final / "results.json").read_text())["alpha_source"] == "learned"
    assert json.loads(run.environment.read_text())["packages"]["torch"] == torch.__version__.split("+")[
        0
    ] or (torch.__version__ in run.environment.read_text())


def test_same_seed_same_losses_and_another_seed_others(tiny_config: Make, tmp_path: Path) -> None:
    found = [
        _losses(_run(tiny_config(training={"seed": seed}), tmp_path / f"run{number}")[1])
        for number, seed in enumerate((7, 7, 8))
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


def _send_at(run_path: Path, step: int, command: Command) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == step:
            RunDirectory(run_path).send(command)

    return on_event


def test_stop_saves_a_resumable_checkpoint_and_the_resumed_run_is_bit_identical(
    tiny_config: Make, tmp_path: Path
) -> None:
    settings = {"max_steps": 8, "epochs": 4.0}
    whole_status, whole = _run(tiny_config(training=settings), tmp_path / "whole")
    path = tmp_path / "cut"
    status, events = _run(tiny_config(training=settings), path, _send_at(path, 3, Command.STOP))
    assert (whole_status, status) == (0, 0)
    assert isinstance(events[-1], EndEvent)
    assert events[-1].status == "stopped"
    done = len(_losses(events))
    assert 3 <= done < 8
    (checkpoint,) = checkpoints(path / "checkpoints")
    verify_folder(checkpoint)
    status, events = _run(tiny_config(training=settings), path, resume=True)
    assert status == 0
    assert isinstance(events[-1], EndEvent)
    assert events[-1].status == "finished"
    assert _losses(events) == _losses(whole)
    last = checkpoints(path / "checkpoints")[-1]
    one, other = (
        load_file(last / WEIGHTS),
        load_file(checkpoints(tmp_path / "whole" / "checkpoints")[-1] / WEIGHTS),
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_abort_ends_without_saving(tiny_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "run"
    status, events = _run(tiny_config(training={"max_steps": 50}), path, _send_at(path, 2, Command.ABORT))
    assert status == 0
    assert isinstance(events[-1], EndEvent)
    assert events[-1].status == "aborted"
    assert len(_losses(events)) < 50
    assert checkpoints(path / "checkpoints") == []
    assert not (path / "final").exists()


def test_stop_while_loading_ends_before_the_first_step(tiny_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "run"

    def on_event(event: Event) -> None:
        if isinstance(event, StateEvent) and event.to is State.LOADING:
            RunDirectory(path).send(Command.STOP)

    status, events = _run(tiny_config(), path, on_event)
    assert status == 0
    assert isinstance(events[-1], EndEvent)
    assert events[-1].status == "stopped"
    assert _losses(events) == []


def test_a_target_that_matches_nothing_fails_and_lists_what_exists(tiny_config: Make, tmp_path: Path) -> None:
    status, events = _run(tiny_config(lora={"targets": ["q_proj", "wibble"]}), tmp_path / "run")
    assert status == 1
    (error,) = [event for event in events if isinstance(event, ErrorEvent)]
    assert "wibble" in error.sentence
    for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"):
        assert name in error.mend
    assert isinstance(events[-1], EndEvent)
    assert events[-1].status == "failed"


def test_a_run_that_never_came_to_a_checkpoint_begins_again_and_says_so(
    tiny_config: Make, tmp_path: Path
) -> None:
    _status, whole = _run(tiny_config(), tmp_path / "whole")
    RunDirectory.create(tiny_config(), tmp_path / "run")
    status, events = _run(tiny_config(), tmp_path / "run", resume=True)
    assert status == 0
    assert any(isinstance(e, WarningEvent) and "begins again" in e.sentence for e in events)
    assert _losses(events) == _losses(whole)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(
    tiny_config: Make, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    _run(tiny_config(training={"max_steps": 8}), path, _send_at(path, 2, Command.STOP))
    for found in checkpoints(path / "checkpoints"):
        (found / WEIGHTS).write_bytes(b"")
    status, events = _run(tiny_config(), path, resume=True)
    assert status == 1
    assert any(isinstance(e, WarningEvent) and WEIGHTS in e.sentence for e in events)
    assert any(isinstance(e, ErrorEvent) and "no complete checkpoint" in e.sentence for e in events)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_each_quantisation_trains_with_and_without_checkpointing(
    tiny_config: Make, tmp_path: Path, quantization: str, checkpointing: bool
) -> None:
    config = tiny_config(
        model={"quantization": quantization},
        training={"gradient_checkpointing": checkpointing, "optimizer": "paged_adamw_8bit", "max_steps": 2},
    )
    status, events = _run(config, tmp_path / "run")
    assert status == 0, [e for e in events if isinstance(e, ErrorEvent)]
    assert all(loss == loss for loss in _losses(events))


def test_a_run_with_gates_in_layers_says_so_and_resumes_bit_identically(
    tiny_config: Make, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "training": {"max_steps": 6, "epochs": 4.0, "gradient_checkpointing": True},
        "so8t": {"gate_layers": [-1, 0], "gate_final": False, "alpha_start": 0.0},
    }
    status, whole = _run(tiny_config(**settings), tmp_path / "whole")
    assert status == 0
    path = tmp_path / "cut"
    _run(tiny_config(**settings), path, _send_at(path, 3, Command.STOP))
    status, events = _run(tiny_config(**settings), path, resume=True)
    assert status == 0
    assert _losses(events) == _losses(whole)
    # Another place of the gate is another run from its first step on.
    settings["so8t"] = settings["so8t"] | {"gate_layers": [0]}
    assert _losses(_run(tiny_config(**settings), tmp_path / "other")[1])[0] != _losses(whole)[0]
    assert load_soul(path / "final" / "soul.safetensors").metadata.placement == "mlp:0,1"
    (facts,) = [event.facts for event in whole if isinstance(event, InfoEvent)]
    assert facts["gate_placement"] == "mlp:0,1"


def test_a_gate_in_a_layer_that_does_not_exist_ends_the_run_before_its_first_step(
    tiny_config: Make, tmp_path: Path
) -> None:
    config = tiny_config(so8t={"gate_layers": [0, -3]})
    with pytest.raises(ModelError, match="no decoder layer -3"):
        preflight(config)
    # What preflight cannot see, a model that is yet to be downloaded, the trainer does.
    status, events = _run(config, tmp_path / "run")
    assert status == 1
    (error,) = [event for event in events if isinstance(event, ErrorEvent)]
    assert "no decoder layer -3" in error.sentence
    assert "0 to 1" in error.mend
    assert _losses(events) == []


def test_weights_that_are_no_numbers_are_neither_saved_nor_called_finished(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, passes = SO8TModel.forward, []

    def forward(self: SO8TModel, *given: Any, **named: Any) -> LossReport:  # noqa: ANN401
        report = real(self, *given, **named)
        passes.append(1)
        return replace(report, loss=report.loss * math.inf) if len(passes) == 3 else report

    monkeypatch.setattr(SO8TModel, "forward", forward)
    config = tiny_config(
        training={"max_steps": 6, "accumulation": 1}, checkpoints={"every_steps": 1, "keep": 1}
    )
    status, events = _run(config, tmp_path / "run")
    assert status == 1
    (error,) = [event for event in events if isinstance(event, ErrorEvent)]
    assert (error.kind, "step 3" in error.sentence) == ("diverged", True)
    assert isinstance(events[-1], EndEvent)
    assert (events[-1].status, events[-1].step) == ("failed", 3)
    (checkpoint,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoint.name == "step-00000002"
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(checkpoint / WEIGHTS).values())
    assert not (tmp_path / "run" / "final").exists()
