"""Presidio: what is asked of it and what is made of its answers; with the real one where it is installed.

A language model is taken from SO8T_TEST_SPACY_MODEL (a package or a folder), else en_core_web_lg, _md or _sm.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.preprocess import presidio
from so8t_engine.pipeline.preprocess.personal import find, mask
from so8t_engine.pipeline.steps.preprocess import PreprocessStep


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


MODELS = (os.environ.get("SO8T_TEST_SPACY_MODEL"), "en_core_web_lg", "en_core_web_md", "en_core_web_sm")
MODEL = next((name for name in MODELS if name and (Path(name).is_dir() or _installed(name))), None)


class _Analyser:
    """Finds ``words`` as names, and notes the texts it was asked about."""

    def __init__(self, *words: str) -> None:
        self.words, self.asked = words, list[str]()

    def analyze(self, text: str, **_settings: Any) -> list[Any]:  # noqa: ANN401
        self.asked.append(text)
        return [
            SimpleNamespace(entity_type="PERSON", start=text.index(word), end=text.index(word) + len(word))
            for word in self.words
            if word in text
        ]


@pytest.fixture
def analyser(monkeypatch: pytest.MonkeyPatch) -> _Analyser:
    made = _Analyser()
    monkeypatch.setattr(presidio, "_analyser", lambda _model: (made, ["PERSON"]))
    return made


def test_a_name_that_runs_into_an_address_is_masked(analyser: _Analyser) -> None:
    analyser.words = ("Mary Johnson mary@example.com",)
    text = "Dear Mary Johnson mary@example.com, hello."
    assert mask(text, find(text, "m")) == "Dear [PERSON] [EMAIL], hello."


def test_an_english_model_is_not_asked_about_japanese(analyser: _Analyser) -> None:
    analyser.words = ("John Smith",)
    assert (
        find("長谷川さん（権限を持つ係員の方）から配達の帳面を預かり、John Smith に届けてください。", "m")
        == []
    )
    assert analyser.asked == []
    text = "Please give the book to 長谷川さん and to John Smith."
    assert mask(text, find(text, "m")) == "Please give the book to 長谷川さん and to [PERSON]."
    assert analyser.asked == ["Please give the book to       and to John Smith."]


def test_long_texts_are_asked_in_parts(analyser: _Analyser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presidio, "WINDOW", 40)
    analyser.words = ("Ann Lee",)
    text = " ".join(["some words"] * 9 + ["Ann Lee", "met", "us"])
    assert mask(text, find(text, "m")) == text.replace("Ann Lee", "[PERSON]")
    assert len(analyser.asked) > 2
    assert "".join(analyser.asked) == text
    assert list(presidio._windows("x" * 100)) == [(0, 40), (40, 80), (80, 100)]


def test_what_is_missing_is_told_when_the_pipeline_is_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def step(**settings: Any) -> PreprocessStep:  # noqa: ANN401
        return PreprocessStep(PipelineConfig.model_validate({"preprocess": settings}))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(presidio, "find_spec", lambda _name: None)
    assert step().external_inputs() == {}
    assert step(presidio=True, personal_data="keep").external_inputs() == {}
    with pytest.raises(PipelineError, match="Presidio is not installed"):
        step(presidio=True).external_inputs()
    monkeypatch.setattr(presidio, "find_spec", lambda _name: object())
    with pytest.raises(PipelineError, match="model no_such_model for Presidio is not installed") as caught:
        step(presidio=True, presidio_model="no_such_model").external_inputs()
    assert "spacy download no_such_model" in str(caught.value.mend)


needs_presidio = pytest.mark.skipif(
    MODEL is None or presidio.find_spec("presidio_analyzer") is None,
    reason="Presidio (extra 'presidio') or a language model of spaCy is not installed",
)


@needs_presidio
def test_the_real_presidio(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MODEL is not None
    presidio._analyser.cache_clear()
    monkeypatch.delenv("PRESIDIO_DEVICE", raising=False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_args, **_named: pytest.fail("the network was asked"))
    assert presidio.require(MODEL).startswith("presidio-analyzer 2.")

    def masked(text: str) -> str:
        return mask(text, find(text, MODEL))

    assert masked("My name is John Smith, my mail is a@b.co.") == "My name is [PERSON], my mail is [EMAIL]."
    mixed = masked("Dear Mary Johnson mary.johnson@example.com, please call.")
    assert mixed == "Dear [PERSON] [EMAIL], please call."
    assert masked("My IBAN is DE89370400440532013000.") == "My IBAN is [IBAN]."
    for kept in (
        "What is the capital of Japan? Japanese people eat rice for two hours every Monday.",
        "おはようございます。見本の箱を送ってください。保険の窓口がボランティアの人たちへの是非について疑問を残したのは先週です。",
        "def f(x):\n    return x + 1\n\nprint(f(3))",
    ):
        assert masked(kept) == kept
    assert os.environ["PRESIDIO_DEVICE"] == "cpu"
    long = "It was a good day. " * 60_000 + "John Smith agreed."  # more than spaCy takes at once
    assert len(long) > 1_000_000
    monkeypatch.setattr(presidio, "_windows", lambda text: [*_windows_of(text)][-1:])
    assert masked(long).endswith("[PERSON] agreed.")


_windows_of = presidio._windows


@needs_presidio
def test_a_model_that_knows_no_names_is_refused(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(PipelineError, match="knows no names of people"):
        find("My name is John Smith.", str(tmp_path / "blank"))
    (tmp_path / "blank" / "config.cfg").write_text("nonsense", "utf-8")
    presidio._analyser.cache_clear()
    with pytest.raises(PipelineError, match="cannot be loaded"):
        find("My name is John Smith.", str(tmp_path / "blank"))
    assert "spacy" in sys.modules
