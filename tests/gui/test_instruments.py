"""The predicted arrival of α, and all blocks at a glance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot
from recorded_runs import START, gate, rotations

from so8t_gui.charts.gate_panel import GatePanel
from so8t_gui.charts.rotation_panel import RotationPanel
from so8t_gui.models.arrival import predicted_arrival
from so8t_gui.models.rotations import RotationBlocks
from so8t_gui.models.run_model import RunModel


def test_the_arrival_is_where_the_line_of_the_logarithm_meets_a_hundredth() -> None:
    steps = np.arange(1.0, 101.0)
    distance = 3 * np.exp(-0.02 * steps)
    expected = np.log(3 / 0.01) / 0.02
    found = predicted_arrival(steps, distance)
    assert found is not None
    assert abs(found - expected) <= 1
    assert predicted_arrival(steps, distance[::-1].copy()) is None, "it goes away"
    assert predicted_arrival(steps, np.full(100, 0.005)) is None, "it is there"
    noise = np.exp(np.random.default_rng(0).normal(size=100))
    assert predicted_arrival(steps, noise) is None, "it wanders"
    assert predicted_arrival(steps[:5], distance[:5]) is None


def test_the_gate_panel_says_that_it_extrapolates(qtbot: QtBot) -> None:
    panel = GatePanel()
    qtbot.addWidget(panel)
    model = RunModel()
    # On the steep half of its way α's distance falls along a line.
    events = [gate(n, 100, START + n).model_copy(update={"converged_at": None}) for n in range(1, 70)]
    events = [e.model_copy(update={"alpha": e.final_target - 3 * np.exp(-0.02 * e.step)}) for e in events]
    model.digest(events)
    panel.draw(model)
    assert "extrapolated: 0.01 at about step 286" in panel.distance._legend.text()
    model.digest([gate(70, 100, START + 70, "scheduled")])
    panel.draw(model)
    assert "extrapolated" not in panel.distance._legend.text(), "a scheduled α proves nothing"
    for chart in panel.charts:
        chart.dispose()


def test_the_highest_block_is_found_by_a_click_and_by_a_key(qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "rotations").mkdir()
    event = rotations(tmp_path, 20, blocks=48)
    model = RunModel()
    model.digest([event])
    panel = RotationPanel()
    qtbot.addWidget(panel)
    panel.resize(700, 700)
    panel.show()
    panel.draw(model, tmp_path)
    assert event.file is not None
    values = RotationBlocks.load(tmp_path / event.file).commutators_B()
    qtbot.mouseClick(panel.highest, Qt.MouseButton.LeftButton)
    assert panel.block.value() == int(values.argmax())
    panel.block.setValue(3)
    qtbot.keyClick(panel.strip, Qt.Key.Key_Right)
    assert panel.block.value() == 4
    qtbot.keyClick(panel.strip, Qt.Key.Key_Home)
    assert panel.block.value() == int(values.argmax())
    place = panel.strip._cell(7).center().toPoint()
    qtbot.mouseClick(panel.strip, Qt.MouseButton.LeftButton, pos=place)
    assert panel.block.value() == 7
    assert f"{values[7]:.4f}" in panel.strip.accessibleDescription()
    panel.history.dispose()
