"""Presidio's recognisers: names of people and numbers of documents and accounts, in English text. An extra.

Presidio alone would fetch a language model of hundreds of megabytes, take a part of the graphics card in each
worker and ask the network for a list of domains; here it works with what is installed, and on the processor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from so8t_engine.i18n import _
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.store import sha256_file

#: Presidio's entity → the kind written in its place. Left out: what names nobody and whose loss spoils texts
#: (dates, places, organisations, nationalities, addresses of pages), and e-mail, which the built-in
#: recogniser finds without the network.
KINDS = {
    "PERSON": "PERSON",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CARD",
    "IP_ADDRESS": "IP",
    "MAC_ADDRESS": "MAC_ADDRESS",
    "IBAN_CODE": "IBAN",
    "CRYPTO": "CRYPTO",
    "US_SSN": "US_SSN",
    "US_ITIN": "US_ITIN",
    "US_PASSPORT": "US_PASSPORT",
    "US_DRIVER_LICENSE": "US_DRIVER_LICENSE",
    "US_BANK_NUMBER": "US_BANK_NUMBER",
    "UK_NHS": "UK_NHS",
    "MEDICAL_LICENSE": "MEDICAL_LICENSE",
}
#: Labels of spaCy's models for people.
_PEOPLE = {"PERSON": "PERSON", "PER": "PERSON"}
#: Whatever is neither Latin nor general punctuation: an English model takes a Japanese sentence for a name.
_OTHER_SCRIPTS = re.compile(r"[^\u0000-\u024f\u1e00-\u1eff\u2000-\u206f]")
#: Characters that are given to it at once; spaCy refuses a million and needs a gigabyte for them.
WINDOW = 50_000


def require(model: str) -> str:
    """Versions of Presidio and of the language model, which is a spaCy package or a folder. Cheap.

    Raises:
        PipelineError: one of them is not there.
    """
    if find_spec("presidio_analyzer") is None:
        raise PipelineError(
            _("Presidio is not installed."),
            _("Install the extra 'presidio', or switch preprocess.presidio off."),
        )
    folder = Path(model).expanduser()
    try:
        stated = version(model)
    except (PackageNotFoundError, ValueError):
        if not (folder / "meta.json").is_file():
            raise PipelineError(
                _("The language model %(model)s for Presidio is not installed.") % {"model": model},
                _(
                    "Install it with: python -m spacy download %(model)s, or name another in "
                    "preprocess.presidio_model."
                )
                % {"model": model},
            ) from None
        stated = sha256_file(folder / "meta.json")
    return f"presidio-analyzer {version('presidio-analyzer')}, {model} {stated}"


def recognise(text: str, model: str) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of what Presidio finds; nothing in texts that are mostly of another script.

    Raises:
        PipelineError: Presidio or its model is not there.
    """
    letters = sum(map(str.isalpha, text))
    latin = _OTHER_SCRIPTS.sub(" ", text)
    if not letters or 2 * sum(map(str.isalpha, latin)) < letters:
        return
    analyser, entities = _analyser(model)
    for start, end in _windows(latin):
        for one in analyser.analyze(
            text=latin[start:end], language="en", entities=entities, score_threshold=0.6
        ):
            yield KINDS[one.entity_type], start + one.start, start + one.end


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Parts of at most `WINDOW` characters, cut between words where there is a space."""
    start = 0
    while start < len(text):
        end = start + WINDOW
        if end < len(text):
            cut = max(text.rfind(sign, start + WINDOW // 2, end) for sign in "\n ")
            end = end if cut < 0 else cut + 1
        yield start, min(end, len(text))
        start = end


@cache
def _analyser(model: str) -> tuple[Any, list[str]]:
    """Presidio's engine and the entities it is asked for."""
    require(model)
    # Otherwise each worker would open a context on the graphics card.
    os.environ.setdefault("PRESIDIO_DEVICE", "cpu")
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine

        people = NerModelConfiguration(model_to_presidio_entity_mapping=dict(_PEOPLE))
        language = SpacyNlpEngine(
            models=[{"lang_code": "en", "model_name": model}], ner_model_configuration=people
        )
        language.load()
    except (ImportError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PipelineError(
            _("The language model %(model)s for Presidio cannot be loaded: %(reason)s")
            % {"model": model, "reason": lines[0]},
            _("Install a version of it that fits spaCy's, or switch preprocess.presidio off."),
        ) from error
    pipeline = language.nlp["en"]
    labels = pipeline.get_pipe("ner").labels if pipeline.has_pipe("ner") else ()
    if not _PEOPLE.keys() & set(labels):
        raise PipelineError(
            _("The language model %(model)s knows no names of people.") % {"model": model},
            _("Name one with a part 'ner', such as en_core_web_lg, in preprocess.presidio_model."),
        )
    people.labels_to_ignore = [label for label in labels if label not in _PEOPLE]
    pipeline.select_pipes(disable=[name for name in pipeline.pipe_names if name in ("parser", "senter")])
    engine = AnalyzerEngine(nlp_engine=language, supported_languages=["en"])
    return engine, sorted(KINDS.keys() & set(engine.get_supported_entities("en")))
