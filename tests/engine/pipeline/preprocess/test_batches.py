"""What is done for many texts at once equals what each text gives alone, by slower means."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.pipeline.preprocess import nsfw, text
from so8t_engine.pipeline.preprocess.language import CONSIDERED, _model, detect, detect_all
from so8t_engine.pipeline.preprocess.signs import count_signs
from tests.benchmarks.bench_preprocess import texts

SIGNS = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(
            "あアｱ漢字一龥abcXYZ 019٣①²、。「」ー_\u200b\u3000\ufeff\u2028\n\r\t\u0301か\u3099が😀𠮷"
        ),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(SIGNS, max_size=6), st.integers(1, 30))
def test_signs_are_counted_as_str_and_re_see_them(many: list[str], look: int) -> None:
    for one, found in zip(many, count_signs(many, look), strict=True):
        sample = one[:look]
        assert found.looked == len(sample)
        assert found.alnum == sum(map(str.isalnum, sample))
        assert found.digits == sum(map(str.isdigit, sample))
        assert found.letters == len(re.findall(r"[^\W\d_]", sample))
        assert found.kana == len(re.findall(r"[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]", sample))
        assert found.han == len(re.findall(r"[\u4e00-\u9fff]", sample))


def test_the_batched_model_answers_as_the_library_does() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    library = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    library.set_languages(CONSIDERED)
    samples = [one[:200] for one, _language, _kind, _of in texts(120, 5)]
    samples += [
        "",
        "1 2 3",
        "HELLO WORLD",
        "Der Hund schläft im Garten.",
        "今天天气很好",
        "Привет, мир",
        "é" * 50,
    ]
    for sample, (code, confidence) in zip(samples, _model().classify(samples), strict=True):
        wanted, sure = library.classify(sample)
        assert code == wanted or abs(confidence - sure) < 1e-6  # nothing known: all alike
        assert confidence == pytest.approx(sure, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SIGNS, st.sampled_from([None, "en", "ja", "xx"])), max_size=5))
def test_a_text_is_judged_alike_alone_and_among_others(many: list[tuple[str, str | None]]) -> None:
    together = detect_all([one for one, _code in many], [code for _one, code in many])
    assert together == [detect(one, code) for one, code in many]


@settings(max_examples=300, deadline=None)
@given(SIGNS, st.sampled_from(["nfc", "nfkc"]))
def test_the_short_way_of_normalising_ends_where_the_long_one_does(one: str, form: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_ODD", re.compile(""))  # matches everywhere: the long way
        long = text.normalise(one, form)
    assert text.normalise(one, form) == long


WORDS = [
    "porno",
    "xxx",
    "Hentai",
    "NSFW",
    "blowjob",
    "hand",
    "jobs",
    "cumshot",
    "gang",
    "bang",
    "masturbating",
    "orgasms",
    "erotica",
    "sexual",
    "act",
    "sex",
    "scene",
    "nude",
    "photos",
    "strip",
    "tease",
    "fetishes",
    "dildo",
    "vibrators",
    "escort",
    "service",
    "sexting",
    "explicit",
    "sexuality",
    "job",
    "shot",
    "性交",
    "エロ動画",
    "アダルトビデオ",
    "ヌード写真",
    "盗撮",
    "裸の写真",
    "エロ",
    "essex",
    "bang",
    "sussex",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*WORDS, "K", "ſex", "SEXTING", "日本語"]), max_size=4),
    st.sampled_from([" ", "", "、"]),
)
def test_the_stems_miss_nothing(words: list[str], joint: str) -> None:
    one = joint.join(words)
    full = bool(nsfw._ENGLISH.search(one) or nsfw._JAPANESE.search(one))
    assert nsfw.is_nsfw(one) == full
