"""The catalogues hold every message, keep its placeholders and are compiled as they stand."""

from __future__ import annotations

import ast
import gettext
import importlib.util
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from so8t_engine import i18n
from so8t_engine.data.reader import read_rows
from so8t_engine.errors import DataError

pytest.importorskip("babel", reason="babel, a development tool, extracts the messages")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "resources" / "build" / "translations.py"
TRANSLATED = [code for code in i18n.LANGUAGES if code != "en"]
# A conversion of the % operator: an optional name, flags, width, precision and the type.
CONVERSION = re.compile(r"%(?:\((?P<name>[^)]*)\))?(?P<how>[#0+-]*(?:\d+|\*)?(?:\.(?:\d+|\*))?[a-zA-Z%])")
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_translations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The script that extracts, merges and compiles."""
    return _script()


@pytest.fixture(scope="module")
def messages(build: ModuleType) -> dict[str, list[str]]:
    """Each message of the source code → the files that hold it."""
    return {str(m.id): [place for place, _line in m.locations] for m in build.extract() if m.id}


@pytest.fixture
def language() -> Iterator[None]:
    """Whatever language a test switches to, the one before it comes back."""
    before = i18n.language()
    yield
    i18n.set_language(before)


def _placeholders(text: str) -> Counter[tuple[str | None, str]]:
    return Counter((found["name"], found["how"]) for found in CONVERSION.finditer(text))


def _loaded(code: str) -> gettext.GNUTranslations:
    found = gettext.translation(i18n.DOMAIN, localedir=str(ROOT / "resources" / "locale"), languages=[code])
    assert isinstance(found, gettext.GNUTranslations)
    return found


def test_messages_of_engine_and_window_are_extracted(messages: dict[str, list[str]]) -> None:
    packages = {place.split("/")[0] for places in messages.values() for place in places}
    assert packages == {"so8t_engine", "so8t_gui"}
    # One of each way to mark a message: `_` where it is shown, `N_` where it is only named.
    assert "so8t_engine/data/textfile.py" in messages["%(path)s is empty."]
    assert "so8t_engine/config/training.py" in messages["Learning rate of LoRA"]


def test_each_marked_message_is_a_plain_literal() -> None:
    """An f-string or a filled-in text under ``_`` is never found in a catalogue."""
    wrong = []
    for package in ("so8t_engine", "so8t_gui"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id in ("_", "N_") and any(
                    isinstance(one, ast.JoinedStr | ast.BinOp) for one in node.args
                ):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, wrong


@pytest.mark.parametrize("code", TRANSLATED)
def test_every_message_has_a_translation(code: str, messages: dict[str, list[str]]) -> None:
    catalogue = _loaded(code)
    # Asked for an unknown message, gettext answers with the message itself; the mapping does not.
    held = catalogue._catalog  # type: ignore[attr-defined]
    missing = sorted(message for message in messages if not held.get(message, "").strip())
    assert not missing, missing


def test_japanese_is_japanese(messages: dict[str, list[str]]) -> None:
    """A translation without a Japanese letter is allowed only where it is a name or a sign alone."""
    catalogue = _loaded("ja")
    copied = [m for m in messages if " " in m and not JAPANESE.search(catalogue.gettext(m))]
    # "VRAM 5.1 / 8.0 GiB" and its like: placeholders, units and names, no words.
    words = [
        m
        for m in copied
        if re.search(r"[A-Za-z]{3,}", CONVERSION.sub("", m).replace("VRAM", "").replace("GiB", ""))
    ]
    assert not words, words


#: Half-width brackets that are no punctuation: a menu's key, a file filter, a function's argument or a
#: power (σ(α), SO(8), (α − α*)²), a shape ((8, 8), (64,)).
NO_PUNCTUATION = re.compile(
    r"\(&.\)|\(\*(?:\.\w+)?(?: \*\.\w+)*\)|(?<=[A-Za-zα-ω*])\([^()\u3040-\u30ff\u4e00-\u9fff%]*\)"
    r"|\([^()]*\)(?=²)|\([^()]*,(?: [^()]*)?\)"
)


def test_japanese_has_one_style_of_brackets(messages: dict[str, list[str]]) -> None:
    """Full-width ones, without spaces beside them."""
    catalogue = _loaded("ja")
    plain = {m: re.sub(r"%\(\w+\)", "%", catalogue.gettext(m)) for m in messages}
    half = [text for text in plain.values() if re.search(r"[()]", NO_PUNCTUATION.sub("", text))]
    assert not half, half
    apart = [text for text in plain.values() if re.search(r"\S （|） [\u3040-\u30ff\u4e00-\u9fff]", text)]
    assert not apart, apart
    assert sum("（" in text for text in plain.values()) > 100


@pytest.mark.parametrize("code", TRANSLATED)
def test_placeholders_are_the_same(code: str, messages: dict[str, list[str]]) -> None:
    catalogue = _loaded(code)
    differing = {
        message: catalogue.gettext(message)
        for message in messages
        if _placeholders(message) != _placeholders(catalogue.gettext(message))
    }
    assert not differing, differing


@pytest.mark.parametrize("code", TRANSLATED)
def test_positional_placeholders_are_at_most_one(code: str, messages: dict[str, list[str]]) -> None:
    """Words change their order between languages, so two values need names."""
    several = [
        message
        for message in messages
        if sum(n for (name, how), n in _placeholders(message).items() if name is None and how[-1] != "%") > 1
    ]
    assert not several, several


@pytest.mark.parametrize("code", TRANSLATED)
def test_compiled_catalogue_is_what_the_text_compiles_to(code: str, build: ModuleType) -> None:
    compiled = io.BytesIO()
    build.write_mo(compiled, build.read(code))
    compiled.seek(0)
    expected = gettext.GNUTranslations(compiled)._catalog  # type: ignore[attr-defined]
    held = _loaded(code)._catalog  # type: ignore[attr-defined]
    # The empty key is the header, whose lines gettext parses.
    assert held == expected
    assert len(held) > 500


@pytest.mark.parametrize("code", TRANSLATED)
def test_no_translation_is_left_over(code: str, build: ModuleType, messages: dict[str, list[str]]) -> None:
    """The stored catalogue holds the source code's messages and no other."""
    assert sorted(build.pairs(build.read(code))) == sorted(messages)


@pytest.mark.usefixtures("language")
def test_engine_error_comes_out_in_the_language(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a", "task": "MAYBE"}\n', "utf-8")

    i18n.set_language("ja")
    with pytest.raises(DataError) as japanese:
        read_rows(str(file))
    i18n.set_language("en")
    with pytest.raises(DataError) as english:
        read_rows(str(file))

    assert japanese.value.sentence == f"{file} の 2 行目、フィールド「task」: 値がタスクではありません。"
    assert japanese.value.mend == (
        "ALLOW、ESCALATION、DENY、REFUSE のいずれか、またはこの順に 0〜3 の数を書くか、空欄にしてください。"
    )
    assert english.value.sentence == f"{file}, line 2, field 'task': the value is no task."
    assert english.value.mend.startswith("Write ALLOW, ESCALATION, DENY or REFUSE")


@pytest.mark.usefixtures("language")
def test_missing_file_is_named_in_both_languages(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jsonl"
    for code, sentence in (("ja", f"ファイル {gone} がありません。"), ("en", f"There is no file {gone}.")):
        i18n.set_language(code)
        with pytest.raises(DataError) as raised:
            read_rows(str(gone))
        assert raised.value.sentence == sentence


@pytest.mark.usefixtures("language")
def test_unknown_message_and_unknown_language_fall_back_to_english() -> None:
    i18n.set_language("ja")
    assert i18n._("No catalogue holds this sentence.") == "No catalogue holds this sentence."
    i18n.set_language("xx")
    assert i18n.language() == "en"
    assert i18n._("Learning rate") == "Learning rate"
