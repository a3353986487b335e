"""The card in the status bar: figures where the driver gives them, a warning when hot or full."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from so8t_engine.memory.nvml import NvmlMissing, NvmlReading
from so8t_gui.forms import colours
from so8t_gui.widgets import card_label
from so8t_gui.widgets.card_label import CardLabel

GIB = 2**30


def _label(qtbot: QtBot, patch: pytest.MonkeyPatch, reading: NvmlReading | NvmlMissing) -> CardLabel:
    patch.setattr(card_label, "read_memory", lambda: reading)
    label = CardLabel()
    qtbot.addWidget(label)
    return label


def _warns(label: CardLabel) -> bool:
    return colours.bad(label.palette()).name() in label.styleSheet()


@pytest.mark.parametrize(
    ("used", "degrees", "warns"), [(4, 60.0, False), (4, 75.0, True), (7.7, 60.0, True), (4, None, False)]
)
def test_it_warns_of_heat_and_of_a_full_card(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, used: float, degrees: float | None, warns: bool
) -> None:
    reading = NvmlReading(int(used * GIB), 8 * GIB, 0, "RTX 3060", degrees, 0.5, 120.0, ("power limit",))
    label = _label(qtbot, monkeypatch, reading)
    assert _warns(label) == warns
    assert ("font-weight: 600" in label.styleSheet()) == warns
    assert "50%" in label.text()
    assert "120 W" in label.text()
    assert "slowed down: power limit" in label.text()
    assert ("°C" in label.text()) == (degrees is not None), "a missing reading is left out"


def test_without_a_card_it_says_so(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    label = _label(qtbot, monkeypatch, NvmlMissing("no driver"))
    assert "no NVIDIA card" in label.text()
    assert label.toolTip() == "no driver"
