"""Field specs, number parsing and stepping, and the equivalent command."""

from __future__ import annotations

import shlex
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.config import Config, load_config, preset_paths, validate_config
from so8t_engine.memory.fit import with_changes
from so8t_gui.forms.command_line import equivalent_command
from so8t_gui.forms.fields import FieldSpec, flatten, form_groups, nest
from so8t_gui.forms.numbers import parse_number, stepped

SPECS = {field.path: field for group in form_groups() for field in group.fields}
NUMBERS = [spec for spec in SPECS.values() if spec.kind in {"int", "float"}]


def test_every_setting_has_a_field_with_title_and_help() -> None:
    assert set(SPECS) == set(flatten(Config().model_dump())) - {"schema_version"}
    assert all(spec.title and spec.help for spec in SPECS.values())


def test_bounds_units_scale_and_choices_come_from_the_declaration() -> None:
    rate, length = SPECS["training.learning_rate"], SPECS["data.max_length"]
    assert rate.log
    assert (rate.minimum, rate.open_minimum, rate.maximum) == (0.0, True, 1.0)
    assert (length.minimum, length.maximum, length.unit) == (16, 131072, "tokens")
    assert SPECS["model.quantization"].choices == ("nf4", "int8", "none")
    assert SPECS["data.max_rows"].optional
    assert SPECS["run.directory"].picks == "folder"
    assert SPECS["so8t.class_weights"].kind == "floats"
    assert (SPECS["so8t.gate_layers"].kind, SPECS["so8t.gate_layers"].default) == ("ints", [])
    assert SPECS["lora.dropout"].open_maximum


@given(st.dictionaries(st.from_regex(r"(s[0-9]\.){0,2}x[0-9]", fullmatch=True), st.integers()))
def test_nest_undoes_flatten(flat: dict[str, int]) -> None:
    assert flatten(nest(flat)) == flat


@given(st.sampled_from(NUMBERS), st.integers(1, 40), st.data())
def test_steps_never_leave_the_bounds(spec: FieldSpec, steps: int, data: st.DataObject) -> None:
    down = data.draw(st.booleans())
    value = stepped(spec, None, 1)
    for _step in range(steps):
        value = stepped(spec, value, -1 if down else 1)
        section, _, key = spec.path.partition(".")
        assert isinstance(validate_config({section: {key: value}}), Config), (spec.path, value)


@pytest.mark.parametrize(
    ("path", "value", "steps", "expected"),
    [
        ("training.learning_rate", 2e-4, 1, 5e-4),
        ("training.learning_rate", 5e-4, 1, 1e-3),
        ("training.learning_rate", 1e-4, -1, 5e-5),
        ("training.learning_rate", 1.0, 1, 1.0),
        ("training.batch_size", 1, -1, 1),
        ("training.batch_size", 1, 1, 2),
        ("data.max_length", 1000, 1, 1100),
        ("data.max_length", 1000, -1, 990),
        ("lora.dropout", 0.3, 1, 0.31),
    ],
)
def test_a_step_goes_to_the_next_round_value(path: str, value: float, steps: int, expected: float) -> None:
    assert stepped(SPECS[path], value, steps) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_shown_numbers_are_read_back_exactly(value: float) -> None:
    from so8t_gui.forms.fields import format_value

    assert parse_number(format_value(value), whole=False) == value


def test_a_text_that_is_no_number_stays_a_text() -> None:
    assert parse_number("abc", whole=True) == "abc"
    assert parse_number("1.5", whole=True) == "1.5"
    assert parse_number("  ", whole=True) is None
    assert parse_number("１２", whole=True) == 12


@pytest.mark.skipif(sys.platform == "win32", reason="quoted by another rule there")
@pytest.mark.parametrize(
    "changes",
    [
        {"training.learning_rate": 3e-5, "data.train": "my rows/it's.jsonl", "data.max_rows": 7},
        {"checkpoints.every_minutes": None, "lora.targets": ["o_proj"], "so8t.pet_weights": [0.0, 1.0, 2.5]},
        {"so8t.gate_layers": [0, -1], "so8t.gate_site": "attention", "so8t.gate_final": False},
        {"name": "実行 1", "training.gradient_checkpointing": False, "model.revision": "1.0"},
    ],
)
def test_the_command_means_the_same_settings(changes: dict[str, object]) -> None:
    base = load_config("phi35_8gb")
    wanted = with_changes(base, changes)
    for command in (equivalent_command(wanted, base, "phi35_8gb"), equivalent_command(wanted)):
        program, verb, source, *rest = shlex.split(command)
        assert (program, verb) == ("so8t", "train")
        assert source in preset_paths()
        assert rest[::2] == ["--set"] * (len(rest) // 2)
        assert load_config(source, rest[1::2]) == wanted
