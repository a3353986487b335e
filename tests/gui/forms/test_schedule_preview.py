"""The preview of the schedules: the trainer's own curves, called what they are, in step with the form."""

from __future__ import annotations

import gettext
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from so8t_engine import i18n
from so8t_engine.config import Config, load_config
from so8t_engine.config.training import PHI
from so8t_engine.data.dataset import load_splits
from so8t_engine.memory.fit import with_changes
from so8t_engine.so8t.schedule import GateSchedule, pet_weight_at, sigmoid
from so8t_engine.training.schedules import rate_factor
from so8t_gui.charts.schedule_preview import STALE_OPACITY, PreviewChart, SchedulePreview
from so8t_gui.models.known_rows import KnownRows
from so8t_gui.pages.settings_page import SettingsPage

KINDS = ["sigmoid", "linear", "phases", "learned"]
LEARNED = "target α*(t); α itself is learned"


def config_of(**changes: Any) -> Config:  # noqa: ANN401
    """Settings on rows that nobody has counted."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return with_changes(Config(), {"data.train": "my_rows.jsonl"} | named)


def curve(chart: PreviewChart, column: str) -> dict[float, float]:
    """What stands in the chart: x → y, as given to the plot."""
    x, y = chart._items[column].getOriginalDataset()
    return dict(zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True))


def axis(chart: PreviewChart) -> str:
    return str(chart.plot.getPlotItem().getAxis("bottom").labelText)


@pytest.fixture
def preview(qtbot: QtBot) -> SchedulePreview:
    card = SchedulePreview()
    qtbot.addWidget(card)
    card.resize(270, 700)
    return card


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 37, 600, 12_345])
def test_curves_are_the_schedules_of_the_engine(preview: SchedulePreview, kind: str, total: int) -> None:
    config = config_of(
        so8t__alpha_schedule=kind,
        so8t__alpha_start=-4.0,
        so8t__anneal_fraction=0.6,
        training__max_steps=total,
        training__warmup_ratio=0.2,
    )
    preview.show_config(config, None)
    schedule = GateSchedule(
        kind=kind,  # type: ignore[arg-type]
        alpha_start=-4.0,
        anneal_steps=max(1, round(0.6 * total)),
    )
    alpha, gate = curve(preview.alpha, "alpha"), curve(preview.gate, "gate")
    lora, so8t = curve(preview.rate, "lora_rate"), curve(preview.rate, "so8t_rate")
    pet = curve(preview.pet, "pet_weight")
    assert list(alpha) == list(gate) == list(lora) == list(pet) == sorted(alpha)
    assert min(alpha) == 1
    assert max(alpha) == total
    assert len(alpha) == total if total <= 600 else len(alpha) >= 600
    factor = rate_factor(config, total)
    for step in alpha:
        number = int(step)
        assert alpha[step] == schedule.alpha_at(number, total)
        assert gate[step] == sigmoid(alpha[step])
        assert lora[step] == factor(number - 1) * 2e-4
        assert so8t[step] == factor(number - 1) * 1e-3
        assert pet[step] == pet_weight_at(number - 1, total)


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_says_scheduled_or_target(preview: SchedulePreview, kind: str) -> None:
    preview.show_config(config_of(so8t__alpha_schedule=kind), None)
    learned = kind == "learned"
    assert preview.source.text() == (
        LEARNED if learned else "scheduled: assigned, proves nothing about convergence"
    )
    for chart, column in ((preview.alpha, "alpha"), (preview.gate, "gate")):
        series = chart._series[column]
        assert series.label.startswith("target") is learned
        assert series.dashed is learned
        assert (chart._items[column].opts["pen"].style() is Qt.PenStyle.DashLine) is learned
    assert ("constant" in preview.rate._legend.text().replace("\u2060", "")) is learned


def test_the_axis_says_steps_or_percent(preview: SchedulePreview) -> None:
    unknown = config_of()
    preview.show_config(unknown, None)
    assert all(axis(chart) == "% of the run" for chart in preview.charts)
    assert preview.note.text().startswith("Over percent of the run")
    assert max(curve(preview.alpha, "alpha")) == 100
    at_half = curve(preview.alpha, "alpha")[50.0]
    assert at_half == GateSchedule("learned", anneal_steps=800).alpha_at(500, 1000)
    preview.show_config(unknown, 100)  # 100 rows, batch 1, accumulation 4, 3 epochs
    assert all(axis(chart) == "optimizer step" for chart in preview.charts)
    assert preview.note.text() == "Over 75 optimizer steps."
    assert max(curve(preview.alpha, "alpha")) == 75
    preview.show_config(with_changes(unknown, {"training.max_steps": 20}), None)
    assert preview.note.text() == "Over 20 optimizer steps."


def test_phi_is_a_line_and_another_target_one_more(preview: SchedulePreview) -> None:
    preview.show_config(config_of(), None)
    assert preview.phi.value() == PHI
    assert not preview.target.isVisible()
    preview.show_config(config_of(so8t__alpha_target=3.0, so8t__alpha_schedule="linear"), None)
    assert preview.phi.value() == PHI
    assert preview.target.isVisible()
    assert preview.target.value() == 3.0
    assert "target 3" in preview.alpha._legend.text().replace("\u2060", "").replace("\u00a0", " ")
    low, high = preview.alpha.plot.getViewBox().viewRange()[1]
    assert low < -5.0
    assert high > 3.0


def test_readings_are_the_ends_the_peak_and_the_phases(preview: SchedulePreview) -> None:
    preview.show_config(config_of(so8t__alpha_schedule="linear", training__max_steps=500), None)

    def words(chart: PreviewChart) -> str:
        return chart._legend.text().replace("&#8288;", "").replace("\u00a0", " ")

    assert "-5 → 1.618" in words(preview.alpha)
    assert "0.7 % → 83.5 %" in words(preview.gate)
    assert "≤ 0.0002" in words(preview.rate)
    assert "≤ 0.001" in words(preview.rate)
    assert "0.01 → 0.05 → 0.1" in words(preview.pet)


def test_all_readings_and_axes_have_room(preview: SchedulePreview, qtbot: QtBot) -> None:
    preview.show()
    qtbot.waitExposed(preview)
    for width in (250, 300, 500):
        preview.resize(width, 750)
        preview.show_config(config_of(), None)
        qtbot.wait(20)
        for chart in preview.charts:
            assert chart._legend.height() >= chart._legend.heightForWidth(chart._legend.width())
            assert chart.plot.geometry().bottom() <= chart.rect().bottom()
            assert chart.plot.y() >= chart.readings.geometry().bottom()
    preview.hide()


# On the page


def type_into(qtbot: QtBot, page: SettingsPage, path: str, text: str) -> None:
    widget = page.form.rows[path].editor.focusProxy()
    assert widget is not None
    widget.setFocus()
    qtbot.keyClick(widget, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClick(widget, Qt.Key.Key_Delete)
    qtbot.keyClicks(widget, text)


def test_the_preview_follows_typing_after_the_debounce(qtbot: QtBot, page: SettingsPage) -> None:
    type_into(qtbot, page, "training.max_steps", "40")
    assert page.preview.note.text() != "Over 40 optimizer steps.", "not on each key"
    qtbot.waitUntil(lambda: page.preview.note.text() == "Over 40 optimizer steps.", timeout=1000)
    assert max(curve(page.preview.alpha, "alpha")) == 40


def test_a_wrong_setting_greys_the_last_curves_and_a_right_one_brings_them_back(
    qtbot: QtBot, page: SettingsPage
) -> None:
    before = curve(page.preview.alpha, "alpha")
    type_into(qtbot, page, "training.warmup_ratio", "7")
    assert page.config() is None
    assert curve(page.preview.alpha, "alpha") == before
    assert page.preview.alpha._items["alpha"].opacity() == STALE_OPACITY
    assert page.preview.note.text().startswith("A setting is wrong")
    type_into(qtbot, page, "training.warmup_ratio", "0.1")
    assert page.config() is not None
    assert page.preview.alpha._items["alpha"].opacity() == 1.0
    assert "wrong" not in page.preview.note.text()


def test_without_any_right_settings_there_is_a_sentence_and_no_chart(preview: SchedulePreview) -> None:
    preview.show_stale()
    assert preview.note.text() == "There is no preview while a setting is wrong."
    assert all(chart.isHidden() for chart in preview.charts)


def test_the_wheel_over_a_chart_is_the_pages(page: SettingsPage) -> None:
    for chart in page.preview.charts:
        assert chart.plot.testAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)


def test_a_change_of_language_reaches_the_preview(
    qtbot: QtBot, fitting: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are built anew in another language; whatever a catalogue says is shown, and no English stays."""

    class Marked(gettext.NullTranslations):
        def gettext(self, message: str) -> str:
            return f"«{message}»"

    monkeypatch.setattr(i18n, "_catalogue", Marked())
    page = SettingsPage()
    qtbot.addWidget(page)
    page.set_config(fitting)
    card = page.preview
    texts = [card.title.text(), card.source.text(), card.note.text(), axis(card.alpha)]
    texts += [chart._title.text() for chart in card.charts]
    texts += [card.alpha._series["alpha"].label, card.rate._series["so8t_rate"].label]
    assert all(text.startswith("«") for text in texts), texts


# How many rows


def test_embedded_rows_are_counted_as_the_trainer_reads_them() -> None:
    config = load_config("demo")
    splits = load_splits(
        config.data.train,
        None,
        fmt="auto",
        validation_fraction=0.1,
        seed=config.training.seed,
        max_rows=None,
    )
    assert KnownRows().rows(config) == len(splits.train)
    assert KnownRows().rows(with_changes(config, {"data.max_rows": 17})) == 17


def test_own_rows_are_known_after_a_run_and_only_for_the_same_choice_of_rows() -> None:
    known, config = KnownRows(), config_of()
    assert known.rows(config) is None
    assert not known.learn(config, {"rows_train": "many"})
    assert known.learn(config, {"rows_train": 123})
    assert not known.learn(config, {"rows_train": 123})
    assert known.rows(with_changes(config, {"training.epochs": 9.0})) == 123
    for path, value in (("data.train", "other.jsonl"), ("data.max_rows", 5), ("training.seed", 1)):
        assert known.rows(with_changes(config, {path: value})) is None


def test_a_wrong_embedded_name_is_unknown() -> None:
    assert KnownRows().rows(config_of(data__train="embedded:nowhere")) is None


def test_the_preview_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from so8t_gui import app, theme\n"
        "from so8t_gui.pages.settings_page import SettingsPage\n"
        "a = app.make_application(['so8t-gui']); theme.apply(a, 'light')\n"
        "page = SettingsPage()\n"
        "assert page.preview.note.text()\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
