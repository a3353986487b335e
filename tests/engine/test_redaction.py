"""Secrets reach no event, log, error text or configuration; figures that look a little like one stay."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from so8t_engine.config import Config, load_config, validate_config
from so8t_engine.errors import ConfigError, RunError
from so8t_engine.redaction import REMOVED, RedactingFormatter, RedactingStream, is_secret_name, redact
from so8t_engine.training.events import ErrorEvent, InfoEvent, SampleEvent, StepEvent, WarningEvent
from so8t_engine.training.run_directory import EventWriter, RunDirectory

# Put together here, so that no scanner takes this file for a leak.
HUB = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
SECRETS = [
    HUB,
    "sk-" + "proj-abcdEFGH1234ijklMNOP",
    "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345",
    "glpat-" + "abcdEFGH1234ijklMNOP",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "eyJhbGciOiJI" + "UzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
]
SPOKEN = [
    ("Authorization: Bearer abcdef0123456789abcdef", "abcdef0123456789abcdef"),
    ("https://me:pa55word@host/x", "pa55word"),
    ("https://h/x?X-Amz-Signature=0123456789abcdef0123", "0123456789abcdef0123"),
    ('{"token": "abcDEF0123456789xyz"}', "abcDEF0123456789xyz"),
    ("api_key=abcdefghijklmnop", "abcdefghijklmnop"),
    ("password: correcthorsebattery", "correcthorsebattery"),
]
HARMLESS = [
    "5,600 tokens/s, token: 1234567890123456",
    '{"tokens": 123456789012345, "tokens_per_s": 812.123456789012}',
    "The tokenizer of microsoft/Phi-3.5-mini-instruct has no token <|end|>.",
    "rotations/step-00000012.safetensors task-specific-learning-rates",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "https://huggingface.co/microsoft/Phi-3.5-mini-instruct",
    "the secret of the run",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["%s", "error 401 for %s.", '{"a": "%s"}', "x=%s&y", "(%s)", "\n%s\n"])
def test_known_tokens_are_removed_from_any_text(secret: str, around: str) -> None:
    text = redact(around % secret)
    assert secret not in text
    assert text == around % REMOVED


@pytest.mark.parametrize(("text", "secret"), SPOKEN)
def test_what_is_said_to_be_a_secret_is_removed(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert REMOVED in redact(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_figures_and_names_stay(text: str) -> None:
    assert redact(text) == text


def test_the_environments_own_secrets_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "an unusual token")
    monkeypatch.setenv("MY_API_KEY", "swordfish-swordfish")
    assert redact("got an unusual token and swordfish-swordfish") == f"got {REMOVED} and {REMOVED}"


def test_events_and_errors_hold_no_secret(tmp_path: Path) -> None:
    run = RunDirectory.create(Config(), tmp_path / "run")
    writer = EventWriter(run)
    writer.write(ErrorEvent(kind="x", sentence=f"401 for {HUB}", mend=f"https://u:{HUB}@h/"))
    writer.write(WarningEvent(kind="x", sentence=f"Bearer {HUB}"))
    writer.write(InfoEvent(facts={"url": f"https://h/?token={HUB}", "list": [HUB, 3]}))
    writer.write(SampleEvent(step=1, prompt=HUB, text=f'"{HUB}"'))
    writer.close()
    text = run.events.read_text(encoding="utf-8")
    assert HUB not in text
    assert [json.loads(line)["type"] for line in text.splitlines()] == ["error", "warning", "info", "sample"]
    assert len(run.read_events()) == 4
    error = RunError(f"The Hub refused {HUB}.", f"Use another than {HUB}.")
    assert HUB not in error.sentence + error.mend + str(error)


def test_a_step_is_written_as_it_was(tmp_path: Path) -> None:
    run = RunDirectory.create(Config(), tmp_path / "run")
    step = StepEvent(
        step=1, of=2, epoch=0.5, loss=1.25, terms={"lm": 1.25}, raw={"lm": 1.25}, lr=1e-4, grad_norm=1.0,
        tokens=123456789, tokens_per_s=1234567.890123, step_s=0.1,
    )  # fmt: skip
    writer = EventWriter(run)
    written = writer.write(step)
    writer.close()
    assert run.read_events() == [written]


def test_log_lines_and_tracebacks_hold_no_secret() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    record = logging.getLogger("so8t-redaction-test")
    record.addHandler(handler)
    record.propagate = False
    try:
        raise ValueError(f"refused: {HUB}")
    except ValueError:
        record.exception("no access with %s", HUB)
    assert HUB not in stream.getvalue()
    assert stream.getvalue().count(REMOVED) == 2


def test_a_redacting_stream_keeps_lines_whole() -> None:
    target = io.StringIO()
    stream = RedactingStream(target)
    for part in ("a token ", HUB[:10], HUB[10:], " b\nnext", " line"):
        stream.write(part)
    stream.flush()
    assert target.getvalue() == f"a token {REMOVED} b\nnext line"


def test_what_a_trainer_prints_holds_no_secret(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    code = f"import sys\nprint('printed {HUB}')\nraise ImportError('no access with {HUB}')\n"
    (broken / "torch.py").write_text(code, encoding="utf-8")
    run = RunDirectory.create(load_config("demo"), tmp_path / "run")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "so8t_engine.training.child", str(run.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(broken), root])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert HUB not in done.stdout + done.stderr + run.events.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["hub_token", "api_key", "password", "hf_token", "access_key"])
def test_settings_do_not_hold_secrets(name: str, tmp_path: Path) -> None:
    assert is_secret_name(name)
    for text in (f"{name}: {HUB}", f"model:\n  {name}: {HUB}", f"model:\n  path: https://u:{HUB}@h/m"):
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as raised:
            load_config(file)
        assert HUB not in str(raised.value)
        assert "hf auth login" in raised.value.mend
    with pytest.raises(ConfigError) as raised:
        load_config("demo", [f"data.train={HUB}"])
    assert HUB not in str(raised.value)
    assert isinstance(validate_config({"data": {"train": HUB}}), list)


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _field_names(field.annotation)
    return names


def test_no_setting_of_ours_would_hold_a_secret() -> None:
    assert [name for name in _field_names(Config) if is_secret_name(name)] == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_run_folder_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        run = RunDirectory.create(Config(), tmp_path / "runs" / "one")
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        empty = tmp_path / "empty"
        empty.mkdir(mode=0o755)
        RunDirectory.create(Config(), empty)
        assert stat.S_IMODE(empty.stat().st_mode) == 0o700
        filled = tmp_path / "filled"
        filled.mkdir(mode=0o755)
        (filled / "mine.txt").write_text("x", encoding="utf-8")
        RunDirectory.create(Config(), filled)
        assert stat.S_IMODE(filled.stat().st_mode) == 0o755, "a folder that a person filled stays as it is"
    finally:
        os.umask(old)
