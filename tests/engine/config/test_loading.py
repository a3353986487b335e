"""Configuration: defaults, line-precise errors, overrides, round trip."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.config import Config, FieldProblem, load_config, parse_config, preset_paths, validate_config
from so8t_engine.errors import ConfigError


def test_every_default_is_valid_and_survives_a_round_trip() -> None:
    config = Config()
    assert parse_config(config.to_yaml()) == config


@pytest.mark.parametrize("name", sorted(preset_paths()))
def test_presets_load(name: str) -> None:
    config = load_config(name)
    assert parse_config(config.to_yaml()).digest() == config.digest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training:\n  batch_size: 0\n", ["x.yaml:2", "training.batch_size", "at least 1"]),
        ("training:\n  learning_rate: abc\n", ["x.yaml:2", "training.learning_rate", "'abc'", "number"]),
        ("trainng:\n  a: 1\n", ["x.yaml:1", "trainng", "training?"]),
        ("training:\n  learning_rat: 1\n", ["x.yaml:2", "training.learning_rate?"]),
        ("lora:\n  r: 4\n  r: 5\n", ["x.yaml:3", "lora.r", "twice"]),
        ("model: [\n", ["x.yaml:2", "YAML"]),
        ("- 1\n", ["does not hold settings"]),
        ("data:\n  max_length: .nan\n", ["x.yaml:2", "data.max_length"]),
        ("model:\n  quantization: nf5\n", ["x.yaml:2", "nf4"]),
        ("schema_version: 99\n", ["newer version", "99"]),
        ("so8t:\n  pet_fractions: [1, 1, 1]\n", ["add up to 1"]),
        ("so8t:\n  gate_form: geodesic\n  rotation_map: free\n", ["geodesic"]),
        ("training:\n  epochs: .inf\n", ["training.epochs"]),
    ],
)
def test_a_wrong_file_names_line_field_and_mend(text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="x.yaml")
    for part in expected:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


def test_scientific_notation_without_a_dot_is_a_number() -> None:
    assert parse_config("training: {learning_rate: 2e-4}").training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("on", "on"),
        ("off", "off"),
        ('"on"', "on"),
        ("auto", "auto"),
        ("true", "on"),
        ("No", "off"),
        ("YES", "on"),
    ],
)
def test_a_switch_may_be_written_as_yaml_has_it(word: str, meant: str) -> None:
    """In YAML 1.1 a bare on and off are true and false."""
    assert parse_config(f"training: {{recorded_passes: {word}}}").training.recorded_passes == meant
    assert parse_config("", overrides=[f"training.recorded_passes={word}"]).training.recorded_passes == meant


@pytest.mark.parametrize(
    ("word", "meant"), [("on", True), ("Yes", True), ("true", True), ("off", False), ("NO", False)]
)
def test_what_is_true_or_false_takes_the_words_of_yaml_1_1(word: str, meant: bool) -> None:
    assert parse_config(f"training: {{packing: {word}}}").training.packing is meant


@pytest.mark.parametrize("text", ["1:30", "-1:30", "1:30.5", "0b11", "0o10", "yes", "2026-11-30", "="])
def test_what_yaml_1_1_makes_a_number_of_is_refused_as_it_is_written(text: str) -> None:
    """1:30 was 90, 0b11 was 3 and yes was 1."""
    with pytest.raises(ConfigError) as caught:
        parse_config(f"name: x\ntraining:\n  batch_size: {text}\n", name="x.yaml")
    assert str(caught.value).startswith(f"x.yaml:3: training.batch_size cannot be '{text}'.")
    with pytest.raises(ConfigError, match=f"cannot be '{text}'"):
        parse_config("", overrides=[f"training.batch_size={text}"])
    with pytest.raises(ConfigError, match=f"training.learning_rate cannot be '{text}'"):
        parse_config(f"training: {{learning_rate: {text}}}", name="x.yaml")


@pytest.mark.parametrize(
    ("text", "meant"), [("010", 10), ("0019", 19), ("+7", 7), ("0x10", 16), ("1_000", 1000), ("10", 10)]
)
def test_a_number_with_zeros_before_it_is_decimal(text: str, meant: int) -> None:
    assert parse_config(f"training: {{accumulation: {text}}}").training.accumulation == meant
    assert parse_config("", overrides=[f"training.accumulation={text}"]).training.accumulation == meant
    assert parse_config(f"so8t: {{gate_layers: [{text}]}}").so8t.gate_layers == [meant]


@pytest.mark.parametrize(
    "text", ["010", "09", "no", "On", "2026-11-30", "1_000", "0o10", "2e-4", "1.5e3", "0b1", "y"]
)
def test_a_name_stays_as_it_is_written_and_survives_a_round_trip(text: str) -> None:
    config = parse_config(f"name: {text}")
    assert config.name == text
    assert parse_config(config.to_yaml()) == config


@given(st.from_regex(r"\A[0-9a-fA-FoxeEyYnN:_.+\-]{1,8}\Z"))
def test_no_text_comes_back_as_something_else(text: str) -> None:
    """PyYAML writes by its own idea of a number: whatever is one here must be quoted there."""
    config = Config()
    changed = config.model_copy(update={"data": config.data.model_copy(update={"train": text})})
    assert parse_config(changed.to_yaml()).data.train == text


def test_a_key_may_be_any_word() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:1: on is not a known setting"):
        parse_config("on: 1", name="x.yaml")


def test_overrides_reach_the_field_and_their_errors_name_it() -> None:
    config = parse_config("", overrides=["training.batch_size=3", "model.path=some/folder"])
    assert (config.training.batch_size, config.model.path) == (3, "some/folder")
    with pytest.raises(ConfigError, match=r"--set: training\.batch_size"):
        parse_config("", name="x.yaml", overrides=["training.batch_size=0"])
    with pytest.raises(ConfigError, match="name=value"):
        parse_config("", overrides=["training.batch_size"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("run 7 #2.jsonl", "run 7 #2.jsonl"),
        ("#rows", "#rows"),
        ("&a rows", "&a rows"),
        ("!rows", "!rows"),
        (" rows ", "rows"),
        ("'a #b'", "a #b"),
        ('"a\\tb"', "a\tb"),
    ],
)
def test_a_text_override_stands_for_itself_to_its_end(given: str, meant: str) -> None:
    """YAML alone would cut the first at its comment and train on another file."""
    assert parse_config("", overrides=[f"data.train={given}"]).data.train == meant


@pytest.mark.parametrize("raw", ["9" * 5000, "[" * 3000, "{a: " * 500])
def test_an_override_that_yaml_cannot_take_is_a_config_error(raw: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_config("", overrides=[f"training.batch_size={raw}"])


def test_thousands_of_brackets_are_refused_at_once() -> None:
    """PyYAML takes half a minute for five thousand, and a file may hold a million."""
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"x\.yaml:2 is nested too deeply"):
        parse_config("so8t:\n  pet_weights: " + "[" * 5000, name="x.yaml")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("override", ["training.lora.r=1", "training..seed=1", "lora.targets=[1]"])
def test_an_override_is_named_as_the_place_of_its_error(override: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set: "):
        parse_config("", name="x.yaml", overrides=[override])


def test_a_missing_file_lists_the_presets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="demo"):
        load_config(tmp_path / "none.yaml")


def test_a_file_that_is_not_utf8_says_at_which_byte(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="byte 6"):
        load_config(file)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes("\ufeffname: here\n".encode())
    assert load_config(file).name == "here"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["training", "data", "so8t", "lora", "zzz"]), json_values))
def test_any_values_give_a_config_or_problems_that_name_a_field(values: dict[str, Any]) -> None:
    result = validate_config(values)
    if isinstance(result, Config):
        assert math.isfinite(result.training.learning_rate)
    else:
        assert result
        assert all(isinstance(p, FieldProblem) and p.path and p.sentence for p in result)


@given(st.text(max_size=60))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_config(text, name="x"), Config)


def test_the_digest_ignores_name_and_run_and_nothing_else() -> None:
    base = Config()
    assert parse_config("name: other\nrun: {cpu_threads: 1}").digest() == base.digest()
    assert parse_config("training: {seed: 1}").digest() != base.digest()


def test_a_gate_must_act_somewhere() -> None:
    with pytest.raises(ConfigError, match="at least one decoder layer") as caught:
        parse_config("so8t: {gate_final: false}", name="x")
    assert caught.value.exit_code == 2
    config = parse_config("so8t: {gate_final: false, gate_layers: [-1]}")
    assert (config.so8t.gate_layers, config.so8t.gate_site) == ([-1], "mlp")
