"""The curves of α and of PET's weight, against the formulas of the specification."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.errors import SO8TError
from so8t_engine.so8t.schedule import PHI, GateSchedule, pet_weight_at, phase_at, sigmoid


def test_phi_solves_its_equation() -> None:
    assert abs(PHI * PHI - (PHI + 1)) <= 1e-15
    assert sigmoid(PHI) == pytest.approx(0.8345, abs=1e-4)
    assert sigmoid(-5.0) == pytest.approx(0.0067, abs=1e-4)


@pytest.mark.parametrize("step", [0, 1, 100, 250, 399])
def test_sigmoid_follows_the_formula_and_then_holds_phi(step: int) -> None:
    schedule = GateSchedule("sigmoid", anneal_steps=400)
    expected = -5 + (PHI + 5) / (1 + math.exp(-12 * (step / 400 - 0.5)))
    assert schedule.alpha_at(step, 500) == pytest.approx(expected, abs=1e-12)
    assert schedule.alpha_at(400, 500) == PHI
    assert schedule.alpha_at(10_000, 500) == PHI


def test_linear_holds_ramps_and_holds() -> None:
    schedule = GateSchedule("linear")
    assert schedule.alpha_at(0, 500) == schedule.alpha_at(50, 500) == -5.0
    assert schedule.alpha_at(250, 500) == pytest.approx(-5 + (PHI + 5) / 2)
    assert schedule.alpha_at(450, 500) == pytest.approx(PHI)
    assert schedule.alpha_at(500, 500) == PHI


def test_phases_begin_and_end_where_the_specification_says() -> None:
    schedule = GateSchedule("phases")
    assert schedule.alpha_at(0, 1000) == -4.98
    assert schedule.alpha_at(200, 1000) == pytest.approx(-4.93)
    assert schedule.alpha_at(500, 1000) == pytest.approx(PHI)
    assert [phase_at(step, 1000) for step in (0, 199, 200, 499, 500, 1000)] == [
        "latent",
        "latent",
        "transition",
        "transition",
        "stable",
        "stable",
    ]


@given(st.sampled_from(["linear", "phases"]), st.integers(200, 5000))
def test_linear_and_phases_never_jump(kind: str, total: int) -> None:
    schedule = GateSchedule(kind)  # type: ignore[arg-type]
    values = [schedule.alpha_at(step, total) for step in range(total + 1)]
    # The steepest slope is smoothstep's 1.5 over 30 % of the run.
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) <= 1.5 * 6.7 / (0.3 * total)


@given(
    st.sampled_from(["sigmoid", "linear", "phases", "learned"]),
    st.integers(1, 3000),
    st.integers(-5, 4000),
)
def test_every_curve_rises_within_its_ends(kind: str, total: int, step: int) -> None:
    schedule = GateSchedule(kind)  # type: ignore[arg-type]
    here, after = schedule.alpha_at(step, total), schedule.alpha_at(step + 1, total)
    assert -5.0 <= here <= after + 1e-12 <= PHI + 1e-11


def test_a_preview_covers_the_run_and_agrees_with_the_schedule() -> None:
    schedule = GateSchedule("learned", learned_target="phases")
    curve = schedule.curve(300, 50)
    assert curve[0][0] == 0
    assert curve[-1][0] == 300
    assert all(alpha == schedule.alpha_at(step, 300) for step, alpha in curve)
    assert len(GateSchedule().curve(3, 200)) == 4


def test_pet_weight_steps_at_20_and_60_percent() -> None:
    weights = [pet_weight_at(step, 100) for step in (0, 19, 20, 59, 60, 100, 101)]
    assert weights == [0.01, 0.01, 0.05, 0.05, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: GateSchedule("cosine"),  # type: ignore[arg-type]
        lambda: GateSchedule(anneal_steps=0),
        lambda: GateSchedule(linear_parts=(0, 0, 0)),
        lambda: GateSchedule().alpha_at(0, 0),
        lambda: pet_weight_at(0, 10, (0.1,), (0.5, 0.5)),
    ],
)
def test_impossible_schedules_are_refused_with_a_mend(make: object) -> None:
    with pytest.raises(SO8TError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.mend


def test_the_schedule_does_not_import_torch() -> None:
    code = "import sys, so8t_engine.so8t.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
