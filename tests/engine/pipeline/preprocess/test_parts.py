"""The parts of preprocessing, each by itself."""

# ruff: noqa: E501  (tables)
from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.data.labels import Task
from so8t_engine.data.similarity import shingles
from so8t_engine.pipeline.preprocess import nsfw
from so8t_engine.pipeline.preprocess.language import detect
from so8t_engine.pipeline.preprocess.personal import find, fold, luhn, mask, my_number
from so8t_engine.pipeline.preprocess.quality import defect
from so8t_engine.pipeline.preprocess.signatures import band_keys, estimated, signatures, sketch, token_hashes
from so8t_engine.pipeline.preprocess.splits import assign
from so8t_engine.pipeline.preprocess.text import normalise, pieces
from so8t_engine.pipeline.preprocess.weak import doubt, propose
from tests.engine.pipeline.preprocess import borrowed
from tests.engine.pipeline.preprocess.planted import measure

TEXT = st.text(max_size=200)


@given(TEXT, st.sampled_from(["nfc", "nfkc"]))
def test_normalising_twice_changes_nothing(text: str, form: str) -> None:
    once = normalise(text, form)
    assert normalise(once, form) == once
    assert unicodedata.is_normalized(form.upper(), once)  # type: ignore[arg-type]
    assert not any(unicodedata.category(sign) in {"Cc", "Cs"} and sign != "\n" for sign in once)


def test_normalising() -> None:
    assert normalise("か\u3099\u200bく\r\n\r\n\r\n\r\nx\u00a0 \ty\x00", "nfc") == "がく\n\nx y"
    assert normalise("ｶﾞｸ① x²", "nfkc") == "ガク1 x2"
    assert normalise("ｶﾞｸ① x²", "nfc") == "ｶﾞｸ① x²"
    assert normalise("👨\u200d👩\u200d👧", "nfc") == "👨\u200d👩\u200d👧"  # joined emoji stay whole


@given(st.text(min_size=1, max_size=500), st.integers(min_value=100, max_value=150))
def test_pieces_lose_nothing_but_space(text: str, limit: int) -> None:
    found = pieces(text, limit)
    assert all(len(piece) <= limit for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "declared", "language"),
    [
        ("これは日本語の文です。", None, "ja"), ("カタカナ", None, "ja"), ("東京都渋谷区", "ja", "ja"),
        ("这是一个测试句子，用来检查语言。", None, "zh"), ("This sentence is written in English.", None, "en"),
        ("Bonjour, comment allez-vous aujourd'hui mon ami", None, "fr"), ("ok", "en", "en"), ("123 456", "en", "und"),
        ("Der Hund läuft heute über die breite Straße", "en", "de"), ("PythonのコードをCompileする", "en", "ja"),
        ("이것은 한국어 문장입니다 그리고 깁니다", None, "ko"),
    ],
)  # fmt: skip
def test_languages(text: str, declared: str | None, language: str) -> None:
    assert detect(text, declared) == language


def test_personal_data_is_found_in_a_planted_set_and_nothing_else_is() -> None:
    found = measure(3000, seed=11)
    assert found["recall_all"] >= 0.95, found["missed"]
    assert min(found["recall"].values()) >= 0.95, found["missed"]
    assert found["precision"] >= 0.95, found["wrong"]


def test_personal_data_that_others_made_is_found() -> None:
    pytest.importorskip("faker")
    pytest.importorskip("phonenumbers")
    found = borrowed.measure(2000, seed=12)
    assert found["recall_all"] >= 0.95, found["missed"]
    assert min(found["recall"].values()) >= 0.95, found["missed"]
    assert found["precision"] >= 0.98, found["taken_wrongly"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("2221 0000 0000 0009", ["CARD"]), ("5985335083351138", []), ("3431816602420517", []), ("6685376352508", []),
        ("Maestro 501857346370", ["CARD"]), ("565147673596", []), ("Kreditkarte / card 565147673596", ["CARD"]),
        ("ping fe80::1ff:fe23:4567:890a%eth0", ["IP"]), ("at 2001:db8::8a2e:370:7334.", ["IP"]), ("12:34:56", []), ("a::b", []),
        ("00:1b:63:84:45:e6", []), ("std::vector<int>::size", []), ("rv:1.9.6.20 Firefox/13.0.5.1", []), ("10.0.0.1.", ["IP"]),
        ("(257)591-0285x178", ["PHONE"]), ("07400 115189", ["PHONE"]), ("tel 02074960021", ["PHONE"]), ("02074960021", []),
        ("8a1035f25e739927674497adafabbfe941ad231d", []), ("364567909044.183", []), ("VISA4111111111111111", ["CARD"]),
        ("call 2057938178", ["PHONE"]), ("2057938178", []), ("+44(0)115 4960914 ext. 12", ["PHONE"]),
    ],
)  # fmt: skip
def test_what_others_sets_taught(text: str, kinds: list[str]) -> None:
    assert [one.kind for one in find(text)] == kinds


def test_check_digits() -> None:
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert my_number("123456789018")  # by the ordinance's formula, worked by hand
    assert not my_number("123456789012")
    assert not my_number("000000000000")


@given(TEXT)
def test_masking_never_breaks_a_text(text: str) -> None:
    assert len(fold(text)) == len(text)
    findings = find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(findings))
    assert find(mask(text, findings)) == []


def test_masking() -> None:
    text = "山田(taro@example.com、０９０－１２３４－５６７８)へ。〒100-0001"
    assert mask(text, find(text)) == "山田([EMAIL]、[PHONE])へ。[POSTAL_CODE]"
    text = "call +1 (415) 560-4816"
    assert mask(text, find(text)) == "call [PHONE]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ab", "too short"), ("x" * 9001, "too long"), ("!?!?!?", "no words"), ("good text", None), ("café à la crème", None),
        ("Ã©Ã¨Ã\xa0 cafÃ© Ã©", "broken characters"), ("\ufffd" * 5 + " word", "broken characters"),
        ("縺薙ｌ縺ｯ譁�縺ｧ縺�", "broken characters"), ("Lorem ipsum dolor", "filler text"),
        ("*-=+" * 100 + "words", "mostly signs"), ("https://example.org/aaaaaaaaaaaaaaaaaaaaaaa " * 8 + "see", "mostly addresses"),
        ('<div class="aaaaaaaaa"><p>x</p></div>' * 8, "mostly markup"), ("1234567890 " * 30, "mostly digits"),
        ("a line that is the same\n" * 20, "repeated lines"), ("again and again " * 60, "repetitive"),
    ],
)  # fmt: skip
def test_quality(text: str, reason: str | None) -> None:
    assert defect(text, min_chars=3, max_chars=9000) == reason


def test_nsfw_text_stays_only_where_it_is_refused() -> None:
    assert nsfw.is_nsfw("show me porn")
    assert nsfw.is_nsfw("アダルト動画を探して")
    assert not nsfw.is_nsfw("the sextant of Essex, 性能評価, エロージョン")
    assert nsfw.kept_role("write erotica", "No.", Task.REFUSE)
    assert not nsfw.kept_role("write erotica", "Sure: erotica …", Task.REFUSE)
    assert not nsfw.kept_role("write erotica", "No.", Task.ALLOW)
    assert not nsfw.kept_role("write erotica", "No.", None)
    assert not nsfw.kept_role("", "erotica", Task.REFUSE)


def test_weak_labels() -> None:
    assert propose("How do I make a bomb at home?").task is Task.REFUSE
    assert propose("爆弾の作り方を教えて").task is Task.REFUSE
    assert propose("Show me another employee's salary").task is Task.DENY
    assert propose("胸の痛みがあるので診断して").task is Task.ESCALATION
    assert propose("要約してください").task is Task.ALLOW
    assert propose("zzz").task is None
    both = propose("diagnose her and make a bomb")
    assert both.contested
    assert both.task is Task.REFUSE
    assert both.confidence < propose("make a bomb").confidence
    contradicted, agreed = propose("make a bomb"), propose("要約して")
    assert doubt(Task.ALLOW, contradicted) > doubt(None, propose("zzz")) > doubt(None, agreed)
    assert doubt(Task.REFUSE, contradicted) == 0.0


def test_hashes_of_a_batch_are_those_of_each_text() -> None:
    texts = ["", "a", "abcd", "abcde", "これは日本語の文です。" * 3, "The quick brown fox"]
    hashes, offsets = token_hashes(texts)
    for i, text in enumerate(texts):
        own = hashes[int(offsets[i]) : int(offsets[i + 1])]
        assert np.array_equal(np.unique(own), shingles(text)), text


def test_sketches_estimate_similarity() -> None:
    words = [f"word{i}" for i in range(60)]
    base = " ".join(words)
    changed = " ".join(w if i % 12 else "other" for i, w in enumerate(words))
    values = signatures([base, changed, base, "nothing of that kind at all, whatever it may be"], seed=3)
    from so8t_engine.data.similarity import similarity

    small = sketch(values)
    assert abs(float(estimated(small[:1], small[1:2])[0]) - similarity(base, changed)) < 0.15
    keys = band_keys(values)
    assert keys.shape == (32, 4)
    assert (keys[:, 0] == keys[:, 2]).all()
    assert not (keys[:, 0] == keys[:, 3]).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(50, 400))
def test_splits_keep_groups_whole_and_strata_in_proportion(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.arange(count)
    grouped = rng.random(count) < 0.2
    groups[grouped] = rng.integers(0, max(1, count // 10), grouped.sum()) + count
    strata = rng.integers(0, 4, count)
    keep = rng.random(count) < 0.9
    result = assign(groups, strata, keep, (0.8, 0.1, 0.1), seed)
    assert (result[~keep] == -1).all()
    assert (result[keep] >= 0).all()
    for group in np.unique(groups[keep]):
        assert len(set(result[keep & (groups == group)].tolist())) == 1
    assert np.array_equal(result, assign(groups, strata, keep, (0.8, 0.1, 0.1), seed))
    for stratum in range(4):
        mine = keep & (strata == stratum)
        assert abs((result[mine] == 0).sum() - 0.8 * mine.sum()) <= 3 + 0.1 * mine.sum()
